//! `coordinator pause` and `coordinator resume`: whether an experiment's jobs are handed out.

use super::Database;
use crate::queue::request::Adjust;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    database: Database,
    /// The experiment's name
    #[arg(value_name = "EXPERIMENT")]
    experiment: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Jobs that run go on.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        self.set(true).await
    }

    pub(super) async fn set(self, paused: bool) -> anyhow::Result<ExitCode> {
        let adjust = Adjust { paused: Some(paused), ..Adjust::nothing(self.experiment) };
        super::priority::adjust(&self.database, &adjust, self.json).await
    }
}
