//! What the driver says of the card behind a device. A CPU is none: it is known by its host.

use crate::device::DeviceName;

/// The driver's own name of the card, for example `GPU-3f2a…`, wherever it is plugged in.
pub fn uuid(device: DeviceName) -> Option<String> {
    match device {
        DeviceName::Cpu => None,
        // Without CUDA, none is ever opened.
        DeviceName::Cuda(_) => None,
    }
}
