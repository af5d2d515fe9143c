//! The command line, one file a command.

pub mod cancel;
pub mod demo;
pub mod job;
pub mod jobs;
pub mod retry;
pub mod serve;
pub mod status;
pub mod submit;
mod table;
pub mod workers;

use crate::queue::request::Changed;
use clap::Parser;
use std::io::Write;
use std::path::PathBuf;
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
    /// List workers and what they do
    Workers = workers;
    /// Stop jobs that are not finished; workers drop them at their next heartbeat
    Cancel = cancel;
    /// Give failed, blocked or cancelled jobs their attempts anew
    Retry = retry;
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
