//! The command line of `worker`.

mod bench;
mod cluster;
mod doctor;
mod fit;
mod import;
mod prepare;
mod sample;
mod simulate_subject;
mod work;

use crate::agent::AgentError;
use crate::chain::chain;
use crate::device::DeviceError;
use crate::tasks::pass::NothingToFill;
use crate::tasks::request::RequestError;
use braindive::{Error, ErrorKind};
use clap::{Parser, Subcommand};
use doctor::Unfit;
use serde::de::DeserializeOwned;
use std::io::{IsTerminal, stderr};
use std::path::Path;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// Runs jobs of a coordinator on one device, or one sampling request by hand.
///
/// Without a command, claims jobs until asked to stop (SIGTERM, SIGINT, SIGUSR1, SIGUSR2): then it finishes what it holds, but for
/// folders, which the next worker goes on making, and exits with 0. A second signal gives everything back and exits at once. SIGQUIT prints how busy the device
/// was and how long the slots stood idle.
#[derive(Debug, Parser)]
#[command(name = "worker", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    work: work::Work,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Sample one image as a request file says; needs no coordinator
    Sample(sample::Sample),
    /// Measure what a guided step and its parts cost on a device
    Bench(bench::Bench),
    /// Look at a device: card, driver, libraries, memory, and every kind of layer on it beside the CPU's
    Doctor(doctor::Doctor),
    /// Prepare a subject of the Natural Scenes Dataset for fitting; a stopped one goes on where it ended
    Prepare(prepare::Prepare),
    /// Fit a voxel encoder to a subject's prepared data, or take one over, and evaluate it
    Fit(fit::Fit),
    /// Score an encoder on the held-out images of prepared data
    Evaluate(fit::Evaluate),
    /// Cluster the voxels of an encoder's region by what they answer to
    Cluster(cluster::Cluster),
    /// Write simulated subjects in the layout of the Natural Scenes Dataset, with what was planted in them
    SimulateSubject(simulate_subject::SimulateSubject),
    /// Write a mask that is kept as an array as a volume in the subject's space
    ImportMask(import::ImportMask),
    /// Prepare images, betas and masks of an experiment that is not in NSD's layout
    ImportDataset(import::ImportDataset),
    /// Make an encoder of one of the Brain Encoding Response Generator
    ImportBerg(import::ImportBerg),
}

/// Parses the command line and runs it. Exit codes: 0 done, 1 failed, 2 wrong arguments or input, 3 the device is quarantined, 4 the device
/// cannot be used, 5 the device failed.
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
        Some(Command::Doctor(args)) => args.run(),
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
            ExitCode::from(code(&error))
        }
    }
}

fn code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref() {
        Some(AgentError::Quarantined { .. }) => 3,
        Some(AgentError::DeviceFault { .. }) => 5,
        _ if is_input(error) || error.is::<NothingToFill>() => 2,
        _ if error.is::<DeviceError>() || matches!(error.downcast_ref(), Some(Unfit::Fails { .. })) => 4,
        _ => 1,
    }
}

/// Whether the error is one of what was asked for or of its files, not of this machine.
fn is_input(error: &anyhow::Error) -> bool {
    let of_files = error.downcast_ref().is_some_and(|error: &braindive::Error| error.kind() == ErrorKind::BadInput);
    of_files || error.is::<RequestError>()
}

/// Settings from a file of JSON, or the usual ones.
fn settings<T: DeserializeOwned + Default>(file: Option<&Path>) -> braindive::Result<T> {
    let Some(path) = file else { return Ok(T::default()) };
    let text = std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    serde_json::from_slice(&text).map_err(|source| Error::Config { path: path.to_owned(), source })
}
