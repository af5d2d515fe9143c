//! The agent: registers, claims, hands jobs to the task runner, delivers what comes out, renews leases, drains.
//!
//! [`claim`] fills the queue [`ready`], [`slot`]s empty it, each batch on a blocking thread. A slot is free again as soon as its
//! batch needs the device no more: encoding and [`deliver`] run beside the next batch, from the [`spool`]. The [`heartbeat`] starts before the first claim
//! and ends after the last delivery; [`drain`] is the way out.

mod backoff;
mod busy;
mod claim;
mod deadline;
mod deliver;
mod drain;
mod fetch;
mod gaps;
mod heartbeat;
mod held;
mod ready;
mod register;
mod signals;
mod slot;
mod spool;

use backoff::Backoff;
use busy::Busy;
pub use deadline::Deadline;
use held::HeldJobs;
pub use signals::Signals;

use crate::chain::chain;
use crate::client::{Client, ClientError};
use crate::tasks::Runner;
use claim::{Ended, Seen, keep_claiming};
use deliver::Courier;
use drain::Drained;
use gaps::Gaps;
use heartbeat::Heart;
use protocol::claim::Never;
use protocol::ids::WorkerId;
use protocol::job::Precision;
use ready::Ready;
use signals::Request;
use spool::{Left, Spool};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::SetOnce;
use tokio::task::JoinSet;

/// What a worker is, beside the tasks that it can run.
#[derive(Debug, Clone)]
pub struct Identity {
    pub name: String,
    pub host: String,
    pub device: String,
    pub device_name: String,
    /// The driver's own name of the device, wherever it is plugged in; `None` for a CPU.
    pub device_uuid: Option<String>,
    /// What the device computes in.
    pub precisions: Vec<Precision>,
    /// How many batches run at a time.
    pub slots: u32,
    /// How many jobs a batch takes, as far as is known before the first.
    pub batch: u32,
}

/// How a worker works.
#[derive(Debug, Clone)]
pub struct Settings {
    pub identity: Identity,
    /// Folder where results lie until they are delivered; `None` keeps them in memory.
    pub spool: Option<PathBuf>,
    /// When the allocation ends, if it does.
    pub deadline: Option<Deadline>,
    /// How long a worker that drains waits for a coordinator that does not answer.
    pub grace: Duration,
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
    #[error(
        "this device is quarantined and gets no more jobs: {reason}; have it looked at, then release it: `coordinator workers` \
         shows its key, `coordinator release-device KEY` lets it work again"
    )]
    Quarantined { reason: String },
    #[error(
        "the device failed, and this process can compute nothing more on it: {fault}; the job was reported, which quarantines the device, and all \
         others were given back. Have it looked at, release it with `coordinator release-device KEY`, then start the worker again"
    )]
    DeviceFault { fault: String },
}

/// What claims, slots and deliveries share.
struct Agent {
    client: Client,
    worker: WorkerId,
    runner: Arc<dyn Runner>,
    held: HeldJobs,
    ready: Ready,
    courier: Courier,
    gaps: Gaps,
    busy: Busy,
    slots: u32,
    seen: Seen,
    /// How many jobs a batch takes before any was claimed.
    batch: u32,
    deadline: Option<Deadline>,
    /// How the device failed, once it has.
    fault: SetOnce<String>,
}

/// Runs until a signal asks to drain, the allocation ends, or the device fails. A second signal gives everything back and returns at once.
pub async fn run(
    client: Client,
    settings: Settings,
    runner: Arc<dyn Runner>,
    mut signals: Signals,
) -> Result<(), AgentError> {
    let identity = &settings.identity;
    let Some(registered) = register::register(&client, &settings, &mut signals).await? else { return Ok(()) };
    let worker = registered.worker;
    tracing::info!(%worker, name = identity.name, url = client.url(), "registered");
    let held = HeldJobs::default();
    let heart = Heart::start(client.clone(), worker, Duration::from_millis(registered.heartbeat_ms), held.clone());

    let (spool, left) = open_spool(&settings, &client);
    let courier = Courier::new(client.clone(), spool);
    let agent = Arc::new(Agent {
        worker,
        runner,
        held,
        ready: Ready::new(identity.slots as usize),
        gaps: Gaps::default(),
        busy: Busy::default(),
        slots: identity.slots,
        seen: Seen::default(),
        batch: identity.batch,
        deadline: settings.deadline,
        fault: SetOnce::new(),
        courier: courier.clone(),
        client,
    });
    let mut tasks = JoinSet::new();
    for (ending, kept) in left.entries {
        let courier = courier.clone();
        tasks.spawn(async move { courier.deliver_left(ending, kept).await });
    }
    for _ in 0..identity.slots {
        tasks.spawn(slot::serve(agent.clone()));
    }
    let mut claims = JoinSet::from_iter([false, true].map(|ahead| keep_claiming(agent.clone(), ahead)));

    let ended = agent.work(&mut claims, &mut signals).await;
    // A claim that is answered from now on is given back; those still open when the worker leaves get nothing.
    let drained = agent.drain(&mut tasks, &heart, settings.grace, &mut signals).await;
    let interrupted = match drained {
        Drained::Ended => None,
        Drained::Interrupted => {
            let released = agent.release(agent.held.stop_where(|_| true)).await;
            Some(AgentError::Interrupted { released })
        }
    };
    tracing::info!("{}; {}", agent.busy, agent.gaps);
    heart.stop().await;
    ended.and(interrupted.map_or(Ok(()), Err))
}

/// Opens the spool and takes over what dead workers left. One that cannot be used is done without.
fn open_spool(settings: &Settings, client: &Client) -> (Option<Spool>, Left) {
    let Some(root) = &settings.spool else { return (None, Left::default()) };
    let name = format!("{}-{}", settings.identity.host, std::process::id());
    let (spool, left) = match Spool::open(root, &name, spool::campaign(client.token())) {
        Ok(opened) => opened,
        Err(error) => {
            tracing::warn!("{}; results that wait for the coordinator are kept in memory", chain(&error));
            return (None, Left::default());
        }
    };
    if !left.entries.is_empty() {
        tracing::info!(results = left.entries.len(), "delivering what an earlier worker left in the spool");
    }
    if left.foreign > 0 {
        tracing::warn!(results = left.foreign, "results of another campaign or version stay in {}", root.display());
    }
    (Some(spool), left)
}

impl Agent {
    /// Returns when it is time to drain; an error if nobody asked for it.
    async fn work(&self, claims: &mut JoinSet<Ended>, signals: &mut Signals) -> Result<(), AgentError> {
        let last_call = deadline::last_call(self.deadline);
        tokio::pin!(last_call);
        loop {
            let ended = tokio::select! {
                request = signals.next() => match request {
                    Request::Drain => return Ok(()),
                    Request::Report => {
                        tracing::info!("{}; {}", self.busy, self.gaps);
                        continue;
                    }
                },
                () = &mut last_call => {
                    tracing::info!("the allocation ends");
                    return Ok(());
                }
                fault = self.fault.wait() => return Err(AgentError::DeviceFault { fault: fault.clone() }),
                ended = claims.join_next() => ended,
            };
            return match ended {
                None | Some(Ok(Ended::Closed)) => Ok(()),
                Some(Ok(Ended::Never(Never::Deadline))) => {
                    tracing::info!("every job that waits would take longer than the allocation lasts; leaving");
                    Ok(())
                }
                Some(Ok(Ended::Never(Never::Quarantined(reason)))) => Err(AgentError::Quarantined { reason }),
                Some(Ok(Ended::Forgotten)) => Err(AgentError::Forgotten),
                Some(Ok(Ended::Refused(error))) => Err(AgentError::Claim(error)),
                Some(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
            };
        }
    }
}
