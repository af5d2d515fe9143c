//! Kernels in CUDA C, how they are launched, and NVIDIA's libraries. No tensors here.

mod element;
#[cfg(feature = "emulation")]
pub mod emulation;
mod launch;
pub mod libraries;
#[cfg(feature = "ptx")]
mod ptx;

pub use element::Element;
pub use launch::{Argument, Grid, LARGE_SHARED_BYTES, SHARED_BYTES};
#[cfg(feature = "ptx")]
pub use ptx::{CUDA_VERSION, ptx};
