//! Leaving: claim nothing more, give back what has not begun and what another worker goes on with where it ends here, finish the rest
//! unless the device failed, deliver it, stop the heartbeat last.

use super::claim::attempts;
use super::heartbeat::Heart;
use super::{Agent, Deadline, Signals, deadline};
use crate::chain::chain;
use crate::control::Control;
use protocol::heartbeat::{Activity, Release};
use protocol::ids::{Fence, JobId};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// How draining came to its end.
#[derive(Debug, PartialEq, Eq)]
pub enum Drained {
    /// Nothing is left to be done, or waits in the spool for the next worker.
    Ended,
    /// A second signal came.
    Interrupted,
}

impl Agent {
    /// Lets `tasks` (the slots and all deliveries) come to their ends, as far as deadline, grace and patience go. `grace`: how long
    /// to wait for a coordinator that does not answer, once nothing is computed any more.
    pub async fn drain(
        self: &Arc<Self>,
        tasks: &mut JoinSet<()>,
        heart: &Heart,
        grace: Duration,
        signals: &mut Signals,
    ) -> Drained {
        let mut back = attempts(self.ready.close());
        heart.set(Activity::Draining);
        let left = self.deadline.map(Deadline::left);
        let is_late = |job: &Control| left.zip(job.rest()).is_some_and(|(left, rest)| rest > left);
        let faulty = self.fault.initialized();
        back.extend(self.held.stop_where(|job| !job.is_computed() && (faulty || job.is_kept() || is_late(job))));
        // A folder that was not begun is in both.
        back.sort_unstable();
        back.dedup();
        tracing::info!(given_back = back.len(), "draining");
        self.release_beside(tasks, back);

        let last_call = deadline::last_call(self.deadline);
        let high_time = deadline::high_time(self.deadline);
        let away = async {
            self.ready.at_rest().await;
            loop {
                tokio::time::sleep(grace).await;
                if !heart.is_answered() {
                    return;
                }
            }
        };
        tokio::pin!(last_call, high_time, away);
        let mut called = false;
        loop {
            tokio::select! {
                ended = tasks.join_next() => if ended.is_none() { return Drained::Ended },
                () = signals.asked() => {
                    self.leave("stopped by a second signal");
                    return Drained::Interrupted;
                }
                () = &mut last_call, if !called => {
                    called = true;
                    let late = self.held.stop_where(|job| !job.is_computed());
                    if !late.is_empty() {
                        tracing::warn!(jobs = late.len(), "the allocation ends before these jobs do; giving them back");
                    }
                    self.release_beside(tasks, late);
                }
                () = &mut high_time => {
                    self.leave("the allocation ends");
                    return Drained::Ended;
                }
                () = &mut away => {
                    self.leave("the coordinator does not answer");
                    return Drained::Ended;
                }
            }
        }
    }

    /// Says what becomes of results that are not delivered.
    fn leave(&self, why: &str) {
        let (spooled, in_memory) = self.courier.undelivered();
        if let (Some(spool), 1..) = (self.courier.spool(), spooled) {
            let path = spool.path().display();
            tracing::warn!(
                "{why}; {spooled} results stay in the spool, {path}: the next worker with this --spool delivers them"
            );
        }
        if in_memory > 0 {
            tracing::error!(
                "{why}; {in_memory} results that the spool did not take are lost, and their jobs will run again"
            );
        }
    }

    fn release_beside(self: &Arc<Self>, tasks: &mut JoinSet<()>, jobs: Vec<(JobId, Fence)>) {
        let agent = self.clone();
        tasks.spawn(async move {
            agent.release(jobs).await;
        });
    }

    /// Returns the leases of jobs; how many were returned.
    pub async fn release(&self, jobs: Vec<(JobId, Fence)>) -> usize {
        if jobs.is_empty() {
            return 0;
        }
        for (job, fence) in &jobs {
            self.held.remove(*job, *fence);
        }
        match self.client.release(&Release { worker: self.worker, jobs }).await {
            Ok(released) => released.len(),
            Err(error) => {
                tracing::warn!("could not give jobs back; their leases will run out: {}", chain(&error));
                0
            }
        }
    }
}
