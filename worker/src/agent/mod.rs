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
pub use held::HeldJobs;
pub use signals::Signals;

use crate::chain::chain;
use crate::client::{Client, ClientError};
use crate::tasks::{Runner, TaskError, Work, into_batches};
use heartbeat::Heart;
use protocol::claim::{Claim, Register, Registered};
use protocol::error::RefusalCode;
use protocol::heartbeat::{Activity, Release};
use protocol::ids::{ConditionId, WorkerId};
use protocol::job::{Condition, Kind};
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
    /// How many batches run at a time.
    pub slots: u32,
    /// How many jobs a batch takes.
    pub batch: u32,
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
    let claimed = agent.work(&identity, &mut signals, &mut deliveries).await;

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
        device_uuid: None,
        slots: identity.slots,
        batch: identity.batch,
        kinds: Kind::ALL.to_vec(),
        remaining_ms: None,
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
        identity: &Identity,
        signals: &mut Signals,
        deliveries: &mut JoinSet<()>,
    ) -> Result<(), AgentError> {
        let free = Arc::new(Semaphore::new(identity.slots as usize));
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
                max: permits.len() as u32 * identity.batch,
                wait_ms: LONG_POLL.as_millis() as u64,
                loaded: self.loaded(),
                ahead: false,
                remaining_ms: None,
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
            let mut jobs = Vec::new();
            for job in claimed.jobs {
                let Some(condition) = conditions.get(&job.condition) else {
                    tracing::error!(job = %job.job, "the coordinator sent a job without its condition; ignored");
                    continue;
                };
                self.remember(job.condition, condition.clone());
                let control = self.held.insert(job.job, job.fence);
                jobs.push(Work { job, condition: condition.clone(), control });
            }
            for batch in into_batches(jobs, identity.batch as usize) {
                // Jobs that share no batch need more slots than there are: the rest waits for the first to end.
                let (agent, slot, free) = (self.clone(), permits.pop(), free.clone());
                deliveries.spawn(async move {
                    let slot = match slot {
                        Some(slot) => Ok(slot),
                        None => free.acquire_owned().await,
                    };
                    agent.run_and_deliver(batch, slot.ok()).await;
                });
            }
            while deliveries.try_join_next().is_some() {}
        }
    }

    async fn run_and_deliver(self: Arc<Self>, batch: Vec<Work>, slot: Option<tokio::sync::OwnedSemaphorePermit>) {
        for Work { job, .. } in &batch {
            tracing::info!(job = %job.job, seed = %job.seed, attempt = job.attempt, "started");
        }
        let (runner, batch) = (self.runner.clone(), Arc::new(batch));
        let running = batch.clone();
        let outcomes = tokio::task::spawn_blocking(move || runner.run(&running)).await;
        drop(slot);
        let outcomes = outcomes.unwrap_or_else(|panic| {
            let error = TaskError::from_panic(panic);
            batch.iter().map(|_| Err(error.clone())).collect()
        });
        let mut deliveries = JoinSet::new();
        for (Work { job, control, .. }, outcome) in batch.iter().cloned().zip(outcomes) {
            let agent = self.clone();
            deliveries.spawn(async move {
                deliver::deliver(&agent.client, agent.worker, &job, outcome, &control).await;
                agent.held.remove(job.job, job.fence);
            });
        }
        while deliveries.join_next().await.is_some() {}
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
