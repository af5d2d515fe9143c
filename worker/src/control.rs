//! How far a job is, and whether it should be dropped: what its task and the agent tell each other.

use protocol::heartbeat::Progress;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Shared by the thread that computes a job and the agent that watches it.
#[derive(Debug, Default)]
pub struct Control {
    step: AtomicU32,
    steps: AtomicU32,
    stopped: AtomicBool,
    kept: AtomicBool,
    began: OnceLock<Began>,
    /// The job's share, once it is known.
    computed: OnceLock<Duration>,
}

/// When a batch began, and how many jobs share it.
#[derive(Debug, Clone, Copy)]
struct Began {
    at: Instant,
    jobs: u32,
}

impl Began {
    fn share(self) -> Duration {
        self.at.elapsed() / self.jobs
    }
}

impl Control {
    /// Called by the task after each sampler step.
    pub fn report(&self, step: u32, steps: u32) {
        self.step.store(step, Ordering::Relaxed);
        self.steps.store(steps, Ordering::Relaxed);
    }

    /// Asks the task to end without a result.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    /// Whether the task should end without a result.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Says that the next attempt goes on where this one ends, in the folder that they make.
    pub fn keep(&self) {
        self.kept.store(true, Ordering::Relaxed);
    }

    /// Whether the next attempt goes on where this one ends.
    pub fn is_kept(&self) -> bool {
        self.kept.load(Ordering::Relaxed)
    }

    /// How far the task is.
    pub fn progress(&self) -> Progress {
        Progress { step: self.step.load(Ordering::Relaxed), steps: self.steps.load(Ordering::Relaxed) }
    }

    /// The job's batch begins; `jobs` share its slot.
    pub fn begin(&self, jobs: usize) {
        let jobs = u32::try_from(jobs).unwrap_or(u32::MAX).max(1);
        self.began.get_or_init(|| Began { at: Instant::now(), jobs });
    }

    /// The job's batch has ended.
    pub fn end(&self) {
        self.computed.get_or_init(|| self.began.get().map_or(Duration::ZERO, |began| began.share()));
    }

    /// The job's share of its slot's time so far; zero before it begins.
    pub fn computing(&self) -> Duration {
        let so_far = || self.began.get().map(|began| began.share());
        self.computed.get().copied().or_else(so_far).unwrap_or_default()
    }

    /// Whether the batch has ended, so that only the delivery is left.
    pub fn is_computed(&self) -> bool {
        self.computed.get().is_some()
    }

    /// How much longer the batch will run if its steps go on as they went; `None` before the first.
    pub fn rest(&self) -> Option<Duration> {
        let Progress { step, steps } = self.progress();
        let began = self.began.get().filter(|_| step > 0)?;
        Some(began.at.elapsed().mul_f64(f64::from(steps.saturating_sub(step)) / f64::from(step)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jobs_share_grows_while_its_batch_runs_and_then_stands() {
        let control = Control::default();
        assert_eq!((control.computing(), control.is_computed()), (Duration::ZERO, false));
        control.begin(4);
        let began = Instant::now();
        while control.computing() == Duration::ZERO {}
        control.end();
        let computed = control.computing();
        assert!(computed <= began.elapsed(), "a quarter of what passed: {computed:?}");
        control.end();
        assert_eq!((control.computing(), control.is_computed()), (computed, true));
    }

    #[test]
    fn a_job_that_never_began_has_computed_nothing() {
        let control = Control::default();
        control.end();
        assert_eq!(control.computing(), Duration::ZERO);
        assert_eq!(control.rest(), None);
    }

    #[test]
    fn what_is_left_follows_from_the_steps() {
        let control = Control::default();
        control.begin(1);
        assert_eq!(control.rest(), None, "no step yet");
        control.report(50, 50);
        assert_eq!(control.rest(), Some(Duration::ZERO));
        control.report(1, 50);
        let Began { at, .. } = *control.began.get().unwrap();
        let so_far = at.elapsed();
        assert!(control.rest() >= Some(so_far * 49));
    }
}
