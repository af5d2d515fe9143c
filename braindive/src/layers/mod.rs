//! Layers with frozen weights: forward, and the gradient with respect to the input only.
//!
//! Every layer is a kernel that computes in f32 or f64 on the CPU (f16 and bf16 in f32), with the same result on any number of threads, and a
//! second one for its input gradient. No weight ever has a gradient.

mod attention;
mod check;
mod conv2d;
mod elementary;
mod gemm;
mod kernel;
mod linear;
pub mod machine;
mod moments;
mod norm;
mod patches;
mod pointwise;
mod prefetch;
mod resample;
mod resize_crop;
mod simd;
mod sum;
mod transpose;
mod unit_norm;
mod winograd;
mod work;

pub use attention::Attention;
pub use check::{Finding, check};
pub use conv2d::Conv2d;
pub(crate) use gemm::{Bias, Matrix, MatrixMut, multiply, multiply_in_blocks};
pub(crate) use kernel::Element;
pub use linear::Linear;
pub use norm::{GroupNorm, LayerNorm};
pub use pointwise::{Activation, clamp_unit, geglu};
pub(crate) use prefetch::prefetch;
pub use resample::{gaussian_blur, resize_bilinear, upsample_nearest_2x};
pub use resize_crop::resize_crop;
pub(crate) use simd::vectorised;
pub(crate) use sum::add;
pub(crate) use transpose::{transpose, transposed};
pub use unit_norm::unit_norm;
pub use work::multiply_adds;

#[cfg(test)]
pub(crate) mod gradient_check;
