//! How far a job is, and whether it should be dropped: what its task and the agent tell each other.

use protocol::heartbeat::Progress;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use tokio::sync::Notify;

/// Shared by the thread that computes a job and the agent that watches it.
#[derive(Debug, Default)]
pub struct Control {
    step: AtomicU32,
    steps: AtomicU32,
    stopped: AtomicBool,
    stop: Notify,
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
        self.stop.notify_waiters();
    }

    /// Whether the task should end without a result.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Returns when the task was asked to end.
    pub async fn until_stopped(&self) {
        let notified = self.stop.notified();
        tokio::pin!(notified);
        notified.as_mut().enable();
        if !self.is_stopped() {
            notified.await;
        }
    }

    /// How far the task is.
    pub fn progress(&self) -> Progress {
        Progress { step: self.step.load(Ordering::Relaxed), steps: self.steps.load(Ordering::Relaxed) }
    }
}
