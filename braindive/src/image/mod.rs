//! Images as files and as tensors: 8-bit pixels, PNG with metadata ([`png`]), and PIL's bicubic resizing ([`resize`]).

pub mod png;
pub mod resize;

use candle_core::{DType, Device, Tensor};
use std::path::PathBuf;

/// An 8-bit RGB image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RgbImage8 {
    width: usize,
    height: usize,
    /// Row by row from the top, three bytes a pixel: red, green, blue.
    pixels: Vec<u8>,
}

/// Why an image could not be made, read or written.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("an RGB image of {width} x {height} pixels needs {} bytes, {found} were given", 3 * width * height)]
    Size { width: usize, height: usize, found: usize },
    #[error("an image tensor has the shape [1, 3, height, width], this one has {found:?}")]
    Shape { found: Vec<usize> },
    #[error("the image holds {found} at pixel ({x}, {y}); the decoder gave no finite number there")]
    NonFinite { found: f32, x: usize, y: usize },
    #[error("converting an image from or to a tensor: {0}")]
    Tensor(#[from] candle_core::Error),
    #[error("writing the PNG: {0}")]
    Encode(#[source] ::png::EncodingError),
    #[error("PNG text keyword {keyword:?}: a keyword has 1 to 79 Latin-1 characters")]
    Keyword { keyword: String },
    #[error("the PNG says it has {width} x {height} pixels; expected {most} at most along each side")]
    TooLarge { width: u32, height: u32, most: u32 },
    #[error("reading the PNG: {0}")]
    Decode(#[source] ::png::DecodingError),
    #[error("reading {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}: {source}")]
    File { path: PathBuf, source: Box<ImageError> },
}

impl RgbImage8 {
    /// From pixels row by row from the top, three bytes (red, green, blue) a pixel.
    pub fn new(width: usize, height: usize, pixels: Vec<u8>) -> Result<Self, ImageError> {
        match pixels.len() == 3 * width * height && !pixels.is_empty() {
            true => Ok(Self { width, height, pixels }),
            false => Err(ImageError::Size { width, height, found: pixels.len() }),
        }
    }

    /// From a tensor `[1, 3, height, width]` of intensities, which are clamped to 0..1: the 8-bit value is 255 times the
    /// intensity, rounded half to even (as NumPy's `round` does), computed in f32.
    pub fn from_tensor(image: &Tensor) -> Result<Self, ImageError> {
        let &[1, 3, height, width] = image.dims() else {
            return Err(ImageError::Shape { found: image.dims().to_vec() });
        };
        let interleaved = image.get(0)?.permute((1, 2, 0))?.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        if let Some(at) = interleaved.iter().position(|value| !value.is_finite()) {
            return Err(ImageError::NonFinite { found: interleaved[at], x: at / 3 % width, y: at / 3 / width });
        }
        let pixels = interleaved.iter().map(|value| (value.clamp(0.0, 1.0) * 255.0).round_ties_even() as u8).collect();
        Self::new(width, height, pixels)
    }

    /// To a tensor `[1, 3, height, width]` of intensities in 0..1, f32.
    pub fn to_tensor(&self, device: &Device) -> Result<Tensor, ImageError> {
        let intensities: Vec<f32> = self.pixels.iter().map(|&value| f32::from(value) / 255.0).collect();
        let image = Tensor::from_vec(intensities, (self.height, self.width, 3), &Device::Cpu)?;
        Ok(image.permute((2, 0, 1))?.unsqueeze(0)?.contiguous()?.to_device(device)?)
    }

    pub fn width(&self) -> usize {
        self.width
    }

    pub fn height(&self) -> usize {
        self.height
    }

    /// Row by row from the top, three bytes (red, green, blue) a pixel.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn intensities_round_half_to_even_and_are_clamped() {
        // In f32, 0.3 · 255 = 76.5, 0.5 · 255 = 127.5 and 0.7 · 255 = 178.5 exactly.
        let image = Tensor::from_slice(&[-1f32, 0.3, 0.5, 0.7, 1.0, 2.0], (1, 3, 1, 2), &Device::Cpu).unwrap();
        assert_eq!(RgbImage8::from_tensor(&image).unwrap().pixels(), [0, 128, 255, 76, 178, 255]);
    }

    #[test]
    fn every_pixel_value_survives_the_way_through_a_tensor() {
        let image = RgbImage8::new(16, 16, (0..768).map(|at| (at % 256) as u8).collect()).unwrap();
        let tensor = image.to_tensor(&Device::Cpu).unwrap();
        assert_eq!(tensor.dims(), [1, 3, 16, 16]);
        assert_eq!(RgbImage8::from_tensor(&tensor).unwrap(), image);
    }

    #[test]
    fn a_nan_pixel_is_an_error_that_names_the_pixel() {
        let mut values = [0.5f32; 12];
        values[2 * 4 + 3] = f32::NAN;
        let image = Tensor::from_slice(&values, (1, 3, 2, 2), &Device::Cpu).unwrap();
        let message = RgbImage8::from_tensor(&image).unwrap_err().to_string();
        assert!(message.contains("(1, 1)"), "{message}");
    }
}
