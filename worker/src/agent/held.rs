//! The jobs that this worker holds.

use crate::control::Control;
use protocol::heartbeat::Held;
use protocol::ids::{Fence, JobId};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// All jobs that the worker holds; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct HeldJobs(Arc<Mutex<Jobs>>);

type Jobs = BTreeMap<JobId, (Fence, Arc<Control>)>;

impl HeldJobs {
    /// Starts holding a job. A job that comes back under a larger fence replaces its former self, which is stopped.
    pub fn insert(&self, job: JobId, fence: Fence) -> Arc<Control> {
        let control = Arc::new(Control::default());
        if let Some((_, former)) = self.lock().insert(job, (fence, control.clone())) {
            former.stop();
        }
        control
    }

    /// Stops holding a job, unless it is held under another fence by now.
    pub fn remove(&self, job: JobId, fence: Fence) {
        let mut jobs = self.lock();
        if jobs.get(&job).is_some_and(|(held, _)| *held == fence) {
            jobs.remove(&job);
        }
    }

    /// What the next heartbeat renews: everything that was not told to stop.
    pub fn list(&self) -> Vec<Held> {
        self.lock()
            .iter()
            .filter(|(_, (_, control))| !control.is_stopped())
            .map(|(job, (fence, control))| Held {
                job: *job,
                fence: *fence,
                progress: control.progress(),
                computing_ms: u64::try_from(control.computing().as_millis()).unwrap_or(u64::MAX),
            })
            .collect()
    }

    /// Tells a job to stop, unless it is held under another fence by now. Whether it was still held.
    pub fn stop(&self, job: JobId, fence: Fence) -> bool {
        let jobs = self.lock();
        let held = jobs.get(&job).filter(|(held, _)| *held == fence);
        held.inspect(|(_, control)| control.stop()).is_some()
    }

    /// Tells those jobs to stop for which `which` holds, and lists them.
    pub fn stop_where(&self, which: impl Fn(&Control) -> bool) -> Vec<(JobId, Fence)> {
        let jobs = self.lock();
        let stopped = jobs.iter().filter(|(_, (_, control))| which(control));
        stopped.inspect(|(_, (_, control))| control.stop()).map(|(job, (fence, _))| (*job, *fence)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Jobs> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::heartbeat::Progress;

    #[test]
    fn a_job_that_was_told_to_stop_is_not_renewed() {
        let held = HeldJobs::default();
        let control = held.insert(JobId(1), Fence(1));
        held.insert(JobId(2), Fence(1));
        control.report(3, 50);
        assert_eq!(held.list()[0].progress, Progress { step: 3, steps: 50 });
        assert!(held.stop(JobId(1), Fence(1)));
        assert!(control.is_stopped());
        assert_eq!(held.list().iter().map(|h| h.job).collect::<Vec<_>>(), [JobId(2)]);
    }

    #[test]
    fn the_end_of_an_old_attempt_does_not_end_its_successor() {
        let held = HeldJobs::default();
        let old = held.insert(JobId(1), Fence(1));
        let new = held.insert(JobId(1), Fence(2));
        assert!(old.is_stopped() && !new.is_stopped());
        assert!(!held.stop(JobId(1), Fence(1)) && !new.is_stopped(), "a late word about the old attempt");
        held.remove(JobId(1), Fence(1));
        assert_eq!(held.list().len(), 1);
        held.remove(JobId(1), Fence(2));
        assert!(held.list().is_empty());
    }

    #[test]
    fn a_job_that_waits_is_renewed_and_has_taken_no_time() {
        let held = HeldJobs::default();
        let (running, _waiting) = (held.insert(JobId(1), Fence(1)), held.insert(JobId(2), Fence(1)));
        running.begin(1);
        while running.computing().as_millis() == 0 {}
        let times: Vec<_> = held.list().iter().map(|held| held.computing_ms).collect();
        assert!(times[0] > 0 && times[1] == 0, "{times:?}");
        assert_eq!(held.stop_where(|control| control.computing().is_zero()), [(JobId(2), Fence(1))]);
    }
}
