//! Kernels in CUDA C, how they are launched, and NVIDIA's libraries. No tensors here.

mod launch;

pub use launch::{Argument, Grid};
