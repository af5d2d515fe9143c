//! Kernels in CUDA C, how they are launched, and NVIDIA's libraries. No tensors here.

mod element;
#[cfg(feature = "emulation")]
pub mod emulation;
mod launch;
pub mod libraries;
mod ptx;

pub use element::Element;
pub use launch::{Argument, Grid};
#[cfg(all(feature = "ptx", feature = "libraries"))]
pub use ptx::needs;
#[cfg(feature = "ptx")]
pub use ptx::ptx;
pub use ptx::{Needs, first_kernel};
