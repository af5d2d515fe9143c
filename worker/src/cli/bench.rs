//! `worker bench`: what a guided step costs.

use crate::bench;
use crate::bytes::Bytes;
use crate::device::DeviceName;
use clap::Args;
use protocol::job::Precision;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct Bench {
    /// Networks to measure; Stable Diffusion 2.1-base comes with OpenCLIP's ViT-B/16
    #[arg(long, value_name = "NAME", value_parser = ["sd21-base"], requires = "random_weights", required_unless_present = "diffusion")]
    model: Option<String>,
    /// Make weights up instead of reading them: time and memory do not depend on them
    #[arg(long)]
    random_weights: bool,
    /// Folder of Stable Diffusion in the layout of diffusers, instead of --model
    #[arg(long, value_name = "DIR", requires = "backbone", conflicts_with = "model")]
    diffusion: Option<PathBuf>,
    /// Folder of the encoder's image tower, with --diffusion
    #[arg(long, value_name = "DIR", requires = "diffusion")]
    backbone: Option<PathBuf>,
    /// Side of the image, pixels
    #[arg(long, default_value_t = 512)]
    size: usize,
    /// How often each part is run; the median counts
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Images at a time; of several numbers, each is measured on the same networks
    #[arg(long, value_name = "N", num_args = 1.., value_delimiter = ',', default_value = "1", value_parser = clap::value_parser!(u32).range(1..=1024))]
    batch: Vec<u32>,
    /// What UNet and decoder compute in: single, half (as the paper ran) or bfloat16
    #[arg(long, default_value_t = Precision::Single)]
    precision: Precision,
    /// Keep within this much memory by computing blocks again, for example 12GiB
    #[arg(long, value_name = "BYTES")]
    memory_limit: Option<Bytes>,
    /// Measure only these parts
    #[arg(long, value_name = "PART", num_args = 1.., value_delimiter = ',', value_parser = bench::PARTS)]
    parts: Vec<String>,
    /// Device to compute on: cpu or cuda:N
    #[arg(long, default_value = "cpu")]
    device: DeviceName,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Bench {
    pub fn run(self) -> anyhow::Result<()> {
        let device = self.device.open()?;
        self.device.require(self.precision)?;
        let plan = bench::Plan {
            model: match (self.diffusion, self.backbone) {
                (Some(diffusion), Some(backbone)) => bench::Model::Folders { diffusion, backbone },
                _ => bench::Model::Sd21Base,
            },
            size: self.size,
            steps: self.steps,
            batches: self.batch.into_iter().map(|batch| batch as usize).collect(),
            precision: self.precision,
            memory_limit: self.memory_limit.map(Bytes::count),
            parts: self.parts,
        };
        let report = plan.run(&device, &self.device.to_string(), self.device.hardware())?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            print!("{}", report.table());
        }
        Ok(())
    }
}
