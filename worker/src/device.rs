//! Which device a worker computes on.

use braindive::Device;
use braindive::device::has_bf16_kernels;
use gpu::libraries::{self, Card, LibraryError};
use protocol::job::Precision;
use std::fmt;
use std::str::FromStr;

/// `cpu` or `cuda:N`, as the command line names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceName {
    Cpu,
    Cuda(u32),
}

/// Why a device cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    #[error("`{0}` names no device: expected `cpu` or `cuda:N`, for example `cuda:0`")]
    Unknown(String),
    #[error(
        "{0} was asked for, but this worker was built without CUDA; build it with `--features cuda`, or use `--device cpu`"
    )]
    NotBuilt(DeviceName),
    #[error("{device} cannot be used: {source}")]
    Libraries { device: DeviceName, source: LibraryError },
    #[error("{device} does not open: {reason}")]
    Open { device: DeviceName, reason: String },
    #[error(
        "{device} ({card}) does not compute in {precision}: that takes a card of compute capability 8.0 or higher, and a build for it \
         (CUDA_COMPUTE_CAP=80); or use precision half or single"
    )]
    Precision { device: DeviceName, card: String, precision: Precision },
}

impl DeviceName {
    /// The device to compute on, or why not.
    pub fn open(self) -> Result<Device, DeviceError> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(ordinal) => self.open_card(ordinal),
        }
    }

    #[cfg(not(feature = "cuda"))]
    fn open_card(self, _ordinal: u32) -> Result<Device, DeviceError> {
        Err(DeviceError::NotBuilt(self))
    }

    #[cfg(feature = "cuda")]
    fn open_card(self, ordinal: u32) -> Result<Device, DeviceError> {
        let stands_in_the_way = |source| DeviceError::Libraries { device: self, source };
        let card = libraries::card(ordinal).map_err(stands_in_the_way)?;
        let loaded = libraries::load().map_err(stands_in_the_way)?;
        loaded.serve(&card).map_err(stands_in_the_way)?;
        braindive::device::open_cuda(ordinal as usize).map_err(|error| {
            // candle adds a backtrace where one is asked for.
            let reason = error.to_string().lines().next().unwrap_or_default().to_owned();
            DeviceError::Open { device: self, reason }
        })
    }

    /// What the device calls itself, for example `Tesla V100-SXM2-16GB`.
    pub fn hardware(self) -> String {
        match self {
            Self::Cpu => processor(),
            Self::Cuda(ordinal) => libraries::card(ordinal).map_or_else(|_| self.to_string(), |card| card.name),
        }
    }

    /// The card, as the driver tells it.
    pub fn card(self) -> Option<Card> {
        match self {
            Self::Cpu => None,
            Self::Cuda(ordinal) => libraries::card(ordinal).ok(),
        }
    }

    /// What the device computes in.
    pub fn precisions(self) -> impl Iterator<Item = Precision> {
        let has_bf16 = self == Self::Cpu || has_bf16_kernels() && self.card().is_some_and(|card| card.has_bf16());
        Precision::ALL.into_iter().filter(move |&precision| has_bf16 || precision != Precision::Bfloat16)
    }

    /// That the device computes in `precision`.
    ///
    /// # Errors
    /// It does not: [`DeviceError::Precision`].
    pub fn require(self, precision: Precision) -> Result<(), DeviceError> {
        match self.precisions().any(|computed| computed == precision) {
            true => Ok(()),
            false => Err(DeviceError::Precision { device: self, card: self.hardware(), precision }),
        }
    }

    /// The driver's own name of a card, wherever it is plugged in.
    pub fn uuid(self) -> Option<String> {
        Some(self.card()?.uuid)
    }
}

fn processor() -> String {
    let model = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    format!("{}, {cores} cores", model.unwrap_or_else(|| std::env::consts::ARCH.to_owned()))
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

impl FromStr for DeviceName {
    type Err = DeviceError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unknown = || DeviceError::Unknown(text.to_owned());
        match text.split_once(':') {
            None if text == "cpu" => Ok(Self::Cpu),
            Some(("cuda", ordinal)) => ordinal.parse().map(Self::Cuda).map_err(|_| unknown()),
            _ => Err(unknown()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names_read_back_as_they_are_written() {
        for name in ["cpu", "cuda:0", "cuda:12"] {
            assert_eq!(name.parse::<DeviceName>().map(|d| d.to_string()), Ok(name.to_owned()));
        }
        for wrong in ["", "gpu", "cuda", "cuda:", "cuda:x", "cpu:0"] {
            assert!(wrong.parse::<DeviceName>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_cpu_computes_in_every_precision_and_a_card_that_is_not_there_not_in_bfloat16() {
        assert_eq!(DeviceName::Cpu.precisions().collect::<Vec<_>>(), Precision::ALL);
        let absent = DeviceName::Cuda(99).precisions().collect::<Vec<_>>();
        assert_eq!(absent, [Precision::Single, Precision::Half]);
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_worker_without_cuda_says_so() {
        let message = DeviceName::Cuda(0).open().err().map(|e| e.to_string());
        assert_eq!(
            message.as_deref(),
            Some(
                "cuda:0 was asked for, but this worker was built without CUDA; build it with `--features cuda`, or use \
                 `--device cpu`"
            )
        );
    }
}
