//! The agent: registers, claims, hands jobs to the task runner, delivers what comes out, renews leases, drains.
//!
//! Sampling happens on blocking threads, one per slot. A slot is free again as soon as its computation ends: delivering a
//! result runs beside the next job. The heartbeat starts before the first claim and ends after the last delivery.

mod backoff;
mod deliver;
mod heartbeat;
mod held;
mod signals;

pub use backoff::Backoff;
pub use held::{Control, HeldJobs};
pub use signals::Signals;

use crate::chain::chain;
use crate::client::{Client, ClientError};
use crate::tasks::{Runner, TaskError};
use heartbeat::Heart;
use protocol::claim::{Claim, ClaimedJob, Register, Registered};
use protocol::error::RefusalCode;
use protocol::heartbeat::{Activity, Release};
use protocol::ids::{ConditionId, WorkerId};
use protocol::job::Condition;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// How long the coordinator may hold a claim open while there is nothing to do.
const LONG_POLL: Duration = Duration::from_secs(20);

/// What a worker is, beside the tasks that it can run.
#[derive(Debug, Clone)]
pub struct Identity {
    pub name: String,
    pub host: String,
    pub device: String,
    pub device_name: String,
    /// How many jobs run at a time.
    pub slots: u32,
}

/// Why a worker ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("cannot register with the coordinator")]
    Register(#[source] ClientError),
    #[error("the coordinator does not know this worker any more: its database was replaced; start the worker again")]
    Forgotten,
    #[error("cannot go on claiming jobs")]
    Claim(#[source] ClientError),
    #[error("stopped by a second signal; {released} jobs were given back")]
    Interrupted { released: usize },
}

/// Runs until a signal asks to drain. A second signal gives everything back and returns at once.
pub async fn run(
    client: Client,
    identity: Identity,
    runner: Arc<dyn Runner>,
    mut signals: Signals,
) -> Result<(), AgentError> {
    let Some(registered) = register(&client, &identity, &mut signals).await? else { return Ok(()) };
    let worker = registered.worker;
    tracing::info!(%worker, name = identity.name, url = client.url(), "registered");
    let held = HeldJobs::default();
    let heart = Heart::start(client.clone(), worker, Duration::from_millis(registered.heartbeat_ms), held.clone());

    let agent = Agent { client, worker, runner, held, conditions: Mutex::default() };
    let agent = Arc::new(agent);
    let mut deliveries = JoinSet::new();
    let claimed = agent.work(identity.slots, &mut signals, &mut deliveries).await;

    heart.set(Activity::Draining);
    tracing::info!(running = deliveries.len(), "draining");
    let interrupted = tokio::select! {
        () = async { while deliveries.join_next().await.is_some() {} } => false,
        () = signals.asked() => true,
    };
    let released = if interrupted { agent.give_back().await } else { 0 };
    heart.stop().await;
    claimed?;
    if interrupted { Err(AgentError::Interrupted { released }) } else { Ok(()) }
}

/// Registers, waiting for a coordinator that is not there yet; `None` when asked to stop before it came.
async fn register(
    client: &Client,
    identity: &Identity,
    signals: &mut Signals,
) -> Result<Option<Registered>, AgentError> {
    let body = Register {
        api_version: protocol::version::API_VERSION,
        name: identity.name.clone(),
        host: identity.host.clone(),
        pid: std::process::id(),
        device: identity.device.clone(),
        device_name: identity.device_name.clone(),
        slots: identity.slots,
        software: protocol::version::SOFTWARE.to_owned(),
    };
    let mut backoff = Backoff::default();
    loop {
        let error = tokio::select! {
            answer = client.register(&body) => match answer {
                Ok(registered) => return Ok(Some(registered)),
                Err(error) => error,
            },
            () = signals.asked() => return Ok(None),
        };
        if !error.is_passing() {
            return Err(AgentError::Register(error));
        }
        backoff.report(&error, "waiting for the coordinator");
        tokio::select! {
            () = backoff.pause() => {}
            () = signals.asked() => return Ok(None),
        }
    }
}

struct Agent {
    client: Client,
    worker: WorkerId,
    runner: Arc<dyn Runner>,
    held: HeldJobs,
    /// Conditions seen so far, the one used last at the end.
    conditions: Mutex<Vec<(ConditionId, Arc<Condition>)>>,
}

impl Agent {
    /// Claims and runs jobs until asked to stop.
    async fn work(
        self: &Arc<Self>,
        slots: u32,
        signals: &mut Signals,
        deliveries: &mut JoinSet<()>,
    ) -> Result<(), AgentError> {
        let free = Arc::new(Semaphore::new(slots as usize));
        let mut backoff = Backoff::default();
        loop {
            let first = tokio::select! {
                slot = free.clone().acquire_owned() => slot,
                () = signals.asked() => return Ok(()),
            };
            // The semaphore is never closed.
            let Ok(first) = first else { return Ok(()) };
            let mut permits = vec![first];
            while let Ok(slot) = free.clone().try_acquire_owned() {
                permits.push(slot);
            }
            let claim = Claim {
                worker: self.worker,
                max: permits.len() as u32,
                wait_ms: LONG_POLL.as_millis() as u64,
                loaded: self.loaded(),
            };
            // A claim that is dropped half-way holds nothing for long: the heartbeat renews only what stands in `held`.
            let answer = tokio::select! {
                answer = self.client.claim(&claim) => answer,
                () = signals.asked() => return Ok(()),
            };
            let claimed = match answer {
                Ok(claimed) => claimed,
                Err(error) if error.is_passing() => {
                    backoff.report(&error, "waiting for the coordinator");
                    tokio::select! {
                        () = backoff.pause() => continue,
                        () = signals.asked() => return Ok(()),
                    }
                }
                Err(error) if error.code() == Some(RefusalCode::UnknownWorker) => return Err(AgentError::Forgotten),
                Err(error) => return Err(AgentError::Claim(error)),
            };
            backoff = Backoff::default();
            let conditions: HashMap<_, _> =
                claimed.conditions.into_iter().map(|(id, condition)| (id, Arc::new(condition))).collect();
            for job in claimed.jobs {
                let (Some(condition), Some(permit)) = (conditions.get(&job.condition), permits.pop()) else {
                    tracing::error!(job = %job.job, "the coordinator sent a job without its condition, or too many; ignored");
                    continue;
                };
                self.remember(job.condition, condition.clone());
                let control = self.held.insert(job.job, job.fence);
                let (agent, condition) = (self.clone(), condition.clone());
                deliveries.spawn(async move { agent.run_and_deliver(job, condition, control, permit).await });
            }
            while deliveries.try_join_next().is_some() {}
        }
    }

    async fn run_and_deliver(
        self: Arc<Self>,
        job: ClaimedJob,
        condition: Arc<Condition>,
        control: Arc<Control>,
        permit: tokio::sync::OwnedSemaphorePermit,
    ) {
        tracing::info!(job = %job.job, seed = %job.seed, attempt = job.attempt, "started");
        let runner = self.runner.clone();
        let (claimed, watched) = (job.clone(), control.clone());
        let outcome = tokio::task::spawn_blocking(move || runner.run(&condition, &claimed, &watched)).await;
        drop(permit);
        let outcome = outcome.unwrap_or_else(|panic| Err(TaskError::from_panic(panic)));
        deliver::deliver(&self.client, self.worker, &job, outcome, &control).await;
        self.held.remove(job.job, job.fence);
    }

    /// Stops every running job and returns its lease.
    async fn give_back(&self) -> usize {
        let jobs = self.held.stop_all();
        if jobs.is_empty() {
            return 0;
        }
        match self.client.release(&Release { worker: self.worker, jobs }).await {
            Ok(released) => released.len(),
            Err(error) => {
                tracing::warn!("could not give the jobs back; their leases will run out: {}", chain(&error));
                0
            }
        }
    }

    fn loaded(&self) -> Vec<ConditionId> {
        let conditions = self.conditions.lock().unwrap_or_else(PoisonError::into_inner);
        conditions.iter().rev().filter(|(_, c)| self.runner.is_loaded(c)).map(|(id, _)| *id).collect()
    }

    fn remember(&self, id: ConditionId, condition: Arc<Condition>) {
        /// Enough for affinity; a worker rarely serves more conditions in a row.
        const REMEMBERED: usize = 64;
        let mut conditions = self.conditions.lock().unwrap_or_else(PoisonError::into_inner);
        conditions.retain(|(known, _)| *known != id);
        if conditions.len() == REMEMBERED {
            conditions.remove(0);
        }
        conditions.push((id, condition));
    }
}
