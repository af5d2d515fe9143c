//! Claiming: one loop for idle slots, one that claims a batch ahead while all are busy. They run beside each other, so that the
//! long poll of the second never keeps an idle slot waiting.

use super::{Agent, Backoff};
use crate::client::ClientError;
use crate::tasks::{Runner, Work, into_batches, share_a_pass};
use protocol::claim::{Claim, Claimed, Never};
use protocol::error::RefusalCode;
use protocol::ids::{ConditionId, Fence, JobId};
use protocol::job::Condition;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long the coordinator may hold a claim open while there is nothing to do.
const LONG_POLL: Duration = Duration::from_secs(20);

/// Why there are no more claims.
#[derive(Debug)]
pub enum Ended {
    /// The worker drains.
    Closed,
    /// The coordinator has nothing for this worker, ever.
    Never(Never),
    /// Another database has taken the place of the one where the worker registered.
    Forgotten,
    Refused(ClientError),
}

/// Claims until the worker drains, or there is no point in going on.
pub async fn keep_claiming(agent: Arc<Agent>, ahead: bool) -> Ended {
    let mut backoff = Backoff::default();
    while let Some(batches) = agent.ready.wanted(ahead).await {
        let loaded = agent.seen.loaded(&*agent.runner);
        let batch = loaded.first().map_or(agent.batch as usize, |(_, condition)| agent.runner.batch(condition));
        let claim = Claim {
            worker: agent.worker,
            max: u32::try_from(batches.saturating_mul(batch)).unwrap_or(u32::MAX),
            wait_ms: LONG_POLL.as_millis() as u64,
            loaded: loaded.into_iter().map(|(id, _)| id).collect(),
            ahead,
            batch: u32::try_from(batch).ok(),
            remaining_ms: agent.deadline.map(|deadline| deadline.left().as_millis() as u64),
        };
        match agent.client.claim(&claim).await {
            Ok(mut claimed) => {
                backoff = Backoff::default();
                let never = claimed.never.take();
                agent.accept(claimed).await;
                if let Some(never) = never {
                    return Ended::Never(never);
                }
            }
            Err(error) if error.is_passing() => {
                backoff.report(&error, "waiting for the coordinator");
                tokio::select! {
                    () = backoff.pause() => {}
                    () = agent.ready.closed() => {}
                }
            }
            Err(error) if error.code() == Some(RefusalCode::UnknownWorker) => return Ended::Forgotten,
            Err(error) => return Ended::Refused(error),
        }
    }
    Ended::Closed
}

impl Agent {
    /// Puts claimed jobs where the slots find them; gives them back if the worker drains by now.
    async fn accept(&self, claimed: Claimed) {
        let conditions: HashMap<_, _> =
            claimed.conditions.into_iter().map(|known| (known.id, (known.key, Arc::new(known.spec)))).collect();
        let mut jobs = Vec::new();
        for job in claimed.jobs {
            let Some((key, condition)) = conditions.get(&job.condition) else {
                tracing::error!(job = %job.job, "the coordinator sent a job without its condition; ignored");
                continue;
            };
            self.seen.note(job.condition, condition.clone());
            let control = self.held.insert(job.job, job.fence);
            if condition.out(job.seed).is_some() {
                control.keep();
            }
            jobs.push(Work { job, key: key.clone(), condition: condition.clone(), image: None, control });
        }
        if let Err(batches) = self.ready.push(into_batches(jobs, &*self.runner)) {
            self.release(attempts(batches)).await;
        }
    }
}

/// Which jobs, under which claims.
pub fn attempts(batches: Vec<Vec<Work>>) -> Vec<(JobId, Fence)> {
    batches.into_iter().flatten().map(|work| (work.job.job, work.job.fence)).collect()
}

/// Conditions seen so far, the one seen last at the end.
#[derive(Debug, Default)]
pub struct Seen(Mutex<Vec<(ConditionId, Arc<Condition>)>>);

impl Seen {
    /// Those whose models are in memory, best first: the one seen last, then those whose jobs fill up a batch of its jobs.
    fn loaded(&self, runner: &dyn Runner) -> Vec<(ConditionId, Arc<Condition>)> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = seen.iter().rev().filter(|(_, condition)| runner.is_loaded(condition));
        let (mut first, others): (Vec<_>, Vec<_>) = match loaded.clone().next() {
            Some((_, last)) => loaded.cloned().partition(|(_, condition)| share_a_pass(last, condition)),
            None => return Vec::new(),
        };
        first.extend(others);
        first
    }

    fn note(&self, id: ConditionId, condition: Arc<Condition>) {
        /// Enough for affinity; a worker rarely serves more conditions in a row.
        const REMEMBERED: usize = 64;
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.retain(|(known, _)| *known != id);
        if seen.len() == REMEMBERED {
            seen.remove(0);
        }
        seen.push((id, condition));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::{Computed, TaskError};
    use protocol::job::{Out, PrepareCondition, PrepareSettings, SimulateCondition};

    /// Has the models of every condition.
    struct AllLoaded;

    impl Runner for AllLoaded {
        fn run(&self, _: &[Work]) -> Vec<Result<Computed, TaskError>> {
            Vec::new()
        }

        fn is_loaded(&self, _: &Condition) -> bool {
            true
        }

        fn batch(&self, _: &Condition) -> usize {
            4
        }
    }

    #[test]
    fn jobs_that_fill_up_a_batch_of_what_ran_last_are_asked_for_first() {
        let simulate = Condition::Simulate(SimulateCondition {
            subject: "sim01".to_owned(),
            region: "A".to_owned(),
            seconds: 1.0,
            spread: 0.0,
            fail: Default::default(),
            bytes: 0,
        });
        let prepare = Condition::Prepare(Box::new(PrepareCondition {
            subject: "subj01".to_owned(),
            settings: PrepareSettings::default(),
            files: Default::default(),
            out: Out::new("/data/subj01".into()),
        }));
        let seen = Seen::default();
        for (id, condition) in [(1, &simulate), (2, &prepare), (3, &simulate), (4, &prepare), (5, &simulate)] {
            seen.note(ConditionId(id), Arc::new(condition.clone()));
        }
        let loaded = seen.loaded(&AllLoaded);
        assert_eq!(loaded.iter().map(|(id, _)| id.0).collect::<Vec<_>>(), [5, 3, 1, 4, 2]);
    }
}
