//! Versions of the API and of the software.

/// Version of everything under `/api/v1`; coordinator and worker must agree.
pub const API_VERSION: u32 = 1;

/// Version of this software, written into every result.
pub const SOFTWARE: &str = concat!("braindive-rs ", env!("CARGO_PKG_VERSION"));
