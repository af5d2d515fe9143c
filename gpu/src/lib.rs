//! Kernels in CUDA C, how they are launched, and NVIDIA's libraries. No tensors here.

mod element;
mod launch;
pub mod libraries;
#[cfg(feature = "ptx")]
mod ptx;

pub use element::Element;
pub use launch::{Argument, Grid};
#[cfg(feature = "ptx")]
pub use ptx::{CUDA_VERSION, ptx};
