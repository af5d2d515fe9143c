//! `worker` without a command: claims jobs until it is asked to stop.

use crate::agent::{self, Deadline, Identity, Settings, Signals};
use crate::bytes::Bytes;
use crate::client::Client;
use crate::device::DeviceName;
use crate::endpoint;
use crate::tasks::pass::{BatchSize, NothingToFill, Passes};
use crate::tasks::{DeviceRunner, Runner};
use anyhow::Context;
use braindive::device::memory;
use clap::Args;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Where the spool lies in a user's home directory, unless a flag names another place.
const SPOOL: &str = ".braindive/spool";

#[derive(Debug, Args)]
pub struct Work {
    /// Address of the coordinator, for example https://login01:7311 [needs $BRAINDIVE_TOKEN, and for https $BRAINDIVE_FINGERPRINT]
    #[arg(long, value_name = "URL", conflicts_with = "endpoint")]
    coordinator: Option<String>,
    /// File that `coordinator serve` wrote; read again when the coordinator has moved [default: ~/.braindive/endpoint.json]
    #[arg(long, value_name = "FILE", env = "BRAINDIVE_ENDPOINT")]
    endpoint: Option<PathBuf>,
    /// Device to compute on: cpu or cuda:N
    #[arg(long, default_value = "cpu")]
    device: DeviceName,
    /// Batches to run at a time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    slots: u32,
    /// Jobs to compute together in one batch, 1 to 64, or `auto`: as many as memory holds; they may have other seeds, regions, subjects
    /// and gammas
    #[arg(long, value_name = "N|auto", default_value = "1")]
    batch: BatchSize,
    /// Keep within this much memory by computing blocks again, for example 12GiB [default: what a card has free; on a CPU no limit]
    #[arg(long, value_name = "BYTES")]
    memory_limit: Option<Bytes>,
    /// Name shown to people [default: HOST/DEVICE]
    #[arg(long)]
    name: Option<String>,
    /// Folder where results lie until they are delivered; workers may share it [default: ~/.braindive/spool]
    #[arg(long, value_name = "DIR", env = "BRAINDIVE_SPOOL")]
    spool: Option<PathBuf>,
    /// When the allocation ends, RFC 3339 or seconds since 1970: nothing is begun that would not be done before
    #[arg(long, value_name = "TIME", env = "SLURM_JOB_END_TIME")]
    deadline: Option<Deadline>,
    /// How long to wait for a coordinator that does not answer, when asked to stop; results then stay in the spool
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    grace: u64,
}

impl Work {
    pub fn run(self) -> anyhow::Result<()> {
        let device = self.device.open()?;
        if self.batch == BatchSize::Auto && self.memory_limit.is_none() && memory(&device).ok().flatten().is_none() {
            return Err(NothingToFill.into());
        }
        let client = match self.coordinator {
            Some(url) => {
                let token = std::env::var("BRAINDIVE_TOKEN").map_err(|_| endpoint::EndpointError::NoToken)?;
                Client::new(&url, endpoint::fingerprint_from_env(&url)?, &token)?
            }
            None => {
                let path = self.endpoint.map_or_else(endpoint::default_path, Ok)?;
                let endpoint = endpoint::read(&path)?;
                endpoint::warn_if_exposed(&path);
                Client::following(path, &endpoint)?
            }
        };
        let host = hostname::get().context("cannot read this host's name")?.to_string_lossy().into_owned();
        let device_text = self.device.to_string();
        let identity = Identity {
            name: self.name.unwrap_or_else(|| format!("{host}/{device_text}")),
            host,
            device: device_text.clone(),
            device_name: self.device.hardware(),
            device_uuid: self.device.uuid(),
            precisions: self.device.precisions().collect(),
            slots: self.slots,
            batch: self.batch.uncounted() as u32,
        };
        let spool = self.spool.or_else(|| Some(std::env::home_dir()?.join(SPOOL)));
        if spool.is_none() {
            tracing::warn!(
                "there is no home directory for the spool: name one with --spool, or results that wait are lost with the worker"
            );
        }
        let settings = Settings { identity, spool, deadline: self.deadline, grace: Duration::from_secs(self.grace) };
        let passes = Passes::new(self.batch, self.memory_limit.map(Bytes::count), self.slots);
        let runner: Arc<dyn Runner> = Arc::new(DeviceRunner::new(device, device_text, passes));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .context("cannot start the worker's runtime")?;
        let ended = runtime.block_on(async {
            let signals = Signals::listen().context("cannot listen to signals")?;
            Ok(agent::run(client, settings, runner, signals).await?)
        });
        // After a second signal a job may still be loading its models: nobody waits for that.
        runtime.shutdown_background();
        ended
    }
}
