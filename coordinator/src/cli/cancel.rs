//! `coordinator cancel`: stop jobs, an experiment, or one of its conditions.

use super::Database;
use crate::queue::Filter;
use crate::queue::access::{Access, Cancel};
use anyhow::{Context, ensure};
use protocol::ids::{ConditionId, JobId};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[group(id = "which", required = true, multiple = true, args = ["jobs", "experiment", "filter"])]
pub struct Args {
    #[command(flatten)]
    database: Database,
    /// Numbers of jobs
    #[arg(value_name = "JOB", conflicts_with_all = ["experiment", "filter"])]
    jobs: Vec<JobId>,
    /// Every unfinished job of this experiment
    #[arg(long, value_name = "NAME")]
    experiment: Option<String>,
    /// Only this condition of the experiment
    #[arg(long, value_name = "ID", requires = "experiment")]
    condition: Option<ConditionId>,
    /// Unfinished jobs that fit, for example 'region=FFA seed=100-499'
    #[arg(long = "where", value_name = "FILTER")]
    filter: Option<Filter>,
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
            let filter = self.experiment.iter().fold(filter, |filter, name| filter.and_experiment(name));
            let filter = self.condition.into_iter().fold(filter, Filter::and_condition);
            ensure!(
                !filter.is_empty(),
                "an empty filter would cancel every job: name an experiment, or give `state!=done`"
            );
            Cancel::Where(filter)
        } else {
            Cancel::Jobs(self.jobs)
        };
        let access = Access::open_existing(&self.database.db).await?;
        let (changed, verb) = match self.dry_run {
            true => (access.rehearse_cancel(&what).await, "would be cancelled"),
            false => (access.cancel(&what).await, "cancelled"),
        };
        access.close().await;
        super::print_changed(verb, &changed.context("cancelling")?, self.json)?;
        Ok(ExitCode::SUCCESS)
    }
}
