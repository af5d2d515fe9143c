//! The one task that writes: it takes what is waiting, runs it as one transaction, and answers after the commit.

use crate::artifacts::Artifacts;
use crate::artifacts::gc::CollectError;
use crate::plan::Plan;
use crate::queue::awake::Awake;
use crate::queue::clock::{Clock, Millis, millis};
use crate::queue::error::{OpenError, QueueError};
use crate::queue::open_database;
use crate::queue::owner::{self, Owner};
use crate::queue::request::{Adjust, Cancel, Changed, Preview, Retry, Served, Submitted};
use crate::queue::store::{Result, Store};
use protocol::claim::{Claim, Claimed, Register, Registered};
use protocol::heartbeat::{Heartbeat, HeartbeatReply, Release};
use protocol::ids::{Digest, JobId};
use protocol::outcome::{Closed, Completed, Failed};
use std::collections::HashMap;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// Commands that may wait for the writer; beyond that, senders wait.
const INBOX: usize = 1024;
/// Commands that share a commit at most.
const BATCH: usize = 256;
/// Longest long poll.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// How long a worker keeps what it claimed.
#[derive(Debug, Clone)]
pub struct Settings {
    /// A job that is not renewed for this long is given to somebody else.
    pub lease: Duration,
    /// How often workers are asked to renew.
    pub heartbeat: Duration,
    pub clock: Clock,
}

impl Default for Settings {
    fn default() -> Self {
        Self { lease: Duration::from_secs(60), heartbeat: Duration::from_secs(15), clock: Clock::System }
    }
}

/// A handle on the job table's writer. Every method returns after its commit; dropping a future does not undo its command.
#[derive(Debug, Clone)]
pub struct Queue {
    inbox: mpsc::Sender<Message>,
    changes: watch::Receiver<u64>,
    ready: watch::Receiver<u64>,
    stopping: CancellationToken,
    settings: Settings,
}

type Boxed<'s, T> = Pin<Box<dyn Future<Output = T> + Send + 's>>;
/// Sends a command's result once the fate of its transaction is known.
type Reply = Box<dyn FnOnce(Result<()>) + Send>;
/// Runs a command; says whether it succeeded, and how to answer.
type Command = Box<dyn for<'s> FnOnce(&'s mut Store) -> Boxed<'s, (bool, Reply)> + Send>;

enum Message {
    Command(Command),
    /// Finish what came before, checkpoint, and close the file.
    Close(oneshot::Sender<()>),
}

impl Queue {
    /// Opens the database at `path` and starts its writer.
    pub async fn open(path: &Path, settings: Settings) -> std::result::Result<Self, OpenError> {
        let connection = open_database(path).await?;
        let (inbox, messages) = mpsc::channel(INBOX);
        let (changes, ready) = (watch::Sender::new(0), watch::Sender::new(0));
        let queue = Self {
            inbox,
            changes: changes.subscribe(),
            ready: ready.subscribe(),
            stopping: CancellationToken::new(),
            settings: settings.clone(),
        };
        let store = Store {
            connection,
            clock: settings.clock,
            lease: millis(settings.lease),
            readied: false,
            specs: HashMap::new(),
        };
        tokio::spawn(Writer { store, messages, changes: Some(changes), ready, stopping: queue.stopping.clone() }.run());
        Ok(queue)
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// A number that grows with every commit that changed something. Its sender goes when claims stop, so that whoever
    /// watches a live feed does not hold up a stop.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    pub async fn submit(&self, plan: Plan) -> Result<Submitted> {
        self.run(|store| Box::pin(async move { store.submit(&plan).await })).await
    }

    pub async fn preview(&self, plan: Plan) -> Result<Preview> {
        self.run(|store| Box::pin(async move { store.preview(&plan).await })).await
    }

    pub async fn register(&self, worker: Register) -> Result<Registered> {
        let worker = self.run(|store| Box::pin(async move { store.register(&worker).await })).await?;
        Ok(Registered {
            worker,
            lease_ms: self.settings.lease.as_millis() as u64,
            heartbeat_ms: self.settings.heartbeat.as_millis() as u64,
        })
    }

    /// Hands out jobs, waiting up to `wait_ms` for the first: until one becomes ready, or a back-off ends.
    pub async fn claim(&self, claim: Claim) -> Result<Claimed> {
        let clock = &self.settings.clock;
        let wait = Duration::from_millis(claim.wait_ms).min(MAX_WAIT);
        let deadline: Millis = clock.now() + millis(wait);
        let mut ready = self.ready.clone();
        while !self.stopping.is_cancelled() {
            ready.mark_unchanged();
            let request = claim.clone();
            let handed = self.run(|store| Box::pin(async move { store.claim(&request).await })).await?;
            let Claimed { jobs, never, .. } = &handed.claimed;
            if !jobs.is_empty() || never.is_some() || claim.max == 0 || clock.now() >= deadline {
                return Ok(handed.claimed);
            }
            tokio::select! {
                changed = ready.changed() => if changed.is_err() { return Err(QueueError::Stopping) },
                () = clock.sleep_until(handed.next_ready.map_or(deadline, |time| time.min(deadline))) => {}
                () = self.stopping.cancelled() => {}
            }
        }
        Err(QueueError::Stopping)
    }

    pub async fn heartbeat(&self, beat: Heartbeat) -> Result<HeartbeatReply> {
        self.run(|store| Box::pin(async move { store.heartbeat(&beat).await })).await
    }

    pub async fn complete(&self, done: Completed) -> Result<Closed> {
        self.run(|store| Box::pin(async move { store.complete(&done).await })).await
    }

    pub async fn fail(&self, failed: Failed) -> Result<Closed> {
        self.run(|store| Box::pin(async move { store.fail(&failed).await })).await
    }

    /// Returns the jobs that the worker still held and that are ready again.
    pub async fn release(&self, release: Release) -> Result<Vec<JobId>> {
        self.run(|store| Box::pin(async move { store.release(&release).await })).await
    }

    pub async fn cancel(&self, cancel: Cancel) -> Result<Changed> {
        self.run(|store| Box::pin(async move { store.cancel(&cancel).await })).await
    }

    pub async fn retry(&self, retry: Retry) -> Result<Changed> {
        self.run(|store| Box::pin(async move { store.retry(&retry).await })).await
    }

    /// What [`Queue::cancel`] would change.
    pub async fn rehearse_cancel(&self, cancel: Cancel) -> Result<Changed> {
        self.run(|store| Box::pin(async move { store.rehearse_cancel(&cancel).await })).await
    }

    /// What [`Queue::retry`] would change.
    pub async fn rehearse_retry(&self, retry: Retry) -> Result<Changed> {
        self.run(|store| Box::pin(async move { store.rehearse_retry(&retry).await })).await
    }

    /// Changes how an experiment is served.
    pub async fn adjust(&self, adjust: Adjust) -> Result<Served> {
        self.run(|store| Box::pin(async move { store.adjust(&adjust).await })).await
    }

    /// Lets a quarantined device have jobs again; gives the reason of its quarantine.
    pub async fn release_device(&self, key: String) -> Result<String> {
        self.run(|store| Box::pin(async move { store.release_device(&key).await })).await
    }

    /// Deletes the rows of the files that no result names, and says which those are; in a dry run that alone.
    pub async fn forget_artifacts(&self, digests: Vec<Digest>, dry_run: bool) -> Result<Vec<Digest>> {
        self.run(move |store| Box::pin(async move { store.forget_artifacts(&digests, dry_run).await })).await
    }

    /// Removes files that have no row and are older than `grace`, in a turn of the writer: nobody records one meanwhile.
    pub async fn remove_forgotten(
        &self,
        digests: Vec<Digest>,
        artifacts: Artifacts,
        grace: Duration,
    ) -> Result<std::result::Result<Vec<Digest>, CollectError>> {
        self.run(move |store| {
            Box::pin(async move {
                let digests = store.without_row(digests).await?;
                let removed = tokio::task::spawn_blocking(move || artifacts.remove_old(digests, grace)).await;
                removed.map_err(|_| QueueError::Stopping)
            })
        })
        .await
    }

    /// Takes back the jobs whose leases have run out, and returns them.
    pub async fn expire(&self) -> Result<Vec<JobId>> {
        self.run(|store| Box::pin(store.expire())).await
    }

    /// Gives every running job a full lease: at the start of serving, and after time in which nobody could be heard.
    pub async fn renew_all_leases(&self) -> Result<()> {
        self.run(|store| Box::pin(store.renew_all_leases())).await
    }

    pub async fn record_artifact(&self, digest: Digest, bytes: u64) -> Result<()> {
        self.run(move |store| Box::pin(async move { store.record_artifact(&digest, bytes).await })).await
    }

    /// Becomes the owner of the database, unless another coordinator is alive.
    pub async fn acquire(&self, owner: Owner) -> std::result::Result<(), owner::AcquireError> {
        self.run(|store| Box::pin(async move { Ok(owner::acquire(&mut store.connection, &owner).await) })).await?
    }

    /// Says that the owner is still there.
    pub async fn renew_owner(&self, pid: u32) -> Result<()> {
        self.run(move |store| Box::pin(async move { Ok(owner::renew(&mut store.connection, pid).await?) })).await
    }

    /// Gives up the ownership that this process holds.
    pub async fn release_owner(&self, pid: u32) -> Result<()> {
        self.run(move |store| Box::pin(async move { Ok(owner::release(&mut store.connection, pid).await?) })).await
    }

    /// From now on claims are refused and waiting ones return; everything else goes on.
    pub fn stop_claims(&self) {
        self.stopping.cancel();
    }

    /// Answers what is waiting, checkpoints, and closes the file. Later calls fail with [`QueueError::Stopping`].
    pub async fn close(&self) {
        self.stop_claims();
        let (closed, wait) = oneshot::channel();
        if self.inbox.send(Message::Close(closed)).await.is_ok() {
            let _ = wait.await;
        }
    }

    async fn run<T, F>(&self, command: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'s> FnOnce(&'s mut Store) -> Boxed<'s, Result<T>> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let command: Command = Box::new(move |store| {
            Box::pin(async move {
                let result = command(store).await;
                let succeeded = result.is_ok();
                let reply: Reply = Box::new(move |commit| {
                    let _ = sender.send(commit.and(result));
                });
                (succeeded, reply)
            })
        });
        self.inbox.send(Message::Command(command)).await.map_err(|_| QueueError::Stopping)?;
        let dropped = |_| if self.inbox.is_closed() { QueueError::Stopping } else { QueueError::NotWritten };
        receiver.await.map_err(dropped)?
    }
}

struct Writer {
    store: Store,
    messages: mpsc::Receiver<Message>,
    /// Gone once the queue stops.
    changes: Option<watch::Sender<u64>>,
    ready: watch::Sender<u64>,
    stopping: CancellationToken,
}

impl Writer {
    async fn run(mut self) {
        let mut waiting = Vec::with_capacity(BATCH);
        let mut closed = Vec::new();
        while closed.is_empty() {
            tokio::select! {
                () = self.stopping.cancelled(), if self.changes.is_some() => self.changes = None,
                received = self.messages.recv_many(&mut waiting, BATCH) => if received == 0 { break },
            }
            let mut commands = Vec::with_capacity(waiting.len());
            for message in waiting.drain(..) {
                match message {
                    Message::Command(command) => commands.push(command),
                    Message::Close(done) => closed.push(done),
                }
            }
            self.commit(commands).await;
        }
        self.messages.close();
        if let Err(error) = self.store.execute("PRAGMA wal_checkpoint(TRUNCATE)").await {
            tracing::warn!(%error, "the write-ahead log stays beside the database; the next start takes it up");
        }
        let Self { store, .. } = self;
        let _ = sqlx::Connection::close(store.connection).await;
        for done in closed {
            let _ = done.send(());
        }
    }

    /// One transaction; a command that fails is rolled back to its savepoint and leaves the others alone.
    async fn commit(&mut self, commands: Vec<Command>) {
        if commands.is_empty() {
            return;
        }
        self.store.readied = false;
        let mut replies = Vec::with_capacity(commands.len());
        let outcome = Awake::new(self.transaction(commands, &mut replies)).await;
        if let Err(error) = &outcome {
            tracing::error!(%error, "a transaction on the job table failed; nothing of it was written");
            let _ = self.store.execute("ROLLBACK").await;
        }
        if let Ok(true) = outcome {
            if let Some(changes) = &self.changes {
                changes.send_modify(|version| *version += 1);
            }
            if self.store.readied {
                self.ready.send_modify(|version| *version += 1);
            }
        }
        for reply in replies {
            reply(outcome.clone().map(|_| ()));
        }
    }

    /// Whether anything changed. Every statement is a trip to SQLite's thread and back, so those between two commands go together.
    async fn transaction(&mut self, commands: Vec<Command>, replies: &mut Vec<Reply>) -> Result<bool> {
        let store = &mut self.store;
        let before = store.begin().await?;
        for command in commands {
            let (succeeded, reply) = command(store).await;
            replies.push(reply);
            store.execute(if succeeded { "RELEASE command; SAVEPOINT command" } else { "ROLLBACK TO command" }).await?;
        }
        let changed = store.total_changes().await? != before;
        store.execute("COMMIT").await?;
        Ok(changed)
    }
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Command(_) => f.write_str("Command"),
            Self::Close(_) => f.write_str("Close"),
        }
    }
}
