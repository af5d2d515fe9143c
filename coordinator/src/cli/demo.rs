//! `coordinator demo`: a whole campaign on this machine, from an empty folder to a table and a picture.

mod place;
mod progress;
mod summary;
mod worker;

use super::serve;
use crate::queue::Settings;
use crate::queue::view::{self, Experiment, FailureGroup, Snapshot};
use crate::report::contact_sheet;
use crate::spec;
use crate::spec::files::Digests;
use crate::spec::model::HubCache;
use anyhow::Context;
use progress::Progress;
use protocol::ids::Digest;
use sqlx::SqlitePool;
use std::fmt;
use std::future::Future;
use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::ExitCode;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use worker::Workers;

/// Images in a row of the contact sheet.
const COLUMNS: u32 = 10;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Keep everything in this folder [default: a new temporary folder]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Where the dashboard listens; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Worker processes, each on the CPU
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    workers: u32,
    /// The experiment to run [default: experiments/miniature.yaml, looked for from here upward]
    #[arg(long, value_name = "FILE")]
    experiment: Option<PathBuf>,
    /// Serve the dashboard after the last image, until Ctrl-C
    #[arg(long)]
    keep_serving: bool,
    /// The worker's program [default: `worker` beside this program]
    #[arg(long, value_name = "FILE", hide = true)]
    worker: Option<PathBuf>,
}

/// Where a demo keeps what, and what it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    pub folder: PathBuf,
    pub database: PathBuf,
    /// Folder of images.
    pub store: PathBuf,
    /// Endpoint file that the workers read.
    pub endpoint: PathBuf,
    pub listen: SocketAddr,
    pub experiment: PathBuf,
}

/// A coordinator that serves in this process and holds the demo's experiment.
pub struct Started {
    /// Address of the dashboard.
    pub url: String,
    /// Grows with every commit to the job table.
    pub changes: watch::Receiver<u64>,
    /// Where a stored image is.
    pub image: Box<dyn Fn(&Digest) -> PathBuf + Send + Sync>,
    /// Stops serving.
    pub stop: Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>,
}

impl fmt::Debug for Started {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Started").field("url", &self.url).finish_non_exhaustive()
    }
}

/// How following a campaign ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Finished,
    Interrupted,
}

impl Args {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        self.run_with(begin).await
    }

    /// Runs the demo; `begin` starts a coordinator and submits the experiment.
    pub async fn run_with(
        self,
        begin: impl AsyncFnOnce(&Setting) -> anyhow::Result<Started>,
    ) -> anyhow::Result<ExitCode> {
        let experiment = place::experiment(self.experiment)?;
        let program = place::worker(self.worker)?;
        let folder = place::folder(self.dir)?;
        let setting = Setting {
            database: folder.join("braindive.db"),
            store: folder.join("artifacts"),
            endpoint: folder.join("endpoint.json"),
            listen: self.listen,
            experiment,
            folder,
        };
        let mut interrupts = Interrupts::new()?;
        let started = begin(&setting).await?;
        println!("dashboard      {}", started.url);
        println!("folder         {}", setting.folder.display());

        let outcome = campaign(&setting, &started, &program, self.workers, &mut interrupts).await;
        if let (Ok(Ending::Finished), true) = (&outcome, self.keep_serving) {
            println!("\nserving {} until Ctrl-C", started.url);
            interrupts.next().await;
        }
        let stopped = started.stop.await;
        let ending = outcome?;
        stopped?;
        if ending == Ending::Interrupted {
            println!("stopped; go on with `coordinator serve --db {}` and `worker`", setting.database.display());
            return Ok(ExitCode::FAILURE);
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Plans the experiment, starts a coordinator in this process and submits the plan to it.
async fn begin(setting: &Setting) -> anyhow::Result<Started> {
    let loaded = spec::load(&setting.experiment, &HubCache::from_env(), &mut Digests::new(true));
    let Some(plan) = loaded.plan else {
        anyhow::bail!("{}", loaded.diagnostics.render(io::stderr().is_terminal()));
    };
    let running = serve::start(serve::Options {
        db: setting.database.clone(),
        listen: setting.listen,
        store: Some(setting.store.clone()),
        endpoint: Some(setting.endpoint.clone()),
        settings: Settings::default(),
    })
    .await?;
    running.queue.submit(plan).await?;
    let artifacts = running.artifacts.clone();
    Ok(Started {
        url: running.url.clone(),
        changes: running.queue.changes(),
        image: Box::new(move |digest| artifacts.path(digest)),
        stop: Box::pin(async move { Ok(running.stop().await?) }),
    })
}

/// Works until no job is open, then tells what came out.
async fn campaign(
    setting: &Setting,
    started: &Started,
    program: &Path,
    workers: u32,
    interrupts: &mut Interrupts,
) -> anyhow::Result<Ending> {
    let reader = view::open(&setting.database).await?;
    let mut workers = Workers::start(program, &setting.endpoint, workers, &setting.folder)?;
    let followed = tokio::select! {
        biased;
        () = interrupts.next() => Ok(Ending::Interrupted),
        early = workers.first_exit() => Err(early.into()),
        followed = follow(&reader, started.changes.clone()) => followed.map(|()| Ending::Finished),
    };
    workers.stop().await;
    if followed? == Ending::Interrupted {
        return Ok(Ending::Interrupted);
    }
    tell(setting, started, &reader).await?;
    Ok(Ending::Finished)
}

/// Shows progress until no job is open.
async fn follow(reader: &SqlitePool, mut changes: watch::Receiver<u64>) -> anyhow::Result<()> {
    let mut progress = Progress::new();
    loop {
        changes.mark_unchanged();
        let counts = only_experiment(&mut Snapshot::take(reader).await?).await?.counts;
        progress.show(&counts);
        if counts.open() == 0 {
            progress.finish();
            return Ok(());
        }
        changes.changed().await.context("the coordinator stopped before the last job was done")?;
    }
}

async fn only_experiment(snapshot: &mut Snapshot) -> anyhow::Result<Experiment> {
    snapshot.experiments().await?.into_iter().next().context("the demo's database holds no experiment")
}

/// Prints the table, makes the contact sheet, and fails if jobs did.
async fn tell(setting: &Setting, started: &Started, reader: &SqlitePool) -> anyhow::Result<()> {
    let mut snapshot = Snapshot::take(reader).await?;
    let experiment = only_experiment(&mut snapshot).await?;
    let done = experiment.counts.done;
    if done > 0 {
        print!("\n{}", summary::of(&mut snapshot, &experiment).await?);
        let sheet = setting.folder.join("contact_sheet.png");
        let fetch = |digest: &Digest| std::fs::read((started.image)(digest));
        let rows = contact_sheet::read(&mut snapshot, experiment.id, COLUMNS, fetch).await?;
        contact_sheet::write(&rows, &sheet)?;
        println!("\ncontact sheet  {}", sheet.display());
    }
    if done < experiment.counts.total() {
        anyhow::bail!(shortfall(experiment.counts.total() - done, &snapshot.failures().await?));
    }
    Ok(())
}

/// Says how many jobs gave no image, and what their attempts said.
fn shortfall(jobs: u64, failures: &[FailureGroup]) -> String {
    let mut text = format!("{jobs} job{} gave no image", if jobs == 1 { "" } else { "s" });
    for group in failures.iter().filter(|group| !group.is_routine()) {
        text += &format!("\n  {} × {}: {}", group.attempts, group.class, group.message);
    }
    text
}

/// The signals that ask a process to end.
struct Interrupts {
    signals: [Signal; 3],
}

impl Interrupts {
    fn new() -> io::Result<Self> {
        let signals =
            [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?];
        Ok(Self { signals })
    }

    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
