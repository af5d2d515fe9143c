//! `worker doctor`: whether a device computes what it should.

use crate::bytes::Bytes;
use crate::device::{DeviceError, DeviceName};
use crate::tasks::models::dtype;
use braindive::device::{DeviceMemory, memory};
use braindive::layers::{Finding, check};
use clap::Args;
#[cfg(feature = "cuda")]
use gpu::libraries;
use serde::Serialize;
use std::fmt;

#[derive(Debug, Args)]
pub struct Doctor {
    /// Device to look at: cpu or cuda:N
    #[arg(long, default_value = "cuda:0")]
    device: DeviceName,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The device opens, and does not compute what the CPU does.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    #[error("{device} cannot run {failed} of {checks} checks, for the reasons above: run no jobs on it")]
    Fails { device: DeviceName, failed: usize, checks: usize },
    #[error(
        "{device} computes wrong results in {wrong} of {checks} checks: run no jobs on it; another driver or other libraries can tell \
         whether the card is at fault"
    )]
    Wrong { device: DeviceName, wrong: usize, checks: usize },
}

/// What was found.
#[derive(Debug, Serialize)]
struct Report {
    device: String,
    hardware: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    uuid: Option<String>,
    /// (7, 0) for a V100.
    #[serde(skip_serializing_if = "Option::is_none")]
    capability: Option<(u32, u32)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    driver: Option<String>,
    /// File and version of each that was loaded.
    libraries: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    free_bytes: Option<u64>,
    checks: Vec<Checked>,
    fit: bool,
}

/// A layer on the device beside the same on the CPU.
#[derive(Debug, Serialize)]
struct Checked {
    layer: &'static str,
    precision: &'static str,
    /// The largest difference, relative to the largest element.
    #[serde(skip_serializing_if = "Option::is_none")]
    deviation: Option<f64>,
    allowed: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    passed: bool,
}

impl From<Finding> for Checked {
    fn from(finding: Finding) -> Self {
        let passed = finding.passed();
        let (deviation, error) = match finding.deviation {
            Ok(deviation) => (Some(deviation), None),
            // candle adds a backtrace where one is asked for.
            Err(error) => (None, Some(error.to_string().lines().next().unwrap_or_default().to_owned())),
        };
        Self {
            layer: finding.layer,
            precision: finding.dtype.as_str(),
            deviation,
            allowed: finding.allowed,
            error,
            passed,
        }
    }
}

impl Doctor {
    pub fn run(self) -> anyhow::Result<()> {
        let report = Report::make(self.device)?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            print!("{report}");
        }
        let (device, checks) = (self.device, report.checks.len());
        let failed = report.checks.iter().filter(|check| check.error.is_some()).count();
        let wrong = report.checks.iter().filter(|check| !check.passed).count() - failed;
        match (failed, wrong) {
            (0, 0) => Ok(()),
            (0, wrong) => Err(Unfit::Wrong { device, wrong, checks }.into()),
            (failed, _) => Err(Unfit::Fails { device, failed, checks }.into()),
        }
    }
}

impl Report {
    fn make(name: DeviceName) -> Result<Self, DeviceError> {
        let device = name.open()?;
        let card = name.card();
        let checks: Vec<Checked> =
            name.precisions().flat_map(|precision| check(&device, dtype(precision))).map(Checked::from).collect();
        let memory: Option<DeviceMemory> = memory(&device).ok().flatten();
        Ok(Self {
            device: name.to_string(),
            hardware: name.hardware(),
            uuid: card.as_ref().map(|card| card.uuid.clone()),
            capability: card.as_ref().map(|card| card.capability),
            driver: card.map(|card| {
                let (major, minor) = card.cuda;
                format!("{}, serves CUDA {major}.{minor}", card.driver.as_deref().unwrap_or("of unknown release"))
            }),
            libraries: libraries_of(name),
            total_bytes: memory.map(|memory| memory.total),
            free_bytes: memory.map(|memory| memory.free),
            fit: checks.iter().all(|check| check.passed),
            checks,
        })
    }
}

/// What a GPU's work is done with.
#[cfg(feature = "cuda")]
fn libraries_of(name: DeviceName) -> Vec<String> {
    let (DeviceName::Cuda(_), Ok(loaded)) = (name, libraries::load()) else { return Vec::new() };
    let mut found: Vec<String> = loaded.files().map(ToString::to_string).collect();
    if let Err(why) = loaded.cudnn() {
        found.push(format!("no cuDNN, convolutions are matrix products instead: {why}"));
    }
    found
}

#[cfg(not(feature = "cuda"))]
fn libraries_of(_: DeviceName) -> Vec<String> {
    Vec::new()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<10} {}", self.device, self.hardware)?;
        if let (Some(uuid), Some((major, minor))) = (&self.uuid, self.capability) {
            writeln!(f, "{:<10} {uuid}, compute capability {major}.{minor}", "card")?;
        }
        if let Some(driver) = &self.driver {
            writeln!(f, "{:<10} {driver}", "driver")?;
        }
        for library in &self.libraries {
            writeln!(f, "{:<10} {library}", "library")?;
        }
        if let (Some(total), Some(free)) = (self.total_bytes, self.free_bytes) {
            writeln!(f, "{:<10} {}, {} of it free", "memory", Bytes::from(total), Bytes::from(free))?;
        }
        let mut rest = &self.checks[..];
        while let Some(first) = rest.first() {
            let of_one = rest.iter().take_while(|check| check.precision == first.precision).count();
            let (checks, others) = rest.split_at(of_one);
            rest = others;
            let passed = checks.iter().filter(|check| check.passed).count();
            let largest = checks.iter().filter_map(|check| check.deviation).fold(0.0, f64::max);
            writeln!(
                f,
                "{:<10} {passed} of {of_one} layers agree with the CPU's in f32; largest difference {largest:.1e}, allowed {:.1e}",
                first.precision, first.allowed
            )?;
            for check in checks.iter().filter(|check| !check.passed) {
                match (&check.error, check.deviation) {
                    (Some(error), _) => writeln!(f, "{:<10} {}: {error}", "", check.layer)?,
                    (None, found) => writeln!(f, "{:<10} {}: {:.1e}", "", check.layer, found.unwrap_or(f64::NAN))?,
                }
            }
        }
        writeln!(f, "{:<10} {}", "verdict", if self.fit { "fit for jobs" } else { "unfit: see above" })
    }
}
