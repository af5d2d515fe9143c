//! `coordinator resume`: hand out the jobs of a paused experiment again.

use super::pause;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct Args {
    #[command(flatten)]
    args: pause::Args,
}

impl Args {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        self.args.set(false).await
    }
}
