//! The centre of a resized image, as torchvision's transforms for inference make it: bilinear with antialiasing, then a centre crop.

use super::Linear;
use crate::gradient::Tracked;
use candle_core::{Result, Tensor, bail};

/// Resizes [batch, channels, h, w] so that the shorter side has `shorter` pixels, as PyTorch's `interpolate(mode="bilinear",
/// antialias=True)` does, and returns the centre: [batch, channels, size, size]. Pixels are not rounded.
///
/// # Errors
/// `x` has another rank or no pixels, or `size` is larger than `shorter`.
pub fn resize_crop(x: &Tracked, shorter: usize, size: usize) -> Result<Tracked> {
    let (batch, channels, height, width) = x.value().dims4()?;
    let least = height.min(width);
    if least == 0 || size > shorter {
        bail!("{height}x{width} pixels cannot be resized to {shorter} and cropped to {size}");
    }
    let mut x = x.reshape(&[batch * channels, height, width])?;
    // Along a row, which then becomes a column; twice.
    for from in [width, height] {
        let taps = taps(from, shorter * from / least, size);
        let taps = Tensor::from_vec(taps, (size, from), x.value().device())?.to_dtype(x.value().dtype())?;
        let rows = Linear::new(&taps, None)?.forward(&x)?;
        let (planes, count, _) = rows.value().dims3()?;
        x = rows.reshape(&[planes, count, 1, size])?.to_tokens()?;
    }
    x.reshape(&[batch, channels, size, size])
}

/// [size, from]: what every input pixel along an axis gives to each of the `size` middle ones of `to` output pixels: a triangle as
/// wide as two of the coarser pixels, of sum 1.
fn taps(from: usize, to: usize, size: usize) -> Vec<f64> {
    let scale = from as f64 / to as f64;
    let reach = scale.max(1.0);
    // torchvision rounds half a pixel to even.
    let first = ((to - size) as f64 / 2.0).round_ties_even() as usize;
    let mut taps = vec![0.0; size * from];
    for (i, row) in taps.chunks_exact_mut(from).enumerate() {
        let center = scale * ((first + i) as f64 + 0.5);
        for (at, tap) in row.iter_mut().enumerate() {
            *tap = (1.0 - (at as f64 + 0.5 - center).abs() / reach).max(0.0);
        }
        let sum: f64 = row.iter().sum();
        row.iter_mut().for_each(|tap| *tap /= sum);
    }
    taps
}

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{assert_close, assert_gradient, random};
    use super::*;

    #[test]
    fn half_the_size_is_the_binomial_mean_of_four_and_the_gradient_is_exact() {
        let row = |values: [f64; 8]| {
            let image = Tensor::from_vec(values.repeat(8), (1, 1, 8, 8), &candle_core::Device::Cpu).unwrap();
            resize_crop(&image.into(), 4, 2).unwrap().into_value()
        };
        let eighths = row([0., 0., 0., 8., 0., 0., 0., 0.]);
        let expected = Tensor::new(&[[[[3f64, 1.], [3., 1.]]]], eighths.device()).unwrap();
        assert_close(&eighths, &expected, 1e-14);
        assert_gradient(&random(&[2, 3, 7, 9], 1), |x| resize_crop(x, 5, 4));
        assert!(resize_crop(&random(&[1, 3, 8, 8], 1).into(), 4, 5).is_err());
    }
}
