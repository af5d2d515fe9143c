//! Images as tensors.

use crate::error::{Error, Result};
use candle_core::{DType, Device, Tensor};
use subject::image::RgbImage8;

/// From a tensor `[1, 3, height, width]` of intensities, which are clamped to 0..1: the 8-bit value is 255 times the
/// intensity, rounded half to even (as NumPy's `round` does), computed in f32.
///
/// # Errors
/// The tensor has another shape, or holds NaN or infinity.
pub fn from_tensor(image: &Tensor) -> Result<RgbImage8> {
    let &[1, 3, height, width] = image.dims() else {
        return Err(Error::ImageShape { found: image.dims().to_vec() });
    };
    let interleaved = image.get(0)?.permute((1, 2, 0))?.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
    if let Some(at) = interleaved.iter().position(|value| !value.is_finite()) {
        return Err(Error::NonFinitePixel { found: interleaved[at], x: at / 3 % width, y: at / 3 / width });
    }
    let pixels = interleaved.iter().map(|value| (value.clamp(0.0, 1.0) * 255.0).round_ties_even() as u8).collect();
    Ok(RgbImage8::new(width, height, pixels)?)
}

/// To a tensor `[1, 3, height, width]` of intensities in 0..1, f32.
///
/// # Errors
/// The device fails.
pub fn to_tensor(image: &RgbImage8, device: &Device) -> candle_core::Result<Tensor> {
    let intensities: Vec<f32> = image.pixels().iter().map(|&value| f32::from(value) / 255.0).collect();
    let image = Tensor::from_vec(intensities, (image.height(), image.width(), 3), &Device::Cpu)?;
    image.permute((2, 0, 1))?.unsqueeze(0)?.contiguous()?.to_device(device)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn intensities_round_half_to_even_and_are_clamped() {
        // In f32, 0.3 · 255 = 76.5, 0.5 · 255 = 127.5 and 0.7 · 255 = 178.5 exactly.
        let image = Tensor::from_slice(&[-1f32, 0.3, 0.5, 0.7, 1.0, 2.0], (1, 3, 1, 2), &Device::Cpu).unwrap();
        assert_eq!(from_tensor(&image).unwrap().pixels(), [0, 128, 255, 76, 178, 255]);
    }

    #[test]
    fn every_pixel_value_survives_the_way_through_a_tensor() {
        let image = RgbImage8::new(16, 16, (0..768).map(|at| (at % 256) as u8).collect()).unwrap();
        let tensor = to_tensor(&image, &Device::Cpu).unwrap();
        assert_eq!(tensor.dims(), [1, 3, 16, 16]);
        assert_eq!(from_tensor(&tensor).unwrap(), image);
    }

    #[test]
    fn a_nan_pixel_is_an_error_that_names_the_pixel() {
        let mut values = [0.5f32; 12];
        values[2 * 4 + 3] = f32::NAN;
        let image = Tensor::from_slice(&values, (1, 3, 2, 2), &Device::Cpu).unwrap();
        let message = from_tensor(&image).unwrap_err().to_string();
        assert!(message.contains("(1, 1)"), "{message}");
    }
}
