//! `coordinator explain`: in a sentence, where a job stands and why it does not run.

use super::Database;
use crate::queue::view::{self, Snapshot};
use protocol::ids::JobId;
use serde::Serialize;
use std::io::{self, Write};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    database: Database,
    /// The job's number
    #[arg(value_name = "JOB")]
    job: JobId,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Explained {
    job: JobId,
    state: view::State,
    explanation: String,
}

impl Args {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let reader = view::open(&self.database.db).await?;
        let mut snapshot = Snapshot::take(&reader).await?;
        let (detail, explanation) = super::explained(&mut snapshot, self.job).await?;
        if self.json {
            let explained = Explained { job: self.job, state: detail.job.state, explanation };
            writeln!(io::stdout(), "{}", serde_json::to_string(&explained)?)?;
        } else {
            writeln!(io::stdout(), "{explanation}")?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
