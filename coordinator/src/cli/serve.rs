//! `coordinator serve`: one process that owns the job table and answers workers, commands and browsers.

use super::Database;
use crate::api::auth::{Token, Tokens};
use crate::api::listener::{self, Limits};
use crate::api::secret::{self, SecretError};
use crate::api::{self, ApiState};
use crate::artifacts::{ArtifactError, Artifacts};
use crate::dashboard;
use crate::queue::owner::{self, AcquireError, Lock, Owner, beside};
use crate::queue::view::{self, ViewError};
use crate::queue::{Clock, OpenError, Queue, QueueError, Settings};
use protocol::endpoint::Endpoint;
use protocol::ids::Digest;
use sqlx::SqlitePool;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tls::{Identity, IdentityError, TlsAcceptor};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    database: Database,
    /// Where workers and browsers connect; over TLS, unless it is this machine alone
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:7311")]
    listen: SocketAddr,
    /// Where images are kept [default: folder `artifacts` beside the database]
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Where to write address, token and fingerprint for workers [default: ~/.braindive/endpoint.json]
    #[arg(long, value_name = "FILE", env = "BRAINDIVE_ENDPOINT")]
    endpoint: Option<PathBuf>,
    #[arg(long, hide = true, default_value_t = 60_000)]
    lease_ms: u64,
    #[arg(long, hide = true, default_value_t = 15_000)]
    heartbeat_ms: u64,
    #[arg(long, hide = true, default_value_t = Limits::default().header.as_millis() as u64)]
    header_ms: u64,
    #[arg(long, hide = true, default_value_t = Limits::default().stall.as_millis() as u64)]
    stall_ms: u64,
    #[arg(long, hide = true, default_value_t = Limits::default().connections)]
    connections: usize,
}

impl Args {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut running = start(Options {
            db: self.database.db,
            listen: self.listen,
            store: self.store,
            endpoint: self.endpoint,
            settings: Settings {
                lease: Duration::from_millis(self.lease_ms),
                heartbeat: Duration::from_millis(self.heartbeat_ms),
                clock: Clock::System,
            },
            limits: Limits {
                header: Duration::from_millis(self.header_ms),
                stall: Duration::from_millis(self.stall_ms),
                connections: self.connections,
            },
        })
        .await?;
        writeln!(io::stdout(), "dashboard {}", running.dashboard())?;
        writeln!(io::stdout(), "workers   worker --endpoint {}", running.endpoint.display())?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = running.ended() => {}
        }
        running.stop().await?;
        Ok(ExitCode::SUCCESS)
    }
}

/// What to serve, and where.
#[derive(Debug, Clone)]
pub struct Options {
    pub db: PathBuf,
    /// Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Folder of images; `artifacts` beside the database if `None`.
    pub store: Option<PathBuf>,
    /// Endpoint file; `~/.braindive/endpoint.json` if `None`.
    pub endpoint: Option<PathBuf>,
    pub settings: Settings,
    pub limits: Limits,
}

/// A coordinator that serves.
#[derive(Debug)]
pub struct Running {
    /// What workers use: `http://127.0.0.1:7311` or `https://login01:7311`, for example.
    pub url: String,
    pub queue: Queue,
    pub artifacts: Artifacts,
    /// Path of the endpoint file that workers read.
    pub endpoint: PathBuf,
    /// The worker's.
    pub token: Token,
    pub viewer_token: Token,
    stop: CancellationToken,
    task: JoinHandle<Result<(), ServeError>>,
    outcome: Option<Result<(), ServeError>>,
}

/// Serving could not start, or came to an end by itself.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("{address} is in use: another program listens there; stop it or choose another port with --listen")]
    PortInUse { address: SocketAddr },
    #[error("listening on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Owner(#[from] AcquireError),
    #[error(transparent)]
    Artifacts(#[from] ArtifactError),
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error(transparent)]
    View(#[from] ViewError),
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error("the certificate in {} is of no use; remove the file, and a new one is made, which workers must be told", path.display())]
    Certificate {
        path: PathBuf,
        #[source]
        source: IdentityError,
    },
    #[error("writing {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("there is no home directory for the endpoint file; name one with --endpoint")]
    NoHome,
    #[error("serving HTTP")]
    Http(#[source] io::Error),
}

/// Starts a coordinator in this process. Once this returns, it answers.
pub async fn start(options: Options) -> Result<Running, ServeError> {
    let Options { db, listen, store, endpoint, settings, limits } = options;
    if let Some(owner) = owner::living(&db).await? {
        return Err(owner.refusal().into());
    }
    let endpoint = match endpoint {
        Some(path) => std::path::absolute(&path).map_err(|source| ServeError::File { path, source })?,
        None => std::env::home_dir().ok_or(ServeError::NoHome)?.join(protocol::endpoint::IN_HOME),
    };
    let listener = TcpListener::bind(listen).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => ServeError::PortInUse { address: listen },
        _ => ServeError::Listen { address: listen, source },
    })?;
    let address = listener.local_addr().map_err(|source| ServeError::Listen { address: listen, source })?;
    let url = reachable_url(address);

    let lock = Lock::take(&db).await?;
    let queue = Queue::open(&db, settings).await?;
    queue.acquire(Owner::this_process(&url, &endpoint)).await?;
    let Prepared { tokens, tls, artifacts, reader } = match prepare(&queue, &db, store, &endpoint, &url).await {
        Ok(prepared) => prepared,
        Err(error) => {
            let _ = queue.release_owner(std::process::id()).await;
            return Err(error);
        }
    };

    let pages = dashboard::private(dashboard::State { reader, changes: queue.changes() }, tokens.clone());
    let api = api::router(ApiState {
        queue: queue.clone(),
        artifacts: artifacts.clone(),
        tokens: tokens.clone(),
        stall: limits.stall,
    });
    let stop = CancellationToken::new();
    let http = tokio::spawn(listener::serve(listener, tls, api.merge(pages), limits, stop.clone()));
    let server = Server {
        queue: queue.clone(),
        endpoint: endpoint.clone(),
        url: url.clone(),
        stop: stop.clone(),
        http,
        _lock: lock,
    };
    let task = tokio::spawn(server.run());
    tracing::info!(url, db = %db.display(), "serving");
    let Tokens { worker: token, viewer: viewer_token, .. } = tokens;
    Ok(Running { url, queue, artifacts, endpoint, token, viewer_token, stop, task, outcome: None })
}

struct Prepared {
    tokens: Tokens,
    tls: TlsAcceptor,
    artifacts: Artifacts,
    reader: SqlitePool,
}

/// What only the owner may touch.
async fn prepare(
    queue: &Queue,
    db: &Path,
    store: Option<PathBuf>,
    endpoint: &Path,
    url: &str,
) -> Result<Prepared, ServeError> {
    queue.renew_all_leases().await?;
    let tokens = Tokens::new(Token::at(&beside(db, "token"))?, Token::at(&beside(db, "viewer-token"))?);
    let (identity, tls) = certificate(&beside(db, "certificate.pem"))?;
    let artifacts = Artifacts::open(&store.unwrap_or_else(|| db.with_file_name("artifacts")))?;
    let reader = view::open(db).await?;
    write_endpoint(endpoint, url, identity.fingerprint(), &tokens.worker)
        .map_err(|source| ServeError::File { path: endpoint.to_owned(), source })?;
    Ok(Prepared { tokens, tls, artifacts, reader })
}

/// The certificate in the file at `path`, made there if there is none.
fn certificate(path: &Path) -> Result<(Identity, TlsAcceptor), ServeError> {
    let failed = |source| ServeError::Certificate { path: path.to_owned(), source };
    let new = Identity::generate(&owner::this_host()).map_err(failed)?;
    let identity = Identity::from_pem(&secret::at(path, || new)?).map_err(failed)?;
    let acceptor = identity.acceptor().map_err(failed)?;
    Ok((identity, acceptor))
}

impl Running {
    /// The address that opens the pages in a browser. It holds the viewer's token.
    pub fn dashboard(&self) -> String {
        format!("{}/?token={}", self.url, self.viewer_token.as_str())
    }

    /// Returns when the coordinator came to an end by itself; [`Running::stop`] then says why.
    pub async fn ended(&mut self) {
        if self.outcome.is_none() {
            let ended = (&mut self.task).await;
            self.outcome = Some(ended.unwrap_or_else(|error| Err(ServeError::Http(io::Error::other(error)))));
        }
    }

    /// Stops accepting, answers what is in flight, and closes the database.
    pub async fn stop(mut self) -> Result<(), ServeError> {
        self.stop.cancel();
        self.ended().await;
        self.outcome.unwrap_or(Ok(()))
    }
}

struct Server {
    queue: Queue,
    endpoint: PathBuf,
    url: String,
    stop: CancellationToken,
    http: JoinHandle<()>,
    /// Let go last.
    _lock: Lock,
}

impl Server {
    async fn run(self) -> Result<(), ServeError> {
        let Self { queue, endpoint, url, stop, http, _lock } = self;
        let upkeep = tokio::select! {
            () = stop.cancelled() => Ok(()),
            kept = keep_leases(&queue) => kept,
            kept = keep_ownership(&queue) => kept,
        };
        stop.cancel();
        queue.stop_claims();
        let served = http.await.map_err(|error| ServeError::Http(io::Error::other(error)));
        remove_endpoint(&endpoint, &url);
        let released = queue.release_owner(std::process::id()).await;
        queue.close().await;
        upkeep?;
        served?;
        Ok(released?)
    }
}

/// Takes back the jobs of workers that went silent, for as long as there is a writer. When this process itself stood still,
/// or the machine's clock was set, a lease that ran out says nothing about its worker: all leases begin anew.
async fn keep_leases(queue: &Queue) -> Result<(), ServeError> {
    let Settings { heartbeat, clock, .. } = queue.settings().clone();
    let heartbeat = crate::queue::clock::millis(heartbeat);
    let pause = (heartbeat / 3).max(1);
    loop {
        let asleep = clock.now();
        clock.sleep_until(asleep + pause).await;
        let slept = clock.now() - asleep;
        if !(0..=pause + heartbeat).contains(&slept) {
            tracing::warn!(
                seconds = slept as f64 / 1000.0,
                "time jumped or this process stood still; leases begin anew"
            );
            if let Err(error) = queue.renew_all_leases().await {
                survivable(error, "renewing all leases")?;
            }
            continue;
        }
        match queue.expire().await {
            Ok(lost) if lost.is_empty() => {}
            Ok(lost) => tracing::warn!(jobs = lost.len(), "leases ran out; the jobs are ready again"),
            Err(error) => survivable(error, "taking back jobs whose leases ran out")?,
        }
    }
}

async fn keep_ownership(queue: &Queue) -> Result<(), ServeError> {
    loop {
        tokio::time::sleep(owner::RENEWAL).await;
        if let Err(error) = queue.renew_owner(std::process::id()).await {
            survivable(error, "renewing the owner record")?;
        }
    }
}

/// A full disk passes; a writer that is gone does not come back.
fn survivable(error: QueueError, doing: &str) -> Result<(), ServeError> {
    if matches!(error, QueueError::Stopping) {
        return Err(error.into());
    }
    tracing::error!(%error, "{doing} failed and will be tried again");
    Ok(())
}

/// The address as workers reach it: over TLS unless it is this host's alone. A wildcard stands for this host's name.
fn reachable_url(address: SocketAddr) -> String {
    if address.ip().to_canonical().is_loopback() {
        format!("http://{address}")
    } else if address.ip().is_unspecified() {
        format!("https://{}:{}", owner::this_host(), address.port())
    } else {
        format!("https://{address}")
    }
}

/// Replaces the file at once, so that nobody reads half of it. Temporary files are made with mode 0600.
fn write_endpoint(path: &Path, url: &str, fingerprint: Digest, token: &Token) -> io::Result<()> {
    let endpoint = Endpoint {
        url: url.to_owned(),
        fingerprint: Some(fingerprint),
        token: token.as_str().to_owned(),
        pid: std::process::id(),
        host: owner::this_host(),
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    serde_json::to_writer_pretty(&mut file, &endpoint)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// Removes the endpoint file unless another coordinator has written its own there since.
fn remove_endpoint(path: &Path, url: &str) {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let ours =
        serde_json::from_str::<Endpoint>(&text).is_ok_and(|found| found.url == url && found.pid == std::process::id());
    if ours && let Err(error) = std::fs::remove_file(path) {
        tracing::warn!(%error, path = %path.display(), "the endpoint file could not be removed");
    }
}
