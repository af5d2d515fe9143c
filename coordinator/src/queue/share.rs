//! Whose turn it is: fair shares of the workers' time between experiments of one priority, in GPU-seconds.
//!
//! Every experiment has a virtual time: the GPU-seconds that it was charged, divided by its share. Among experiments of the highest
//! priority that have a job for the worker, the one with the least virtual time is served, so that over time each gets GPU-seconds in
//! proportion to its share, whatever its jobs take. A claim charges what jobs of the experiment took lately; when the
//! attempt ends, the charge is put right. This is weighted fair queueing, which gives the shares of a deficit round robin without a round.
//!
//! An experiment that wakes up (submitted, retried, resumed, moved to another priority) starts where the others stand, so that
//! time in which it wanted nothing gives it no claim on the future.

/// Weight of the newest job in what a claim charges in advance.
const NEWEST: f64 = 0.1;

/// Where an experiment with `virtual_time` goes on after it had nothing to do, beside others of its priority that have.
pub fn wake(virtual_time: f64, others: Option<f64>) -> f64 {
    others.map_or(virtual_time, |least| virtual_time.max(least))
}

/// What a claim of the experiment's next job will charge in advance, after one took `device_s`, seconds.
pub fn expect(cost_s: f64, device_s: f64) -> f64 {
    cost_s + NEWEST * (device_s - cost_s)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Experiment {
        share: f64,
        job_s: f64,
        virtual_time: f64,
        cost_s: f64,
        used_s: f64,
    }

    /// Serves `jobs` jobs on `workers` workers that take turns.
    fn serve(experiments: &mut [Experiment], workers: usize, jobs: usize) {
        let mut running: Vec<(usize, f64)> = Vec::new();
        for _ in 0..jobs {
            let least = |(_, a): &(usize, &Experiment), (_, b): &(usize, &Experiment)| {
                a.virtual_time.total_cmp(&b.virtual_time)
            };
            let (at, _) = experiments.iter().enumerate().min_by(least).expect("an experiment");
            let expected = experiments[at].cost_s;
            experiments[at].virtual_time += expected / experiments[at].share;
            running.push((at, expected));
            if running.len() == workers {
                let (at, expected) = running.remove(0);
                let done = &mut experiments[at];
                done.virtual_time += (done.job_s - expected) / done.share;
                done.cost_s = expect(done.cost_s, done.job_s);
                done.used_s += done.job_s;
            }
        }
    }

    fn experiment(share: f64, job_s: f64) -> Experiment {
        Experiment { share, job_s, virtual_time: 0.0, cost_s: 1.0, used_s: 0.0 }
    }

    #[test]
    fn device_time_is_shared_by_weight_however_long_jobs_are() {
        let mut experiments = [experiment(1.0, 2.0), experiment(1.0, 20.0), experiment(2.0, 7.0)];
        serve(&mut experiments, 8, 5_000);
        let total: f64 = experiments.iter().map(|e| e.used_s).sum();
        for e in &experiments {
            assert!((e.used_s / total - e.share / 4.0).abs() < 0.01, "share {}: {} of {total} s", e.share, e.used_s);
        }
    }

    #[test]
    fn an_experiment_that_comes_later_has_no_claim_on_the_past() {
        let mut experiments = vec![experiment(1.0, 5.0)];
        serve(&mut experiments, 1, 1_000);
        let late = Experiment { virtual_time: wake(0.0, Some(experiments[0].virtual_time)), ..experiment(1.0, 5.0) };
        experiments.push(late);
        let before = experiments[0].used_s;
        serve(&mut experiments, 1, 200);
        assert!((experiments[0].used_s - before - experiments[1].used_s).abs() <= 10.0);
        assert_eq!(wake(7.0, None), 7.0);
        assert_eq!(wake(7.0, Some(3.0)), 7.0, "one that is ahead stays ahead");
    }
}
