//! The command line of `worker`.

use crate::agent::{self, AgentError, Deadline, Identity, Settings, Signals};
use crate::bench;
use crate::bytes::Bytes;
use crate::chain::chain;
use crate::client::Client;
use crate::device::DeviceName;
use crate::endpoint;
use crate::tasks::cluster::Cluster;
use crate::tasks::import::{ImportBerg, ImportDataset, ImportMask};
use crate::tasks::{DeviceRunner, Runner, by_hand, fit, prepare, request};
use anyhow::Context;
use braindive::nsd::Subject;
use braindive::nsd::simulate::{self, Formats, Images};
use clap::{Args, Parser, Subcommand};
use std::io::{IsTerminal, stderr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tracing_subscriber::EnvFilter;

/// Where the spool lies in a user's home directory, unless a flag names another place.
const SPOOL: &str = ".braindive/spool";

/// Runs jobs of a coordinator on one device, or one sampling request by hand.
///
/// Without a command, claims jobs until asked to stop (SIGTERM, SIGINT, SIGUSR1, SIGUSR2): then it finishes what it holds and
/// exits with 0. A second signal gives everything back and exits at once. SIGQUIT prints how long the slots stood idle.
#[derive(Debug, Parser)]
#[command(name = "worker", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    work: Work,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Sample one image as a request file says; needs no coordinator
    Sample(Sample),
    /// Measure what a guided step and its parts cost on a device
    Bench(Bench),
    /// Prepare a subject of the Natural Scenes Dataset for fitting; a stopped one goes on where it ended
    Prepare(Prepare),
    /// Fit a voxel encoder to a subject's prepared data, or take one over, and evaluate it
    Fit(fit::Fit),
    /// Score an encoder on the held-out images of prepared data
    Evaluate(fit::Evaluate),
    /// Cluster the voxels of an encoder's region by what they answer to
    Cluster(Cluster),
    /// Write simulated subjects in the layout of the Natural Scenes Dataset, with what was planted in them
    SimulateSubject(SimulateSubject),
    /// Write a mask that is kept as an array as a volume in the subject's space
    ImportMask(ImportMask),
    /// Prepare images, betas and masks of an experiment that is not in NSD's layout
    ImportDataset(ImportDataset),
    /// Make an encoder of one of the Brain Encoding Response Generator
    ImportBerg(ImportBerg),
}

#[derive(Debug, Args)]
struct Work {
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
    /// Jobs to compute together in one batch; they may have other seeds, regions, subjects and gammas
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    batch: u32,
    /// Keep within this much memory by computing blocks again, for example 12GiB [default: no limit]
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

#[derive(Debug, Args)]
struct Sample {
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

#[derive(Debug, Args)]
struct Bench {
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
    /// Images at a time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    batch: u32,
    /// Compute UNet and decoder in half precision, as the paper ran
    #[arg(long)]
    half: bool,
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

#[derive(Debug, Args)]
struct Prepare {
    /// The dataset's root, which holds nsddata and nsddata_betas
    root: PathBuf,
    /// Subject, for example subj01
    #[arg(long)]
    subject: Subject,
    /// Folder to make; while it is made it is called DIR.partial
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Preparation of the betas: the name of their folder [default: betas_fithrf_GLMdenoise_RR]
    #[arg(long, value_name = "NAME")]
    betas: Option<String>,
    /// How many sessions there have to be [default: all that the subject took part in]
    #[arg(long, value_name = "N")]
    sessions: Option<usize>,
    /// Members of the voxel set: ROI volumes, parcels, food, cortex [default: as the paper]
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    voxels: Option<Vec<String>>,
    /// How many parcels of HCP_MMP1, those of the highest noise ceiling [default: 45]
    #[arg(long, value_name = "N")]
    parcels: Option<usize>,
    /// Subjects whose noise ceilings rank the parcels [default: all that are there]
    #[arg(long, value_name = "SUBJECT", num_args = 1.., value_delimiter = ',')]
    ranked_by: Vec<Subject>,
    /// Parcels by number, instead of ranking them
    #[arg(long, value_name = "N", num_args = 1.., value_delimiter = ',')]
    parcel_ids: Vec<u16>,
    /// ROI volumes whose labelled voxels are left out [default: prf-visualrois]
    #[arg(long, value_name = "NAME", num_args = 0.., value_delimiter = ',')]
    exclude: Option<Vec<String>>,
    /// NIfTI volume, larger than 0.5 in food-selective voxels
    #[arg(long, value_name = "FILE")]
    food: Option<PathBuf>,
    /// Regions are labels where the localiser's t map is larger [default: 2]
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    t_above: Option<f64>,
    /// Held-out images: shared907, shared515, or a file of 73k ids [default: shared907]
    #[arg(long)]
    split: Option<String>,
    /// Side of the prepared images, pixels [default: 256]
    #[arg(long, value_name = "PIXELS")]
    image_size: Option<usize>,
    /// Folder of COCO's train2017 and val2017, instead of the images as they were shown
    #[arg(long, value_name = "DIR")]
    stimuli: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct SimulateSubject {
    /// Folder to make: the dataset's root
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Subjects, of 1 to 8; in subjects 3, 4, 6 and 8 sessions and repeats are missing at the end
    #[arg(long = "subject", value_name = "N", num_args = 1.., value_delimiter = ',', default_values_t = [1], value_parser = clap::value_parser!(u8).range(1..=8))]
    subjects: Vec<u8>,
    /// Folder of the image tower whose features the voxels answer to
    #[arg(long, value_name = "DIR", default_value = "miniature/bundle/clip")]
    backbone: PathBuf,
    /// Folder of PNG files to show, instead of drawn faces, bodies, places, words and food
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    /// NSD's own sizes: 1 GB a session
    #[arg(long)]
    real_size: bool,
    /// How many sessions of 750 trials are written [default: 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=40))]
    sessions: Option<u8>,
    /// Sessions whose files are missing
    #[arg(long, value_name = "N", value_delimiter = ',')]
    without_session: Vec<usize>,
    /// Side of the images, pixels [default: 32, or 425 with --real-size]
    #[arg(long, value_name = "PIXELS")]
    side: Option<usize>,
    /// Form of the betas [default: both, or hdf5 with --real-size]
    #[arg(long, value_name = "FORM", value_parser = ["both", "hdf5", "nifti"])]
    betas: Option<String>,
    /// What decides everything that is random
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Parses the command line and runs it. Exit codes: 0 done, 1 failed, 2 wrong arguments or input, 3 the device is quarantined.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal())
        .with_target(false)
        .init();
    let done = match cli.command {
        Some(Command::Sample(args)) => args.run(),
        Some(Command::Bench(args)) => args.run(),
        Some(Command::Prepare(args)) => args.run(),
        Some(Command::Fit(args)) => args.run(),
        Some(Command::Evaluate(args)) => args.run(),
        Some(Command::Cluster(args)) => args.run(),
        Some(Command::SimulateSubject(args)) => args.run(),
        Some(Command::ImportMask(args)) => args.run(),
        Some(Command::ImportDataset(args)) => args.run(),
        Some(Command::ImportBerg(args)) => args.run(),
        None => cli.work.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", chain(error.as_ref()));
            let input = error.is::<request::RequestError>() || error.downcast_ref().is_some_and(prepare::is_input);
            let quarantined = matches!(error.downcast_ref(), Some(AgentError::Quarantined { .. }));
            ExitCode::from(if input {
                2
            } else if quarantined {
                3
            } else {
                1
            })
        }
    }
}

impl Work {
    fn run(self) -> anyhow::Result<()> {
        let device = self.device.open()?;
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
            slots: self.slots,
            batch: self.batch,
        };
        let spool = self.spool.or_else(|| Some(std::env::home_dir()?.join(SPOOL)));
        if spool.is_none() {
            tracing::warn!(
                "there is no home directory for the spool: name one with --spool, or results that wait are lost with the worker"
            );
        }
        let settings = Settings { identity, spool, deadline: self.deadline, grace: Duration::from_secs(self.grace) };
        let runner: Arc<dyn Runner> =
            Arc::new(DeviceRunner::new(device, device_text, self.memory_limit.map(Bytes::count)));
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

impl Sample {
    fn run(self) -> anyhow::Result<()> {
        let device = self.device.open()?;
        let request = request::Request::read(&self.request)?;
        by_hand::run(&request, &device, &self.device.to_string(), &self.out, self.trace)
    }
}

impl Bench {
    fn run(self) -> anyhow::Result<()> {
        let device = self.device.open()?;
        let plan = bench::Plan {
            model: match (self.diffusion, self.backbone) {
                (Some(diffusion), Some(backbone)) => bench::Model::Folders { diffusion, backbone },
                _ => bench::Model::Sd21Base,
            },
            size: self.size,
            steps: self.steps,
            batch: self.batch as usize,
            half: self.half,
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

impl Prepare {
    fn run(self) -> anyhow::Result<()> {
        let default = prepare::Settings::default();
        let settings = prepare::Settings {
            root: self.root,
            betas: self.betas.unwrap_or(default.betas),
            sessions: self.sessions,
            voxels: self.voxels.unwrap_or(default.voxels),
            parcels: self.parcels.unwrap_or(default.parcels),
            ranked_by: self.ranked_by,
            parcel_ids: self.parcel_ids,
            exclude: self.exclude.unwrap_or(default.exclude),
            food: self.food,
            t_above: self.t_above.unwrap_or(default.t_above),
            split: self.split.unwrap_or(default.split),
            image_size: self.image_size.unwrap_or(default.image_size),
            stimuli: self.stimuli,
        };
        let manifest = prepare::by_hand(self.subject, &settings, &self.out)?;
        println!("{}", self.out.display());
        for (what, number) in &manifest.summary {
            println!("  {what}: {number}");
        }
        Ok(())
    }
}

impl SimulateSubject {
    fn run(self) -> anyhow::Result<()> {
        let mut settings = match self.real_size {
            true => simulate::Settings::real_size(self.backbone),
            false => simulate::Settings::small(self.backbone),
        };
        match self.sessions.map(usize::from) {
            Some(sessions) if self.real_size => settings.sessions = Some(sessions),
            Some(sessions) => settings.planned = sessions,
            None => {}
        }
        settings.subjects = self.subjects;
        settings.images = self.images.map_or(Images::Drawn, Images::Folder);
        settings.missing = self.without_session;
        settings.side = self.side.unwrap_or(settings.side);
        settings.formats = match self.betas.as_deref() {
            Some("both") => Formats::Both,
            Some("hdf5") => Formats::Hdf5,
            Some("nifti") => Formats::Nifti,
            _ => settings.formats,
        };
        settings.seed = self.seed;
        simulate::write(&settings, &self.out)?;
        println!("{}", self.out.display());
        Ok(())
    }
}
