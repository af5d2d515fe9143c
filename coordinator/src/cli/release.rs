//! `coordinator release-device`: give a quarantined device jobs again.

use super::Database;
use crate::queue::access::Access;
use anyhow::Context;
use serde::Serialize;
use std::io::{self, Write};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    database: Database,
    /// The device, as `coordinator workers` names it: a GPU's UUID, or HOST/DEVICE
    #[arg(value_name = "KEY")]
    device: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Released {
    device: String,
    /// Why it was quarantined.
    reason: String,
}

impl Args {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let access = Access::open_existing(&self.database.db).await?;
        let reason = access.release_device(&self.device).await;
        access.close().await;
        let released = Released { reason: reason.context("releasing a device")?, device: self.device };
        if self.json {
            writeln!(io::stdout(), "{}", serde_json::to_string(&released)?)?;
        } else {
            let Released { device, reason } = released;
            writeln!(io::stdout(), "{device} gets jobs again; it was quarantined because: {reason}")?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
