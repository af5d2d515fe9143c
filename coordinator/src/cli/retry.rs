//! `coordinator retry`: give jobs their attempts anew.

use super::Database;
use crate::queue::Filter;
use crate::queue::access::{Access, Retry};
use anyhow::Context;
use protocol::ids::JobId;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[group(id = "which", required = true, multiple = false, args = ["jobs", "failed", "filter"])]
pub struct Args {
    #[command(flatten)]
    database: Database,
    /// Numbers of failed, blocked or cancelled jobs
    #[arg(value_name = "JOB")]
    jobs: Vec<JobId>,
    /// Every job that failed or was blocked by a failure
    #[arg(long)]
    failed: bool,
    /// Failed and blocked jobs that fit, for example 'class=io region=FFA'; cancelled ones too with state=cancelled
    #[arg(long = "where", value_name = "FILTER")]
    filter: Option<Filter>,
    /// Only of this experiment
    #[arg(long, value_name = "NAME", conflicts_with = "jobs")]
    experiment: Option<String>,
    /// Say how many jobs it would be, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let what = if self.jobs.is_empty() {
            let filter = self.filter.unwrap_or_default();
            Retry::Where(self.experiment.iter().fold(filter, |filter, name| filter.and_experiment(name)))
        } else {
            Retry::Jobs(self.jobs)
        };
        let access = Access::open_existing(&self.database.db).await?;
        let (changed, verb) = match self.dry_run {
            true => (access.rehearse_retry(&what).await, "would be ready again"),
            false => (access.retry(&what).await, "ready again"),
        };
        access.close().await;
        super::print_changed(verb, &changed.context("retrying")?, self.json)?;
        Ok(ExitCode::SUCCESS)
    }
}
