//! `worker sample`: one request, by hand.

use crate::device::DeviceName;
use crate::tasks::{by_hand, request};
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct Sample {
    /// What to sample: models, objective, sampler parameters (JSON)
    request: PathBuf,
    /// Folder for image.png and result.json; made if it is not there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Also write trace.safetensors: every quantity of every step
    #[arg(long)]
    trace: bool,
    /// Device to compute on: cpu or cuda:N
    #[arg(long, default_value = "cpu")]
    device: DeviceName,
}

impl Sample {
    pub fn run(self) -> anyhow::Result<()> {
        let device = self.device.open()?;
        let request = request::Request::read(&self.request)?;
        self.device.require(request.precision)?;
        by_hand::run(&request, &device, &self.device.to_string(), &self.out, self.trace)
    }
}
