//! Versions of the API and of the software.

/// Version of what coordinator and worker say to each other; they must agree.
pub const API_VERSION: u32 = 4;

/// Version of this software, written into every result.
pub const SOFTWARE: &str = concat!("braindive-rs ", env!("CARGO_PKG_VERSION"));
