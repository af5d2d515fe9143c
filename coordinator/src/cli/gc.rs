//! `coordinator gc`: remove the images that no result names.

use super::Campaign;
use crate::queue::access::Access;
use crate::queue::request::Collect;
use anyhow::{Context, ensure};
use jiff::SignedDuration;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

/// Between the file and its row, an upload takes less than this.
const SHORTEST: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    campaign: Campaign,
    /// Only files that were stored longer ago than this: younger ones may still get their result
    #[arg(long, value_name = "TIME", default_value = "24h")]
    older_than: SignedDuration,
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    /// While a coordinator serves, it collects in its own store, whatever `--store` says.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let older_than = Duration::try_from(self.older_than).context("--older-than lies in the future")?;
        ensure!(older_than >= SHORTEST, "--older-than must be a minute or more: younger files may just be arriving");
        let store = self.campaign.artifacts();
        let access = Access::open_existing(self.campaign.db()).await?;
        let request = Collect { older_than_ms: older_than.as_millis() as u64, dry_run: self.dry_run };
        let collected = access.collect(&request, &store).await;
        access.close().await;
        let collected = collected.context("removing images that no result names")?;
        if self.json {
            writeln!(io::stdout(), "{}", serde_json::to_string(&collected)?)?;
        } else {
            let verb = if self.dry_run { "would be removed" } else { "removed" };
            let megabytes = collected.bytes as f64 / 1e6;
            writeln!(io::stdout(), "{} images {verb}, {megabytes:.1} MB", collected.images)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
