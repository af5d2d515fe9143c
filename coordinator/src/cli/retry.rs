//! `coordinator retry`: give jobs their attempts anew.

use super::Database;
use crate::queue::access::{Access, Retry};
use anyhow::Context;
use protocol::ids::JobId;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    database: Database,
    /// Numbers of failed, blocked or cancelled jobs
    #[arg(value_name = "JOB", required_unless_present = "failed", conflicts_with = "failed")]
    jobs: Vec<JobId>,
    /// Every job that failed or was blocked by a failure
    #[arg(long)]
    failed: bool,
    /// Only of this experiment
    #[arg(long, value_name = "NAME", requires = "failed")]
    experiment: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let what = if self.failed { Retry::Failed { experiment: self.experiment } } else { Retry::Jobs(self.jobs) };
        let access = Access::open_existing(&self.database.db).await?;
        let changed = access.retry(&what).await.context("retrying")?;
        access.close().await;
        super::print_changed("ready again", &changed, self.json)?;
        Ok(ExitCode::SUCCESS)
    }
}
