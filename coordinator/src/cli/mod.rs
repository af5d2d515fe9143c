//! The command line, one file a command.

pub mod backup;
pub mod cancel;
pub mod check;
pub mod demo;
pub mod explain;
pub mod gc;
pub mod job;
pub mod jobs;
pub mod pause;
pub mod priority;
pub mod release;
pub mod resume;
pub mod retry;
pub mod serve;
pub mod status;
pub mod submit;
mod table;
pub mod workers;

use crate::artifacts::Artifacts;
use crate::queue::request::Changed;
use crate::queue::view::{JobDetail, Snapshot};
use clap::Parser;
use protocol::ids::JobId;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Every command: its doc comment, its name, its module with `Args` and `Args::run`.
macro_rules! commands {
    ($($(#[$doc:meta])* $name:ident = $module:ident;)*) => {
        #[derive(Debug, clap::Subcommand)]
        enum Command {
            $($(#[$doc])* $name($module::Args),)*
        }

        impl Command {
            async fn run(self) -> anyhow::Result<ExitCode> {
                match self {
                    $(Self::$name(args) => args.run().await,)*
                }
            }
        }
    };
}

commands! {
    /// Add the jobs of experiment files to the job table; a file submitted again adds only what is new
    Submit = submit;
    /// Hand jobs to workers and show what happens, until stopped
    Serve = serve;
    /// Show experiments and their progress
    Status = status;
    /// List jobs
    Jobs = jobs;
    /// Show one job: its attempts, its result, and why it is not running
    Job = job;
    /// Say in a sentence where a job stands, and why it does not run
    Explain = explain;
    /// List workers and what they do
    Workers = workers;
    /// Stop jobs that are not finished; workers drop them at their next heartbeat
    Cancel = cancel;
    /// Give failed, blocked or cancelled jobs their attempts anew
    Retry = retry;
    /// Hand out no more jobs of an experiment; those that run go on
    Pause = pause;
    /// Hand out the jobs of a paused experiment again
    Resume = resume;
    /// Serve an experiment before others, or give it another share of the workers' time
    SetPriority = priority;
    /// Give a quarantined device jobs again
    ReleaseDevice = release;
    /// Copy the job table into one file, complete as of one moment; works while a coordinator serves
    Backup = backup;
    /// Remove the images that no result names
    Gc = gc;
    /// Count everything again and compare every image with its digest; works while a coordinator serves
    Check = check;
    /// Run the miniature experiment from end to end: server, worker, dashboard, table, contact sheet
    Demo = demo;
}

/// Runs BrainDiVE campaigns: experiments become a job table, workers take jobs from it.
#[derive(Debug, Parser)]
#[command(name = "coordinator", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

impl Cli {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        self.command.run().await
    }
}

/// Where the job table is.
#[derive(Debug, Clone, clap::Args)]
pub struct Database {
    /// The job table
    #[arg(long, value_name = "PATH", env = "BRAINDIVE_DB", default_value = "braindive.db")]
    pub db: PathBuf,
}

/// Where the job table and its images are.
#[derive(Debug, Clone, clap::Args)]
struct Campaign {
    #[command(flatten)]
    database: Database,
    /// Where `serve` keeps images [default: folder `artifacts` beside the database]
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
}

impl Campaign {
    fn db(&self) -> &Path {
        &self.database.db
    }

    fn artifacts(&self) -> Artifacts {
        let beside = || self.db().with_file_name("artifacts");
        Artifacts::at(self.store.clone().unwrap_or_else(beside))
    }
}

/// The job and a sentence on where it stands.
async fn explained(snapshot: &mut Snapshot, job: JobId) -> anyhow::Result<(JobDetail, String)> {
    let Some(explained) = snapshot.explained(job).await? else {
        anyhow::bail!("there is no job {job}; list them with `coordinator jobs`");
    };
    Ok(explained)
}

/// Prints what changed, for people or as JSON.
fn print_changed(verb: &str, changed: &Changed, json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(changed)?)?;
        return Ok(());
    }
    for (job, state) in &changed.unchanged {
        writeln!(out, "job {job} is {state}: left as it is")?;
    }
    writeln!(out, "{} job{} {verb}", changed.jobs, if changed.jobs == 1 { "" } else { "s" })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn every_command_has_a_consistent_command_line() {
        Cli::command().debug_assert();
    }
}
