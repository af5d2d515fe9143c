//! Waiting longer and longer, with jitter, so that a hundred workers do not return in the same millisecond.

use crate::chain::chain;
use std::error::Error;
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(30);

/// Exponential back-off with jitter: between half of a ceiling and all of it.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Says once that something is in the way; repeats stay quiet.
    pub fn report(&mut self, error: &dyn Error, what: &str) {
        if self.failures == 0 {
            tracing::warn!("{}; {what}", chain(error));
        }
    }

    /// Waits, longer each time.
    pub async fn pause(&mut self) {
        tokio::time::sleep(self.step()).await;
    }

    /// How long to wait this time.
    pub fn step(&mut self) -> Duration {
        let ceiling = Self::ceiling(self.failures);
        self.failures += 1;
        ceiling.mul_f64(rand::random_range(0.5..1.0))
    }

    fn ceiling(failures: u32) -> Duration {
        FIRST.saturating_mul(1 << failures.min(16)).min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_bounded() {
        let ceilings: Vec<_> = (0..40).map(Backoff::ceiling).collect();
        assert_eq!(ceilings[0], FIRST);
        assert!(ceilings.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(ceilings[39], LONGEST);
    }

    /// When each of `workers` that lost the coordinator at time 0 knocks for the first time after `back`, sorted.
    fn returns(workers: usize, back: Duration) -> Vec<Duration> {
        let mut times: Vec<Duration> = (0..workers)
            .map(|_| {
                let mut backoff = Backoff::default();
                let mut now = Duration::ZERO;
                while now < back {
                    now += backoff.step();
                }
                now
            })
            .collect();
        times.sort();
        times
    }

    #[test]
    fn a_hundred_workers_do_not_come_back_in_step() {
        for (outage, within) in [(2, 1), (60, 10), (30 * 60, 10)] {
            let times = returns(100, Duration::from_secs(outage));
            let spread = times[99] - times[0];
            assert!(spread > Duration::from_secs(within), "after {outage} s they all come within {spread:?}");
            let crowd = |from: &Duration| {
                times.iter().filter(|time| *from <= **time && **time < *from + Duration::from_secs(within) / 10).count()
            };
            let crowd = times.iter().map(crowd).max().unwrap_or(0);
            assert!(crowd < 50, "after {outage} s {crowd} of them come together");
        }
    }
}
