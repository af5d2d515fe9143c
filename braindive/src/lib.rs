//! Brain-guided diffusion (Luo et al., NeurIPS 2023): models, guided sampler, voxel encoder, probes.
//!
//! No network, no database: everything here is a function of files and numbers.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod cluster;
pub mod device;
mod device_error;
pub mod encoder;
pub mod error;
pub mod gradient;
pub mod image;
pub mod layers;
pub mod models;
pub mod probe;
pub mod sampler;
pub mod weights;

pub use candle_core::{DType, Device, Tensor};
pub use error::{Error, ErrorKind, Result};

/// How many threads the layers use on the CPU; `RAYON_NUM_THREADS` sets it.
pub fn threads() -> usize {
    rayon::current_num_threads()
}
