//! Which device a worker computes on.

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
    #[error("{0} was asked for, but this worker was built without CUDA; use `--device cpu`")]
    NotBuilt(DeviceName),
}

impl DeviceName {
    /// The device to compute on, or why not.
    pub fn open(self) -> Result<braindive::Device, DeviceError> {
        match self {
            Self::Cpu => Ok(braindive::Device::Cpu),
            Self::Cuda(_) => Err(DeviceError::NotBuilt(self)),
        }
    }

    /// What the device calls itself.
    pub fn hardware(self) -> String {
        let model = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        });
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        format!("{}, {cores} cores", model.unwrap_or_else(|| std::env::consts::ARCH.to_owned()))
    }
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
    fn a_worker_without_cuda_says_so() {
        let message = DeviceName::Cuda(0).open().err().map(|e| e.to_string());
        assert_eq!(
            message.as_deref(),
            Some("cuda:0 was asked for, but this worker was built without CUDA; use `--device cpu`")
        );
    }
}
