//! `coordinator cancel`: stop jobs, an experiment, or one of its conditions.

use super::Database;
use crate::queue::access::{Access, Cancel};
use anyhow::Context;
use protocol::ids::{ConditionId, JobId};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    database: Database,
    /// Numbers of jobs
    #[arg(value_name = "JOB", required_unless_present = "experiment", conflicts_with = "experiment")]
    jobs: Vec<JobId>,
    /// Every unfinished job of this experiment
    #[arg(long, value_name = "NAME")]
    experiment: Option<String>,
    /// Only this condition of the experiment
    #[arg(long, value_name = "ID", requires = "experiment")]
    condition: Option<ConditionId>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let what = match self.experiment {
            Some(name) => Cancel::Experiment { name, condition: self.condition },
            None => Cancel::Jobs(self.jobs),
        };
        let access = Access::open_existing(&self.database.db).await?;
        let changed = access.cancel(&what).await.context("cancelling")?;
        access.close().await;
        super::print_changed("cancelled", &changed, self.json)?;
        Ok(ExitCode::SUCCESS)
    }
}
