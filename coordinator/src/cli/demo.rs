//! `coordinator demo`: a whole campaign on this machine, from an empty folder to a table and a picture.

mod place;
mod progress;
mod summary;
mod worker;

use super::serve;
use crate::api::listener::Limits;
use crate::plan::Plan;
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
use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio::signal::unix::{Signal, SignalKind, signal};
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

/// How following a campaign ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Finished,
    Interrupted,
}

impl Args {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let plan = plan(&place::experiment(self.experiment)?)?;
        let program = place::worker(self.worker)?;
        let folder = place::folder(self.dir)?;
        let database = folder.join(place::DATABASE);
        let mut interrupts = Interrupts::new()?;
        let coordinator = serve::start(serve::Options {
            db: database.clone(),
            listen: self.listen,
            store: None,
            endpoint: Some(folder.join("endpoint.json")),
            settings: Settings::default(),
            limits: Limits::default(),
        })
        .await?;
        println!("dashboard      {}", coordinator.dashboard());
        println!("folder         {}", folder.display());

        let reader = view::open(&database).await?;
        let campaign = Campaign { folder, coordinator: &coordinator, reader };
        let outcome = campaign.run(plan, &program, self.workers, &mut interrupts).await;
        if let (Ok(Ending::Finished), true) = (&outcome, self.keep_serving) {
            println!("\nserving {} until Ctrl-C", coordinator.dashboard());
            interrupts.next().await;
        }
        let stopped = coordinator.stop().await;
        let ending = outcome?;
        stopped?;
        if ending == Ending::Interrupted {
            println!("stopped; go on with `coordinator serve --db {}` and `worker`", database.display());
            return Ok(ExitCode::FAILURE);
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The experiment's plan; its mistakes and missing files are the error.
fn plan(experiment: &Path) -> anyhow::Result<Plan> {
    let loaded = spec::load(experiment, &HubCache::from_env(), &mut Digests::new(true));
    loaded.plan.with_context(|| loaded.diagnostics.render(io::stderr().is_terminal()))
}

/// A coordinator that serves in this process, and where everything is kept.
struct Campaign<'a> {
    folder: PathBuf,
    coordinator: &'a serve::Running,
    reader: SqlitePool,
}

impl Campaign<'_> {
    /// Works until no job is open, then tells what came out.
    async fn run(
        &self,
        plan: Plan,
        program: &Path,
        workers: u32,
        interrupts: &mut Interrupts,
    ) -> anyhow::Result<Ending> {
        self.coordinator.queue.submit(plan).await?;
        let mut workers = Workers::start(program, &self.coordinator.endpoint, workers, &self.folder)?;
        let followed = tokio::select! {
            biased;
            () = interrupts.next() => Ok(Ending::Interrupted),
            early = workers.first_exit() => Err(early.into()),
            followed = self.follow() => followed.map(|()| Ending::Finished),
        };
        workers.stop().await;
        let ending = followed?;
        if ending == Ending::Finished {
            self.tell().await?;
        }
        Ok(ending)
    }

    /// Shows progress until no job is open.
    async fn follow(&self) -> anyhow::Result<()> {
        let mut changes = self.coordinator.queue.changes();
        let mut progress = Progress::new();
        loop {
            changes.mark_unchanged();
            let counts = only_experiment(&mut Snapshot::take(&self.reader).await?).await?.counts;
            progress.show(&counts);
            if counts.open() == 0 {
                progress.finish();
                return Ok(());
            }
            changes.changed().await.context("the coordinator stopped before the last job was done")?;
        }
    }

    /// Prints the table, makes the contact sheet, and fails if jobs did.
    async fn tell(&self) -> anyhow::Result<()> {
        let mut snapshot = Snapshot::take(&self.reader).await?;
        let experiment = only_experiment(&mut snapshot).await?;
        let done = experiment.counts.done;
        if done > 0 {
            print!("\n{}", summary::of(&mut snapshot, &experiment).await?);
            let sheet = self.folder.join("contact_sheet.png");
            let fetch = |digest: &Digest| std::fs::read(self.coordinator.artifacts.path(digest));
            let rows = contact_sheet::read(&mut snapshot, experiment.id, COLUMNS, fetch).await?;
            contact_sheet::write(&rows, &sheet)?;
            println!("\ncontact sheet  {}", sheet.display());
        }
        if done < experiment.counts.total() {
            anyhow::bail!(shortfall(experiment.counts.total() - done, &snapshot.failures().await?));
        }
        Ok(())
    }
}

async fn only_experiment(snapshot: &mut Snapshot) -> anyhow::Result<Experiment> {
    snapshot.experiments().await?.into_iter().next().context("the demo's database holds no experiment")
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
