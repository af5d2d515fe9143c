//! The kernels as PTX, which the driver translates for the card that it finds.

use crate::Element;

/// Major and minor version of the CUDA whose nvcc compiled the kernels: a driver must be of that version or newer.
pub const CUDA_VERSION: (u32, u32) = (number(env!("GPU_CUDA_MAJOR")), number(env!("GPU_CUDA_MINOR")));

/// The module of all kernels for elements of a type, compiled for compute capability 7.0.
pub fn ptx(element: Element) -> &'static str {
    match element {
        Element::F32 => include_str!(concat!(env!("OUT_DIR"), "/f32.ptx")),
        Element::F16 => include_str!(concat!(env!("OUT_DIR"), "/f16.ptx")),
        Element::Bf16 => include_str!(concat!(env!("OUT_DIR"), "/bf16.ptx")),
    }
}

const fn number(digits: &str) -> u32 {
    match u32::from_str_radix(digits, 10) {
        Ok(number) => number,
        Err(_) => panic!("the build script writes digits"),
    }
}
