//! `coordinator set-priority`: which experiments are served first, and their shares.

use super::Database;
use crate::queue::access::Access;
use crate::queue::request::Adjust;
use anyhow::Context;
use std::io::{self, Write};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    database: Database,
    /// The experiment's name
    #[arg(value_name = "EXPERIMENT")]
    experiment: String,
    /// Higher is served first
    #[arg(value_name = "N", allow_negative_numbers = true, required_unless_present = "share")]
    priority: Option<i32>,
    /// Share of the workers' time among experiments of its priority, above 0
    #[arg(long, value_name = "WEIGHT", value_parser = share)]
    share: Option<f64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share: &f64| share.is_finite() && *share > 0.0);
    share.ok_or_else(|| "expected a number above 0".to_owned())
}

impl Args {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let Self { experiment, priority, share, .. } = self;
        let adjust = Adjust { priority, share, ..Adjust::nothing(experiment) };
        super::priority::adjust(&self.database, &adjust, self.json).await
    }
}

/// Changes how an experiment is served, and tells how it is served now.
pub async fn adjust(database: &Database, adjust: &Adjust, json: bool) -> anyhow::Result<ExitCode> {
    let access = Access::open_existing(&database.db).await?;
    let adjusted = access.adjust(adjust).await;
    access.close().await;
    let now = adjusted.with_context(|| format!("changing experiment `{}`", adjust.experiment))?;
    if json {
        writeln!(io::stdout(), "{}", serde_json::to_string(&now)?)?;
    } else {
        let how = if now.paused { "paused: jobs that run go on, others wait" } else { "served" };
        writeln!(io::stdout(), "{}: {how}; priority {}, share {}", now.experiment, now.priority, now.share)?;
    }
    Ok(ExitCode::SUCCESS)
}
