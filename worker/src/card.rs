//! What the driver says of the card behind a device. A CPU is none: it is known by its host, and its memory is everybody's.

use crate::device::DeviceName;
use braindive::Device;

/// Memory of a card, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CardMemory {
    pub total: u64,
    /// What this process can still have, with what its allocator keeps and nobody uses.
    pub free: u64,
}

/// The driver's own name of the card, for example `GPU-3f2a…`, wherever it is plugged in.
pub fn uuid(device: DeviceName) -> Option<String> {
    match device {
        DeviceName::Cpu => None,
        // Without CUDA, none is ever opened.
        DeviceName::Cuda(_) => None,
    }
}

/// What the card has, and what of it is free now.
pub fn memory(device: &Device) -> Option<CardMemory> {
    match device {
        Device::Cpu => None,
        // Without CUDA, none is ever opened.
        _ => None,
    }
}
