//! Changing the size of images and feature maps: nearest neighbour ×2, bilinear, Gaussian blur.

mod launch;

use super::kernel::{Element, Input, Kernel, for_each_chunk, run};
use super::simd::vectorised;
use crate::gradient::Tracked;
use candle_core::{Result, Shape, Tensor, bail};

/// Repeats every pixel 2×2. `x`: [batch, channels, height, width].
///
/// # Errors
/// `x` has another rank.
pub fn upsample_nearest_2x(x: &Tracked) -> Result<Tracked> {
    let y = run(&Nearest2x, &[x.value()])?;
    Ok(Tracked::record(y, [x], [], |[], grad| Ok([Some(run(&Nearest2xGradient, &[grad])?)])))
}

/// Resizes [batch, channels, h, w] to `height` × `width` as PyTorch's `interpolate(mode="bilinear", align_corners=False)`
/// does, without antialiasing.
///
/// # Errors
/// `x` has another rank or no pixels.
pub fn resize_bilinear(x: &Tracked, height: usize, width: usize) -> Result<Tracked> {
    let (_, _, from_height, from_width) = x.value().dims4()?;
    let resize = Bilinear { from: [from_height, from_width], to: [height, width] };
    let y = run(&resize, &[x.value()])?;
    Ok(Tracked::record(y, [x], [], move |[], grad| Ok([Some(run(&BilinearGradient(resize), &[grad])?)])))
}

/// Gaussian blur of 9×9 taps, σ = 1, reflected borders; [batch, channels, height, width], no gradient.
/// Self-attention guidance degrades images with it (Hong et al. 2023).
///
/// # Errors
/// A side is shorter than 5 pixels, which cannot be reflected.
pub fn gaussian_blur(x: &Tensor) -> Result<Tensor> {
    run(&GaussianBlur, &[x])
}

fn planes(dims: &[usize]) -> Result<(usize, usize)> {
    match *dims {
        [_, _, height, width] if height > 0 && width > 0 => Ok((height, width)),
        _ => bail!("expected [batch, channels, height, width], found {dims:?}"),
    }
}

fn with_size(dims: &[usize], height: usize, width: usize) -> Shape {
    Shape::from((dims[0], dims[1], height, width))
}

vectorised! {
    fn repeat_twice<T: Element>(y: &mut [T], x: &[T]) {
        for (pair, &x) in y.as_chunks_mut::<2>().0.iter_mut().zip(x) {
            *pair = [x, x];
        }
    }

    /// Sums the 2×2 blocks of two rows.
    fn sum_blocks<T: Element>(sums: &mut [T], upper: &[T], lower: &[T]) {
        let rows = upper.as_chunks::<2>().0.iter().zip(lower.as_chunks::<2>().0);
        for (sum, (u, l)) in sums.iter_mut().zip(rows) {
            *sum = (u[0] + u[1]) + (l[0] + l[1]);
        }
    }

    /// y += weight·x
    fn add_scaled<T: Element>(y: &mut [T], x: &[T], weight: T) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y += weight * x;
        }
    }
}

struct Nearest2x;

impl Kernel for Nearest2x {
    fn run<T: Element>(&self, inputs: &[Input<'_, T>]) -> Result<(Vec<T>, Shape)> {
        let x = &inputs[0];
        let (height, width) = planes(x.dims)?;
        let mut y = vec![T::zero(); 4 * x.data.len()];
        for_each_chunk(&mut y, 4 * height * width, 4 * x.data.len(), |plane, y| {
            let x = &x.data[plane * height * width..(plane + 1) * height * width];
            for (rows, x) in y.chunks_exact_mut(4 * width).zip(x.chunks_exact(width)) {
                let (upper, lower) = rows.split_at_mut(2 * width);
                repeat_twice(upper, x);
                lower.copy_from_slice(upper);
            }
        });
        Ok((y, with_size(x.dims, 2 * height, 2 * width)))
    }
}

/// Sums every 2×2 block.
struct Nearest2xGradient;

impl Kernel for Nearest2xGradient {
    fn run<T: Element>(&self, inputs: &[Input<'_, T>]) -> Result<(Vec<T>, Shape)> {
        let grad = &inputs[0];
        let (height, width) = planes(grad.dims)?;
        let mut gx = vec![T::zero(); grad.data.len() / 4];
        for_each_chunk(&mut gx, height * width / 4, grad.data.len(), |plane, gx| {
            let grad = &grad.data[plane * height * width..(plane + 1) * height * width];
            for (gx, rows) in gx.chunks_exact_mut(width / 2).zip(grad.chunks_exact(2 * width)) {
                let (upper, lower) = rows.split_at(width);
                sum_blocks(gx, upper, lower);
            }
        });
        Ok((gx, with_size(grad.dims, height / 2, width / 2)))
    }
}

#[derive(Clone, Copy)]
struct Bilinear {
    /// [height, width]
    from: [usize; 2],
    /// [height, width]
    to: [usize; 2],
}

/// Which two source pixels an output pixel mixes: `(1 − weight)·x[lower] + weight·x[upper]`.
struct Tap<T> {
    lower: usize,
    upper: usize,
    weight: T,
}

impl Bilinear {
    /// Source coordinates are computed in the element type, as PyTorch does.
    fn taps<T: Element>(&self, axis: usize) -> Vec<Tap<T>> {
        let (from, to) = (self.from[axis], self.to[axis]);
        let (scale, half) = (T::from_usize(from) / T::from_usize(to), T::from_f64(0.5));
        let tap = |i| {
            let source = scale * (T::from_usize(i) + half) - half;
            let source = if source < T::zero() { T::zero() } else { source };
            let lower = (source.floor().to_f64() as usize).min(from - 1);
            Tap { lower, upper: (lower + 1).min(from - 1), weight: source - T::from_usize(lower) }
        };
        (0..to).map(tap).collect()
    }
}

impl Kernel for Bilinear {
    fn run<T: Element>(&self, inputs: &[Input<'_, T>]) -> Result<(Vec<T>, Shape)> {
        let x = &inputs[0];
        let (height, width) = planes(x.dims)?;
        let (rows, columns) = (self.taps::<T>(0), self.taps::<T>(1));
        let shape = with_size(x.dims, self.to[0], self.to[1]);
        let mut y = vec![T::zero(); shape.elem_count()];
        for_each_chunk(&mut y, rows.len() * columns.len(), 8 * shape.elem_count(), |plane, y| {
            let x = &x.data[plane * height * width..(plane + 1) * height * width];
            for (y, row) in y.chunks_exact_mut(columns.len()).zip(&rows) {
                let (lower, upper) = (&x[row.lower * width..][..width], &x[row.upper * width..][..width]);
                for (y, column) in y.iter_mut().zip(&columns) {
                    let mix = |x: &[T]| (T::one() - column.weight) * x[column.lower] + column.weight * x[column.upper];
                    *y = (T::one() - row.weight) * mix(lower) + row.weight * mix(upper);
                }
            }
        });
        Ok((y, shape))
    }
}

struct BilinearGradient(Bilinear);

impl Kernel for BilinearGradient {
    fn run<T: Element>(&self, inputs: &[Input<'_, T>]) -> Result<(Vec<T>, Shape)> {
        let grad = &inputs[0];
        let [height, width] = self.0.from;
        let (rows, columns) = (self.0.taps::<T>(0), self.0.taps::<T>(1));
        let shape = with_size(grad.dims, height, width);
        let mut gx = vec![T::zero(); shape.elem_count()];
        for_each_chunk(&mut gx, height * width, 8 * grad.data.len(), |plane, gx| {
            let size = rows.len() * columns.len();
            let grad = &grad.data[plane * size..(plane + 1) * size];
            for (grad, row) in grad.chunks_exact(columns.len()).zip(&rows) {
                for (source, weight) in [(row.lower, T::one() - row.weight), (row.upper, row.weight)] {
                    let gx = &mut gx[source * width..(source + 1) * width];
                    for (&grad, column) in grad.iter().zip(&columns) {
                        gx[column.lower] += weight * (T::one() - column.weight) * grad;
                        gx[column.upper] += weight * column.weight * grad;
                    }
                }
            }
        });
        Ok((gx, shape))
    }
}

struct GaussianBlur;

/// Taps on either side of the centre.
const REACH: usize = 4;

impl GaussianBlur {
    /// exp(−x²/2) at −4..4, normalised; made in f32 for every element type, as the authors make it.
    fn kernel<T: Element>() -> [T; 2 * REACH + 1] {
        let mut taps = [0f32; 2 * REACH + 1];
        for (i, tap) in taps.iter_mut().enumerate() {
            let x = i as f32 - REACH as f32;
            *tap = (-0.5 * x * x).exp();
        }
        let total: f32 = taps.iter().sum();
        taps.map(|tap| T::from_f64(f64::from(tap / total)))
    }
}

/// Index of the pixel that `i - REACH` reflects to in a row of `n`.
fn reflected(i: usize, n: usize) -> usize {
    let i = i.abs_diff(REACH);
    if i < n { i } else { 2 * (n - 1) - i }
}

impl Kernel for GaussianBlur {
    fn run<T: Element>(&self, inputs: &[Input<'_, T>]) -> Result<(Vec<T>, Shape)> {
        let x = &inputs[0];
        let (height, width) = planes(x.dims)?;
        if height.min(width) <= REACH {
            bail!("a map of {height}x{width} is too small to blur: its sides must be longer than {REACH}");
        }
        let kernel = Self::kernel::<T>();
        let mut y = vec![T::zero(); x.data.len()];
        for_each_chunk(&mut y, height * width, 36 * x.data.len(), |plane, y| {
            let x = &x.data[plane * height * width..(plane + 1) * height * width];
            let mut across = vec![T::zero(); height * width];
            for (across, x) in across.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                for (column, value) in across.iter_mut().enumerate() {
                    for (tap, &weight) in kernel.iter().enumerate() {
                        *value += weight * x[reflected(column + tap, width)];
                    }
                }
            }
            for (row, y) in y.chunks_exact_mut(width).enumerate() {
                for (tap, &weight) in kernel.iter().enumerate() {
                    let source = &across[reflected(row + tap, height) * width..][..width];
                    add_scaled(y, source, weight);
                }
            }
        });
        Ok((y, Shape::from(x.dims)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{assert_close, assert_gradient, random};
    use super::*;
    use candle_core::Device;

    #[test]
    fn nearest_upsampling_equals_candles_and_its_gradient_is_exact() {
        let x = random(&[2, 3, 4, 5], 1);
        assert_close(
            upsample_nearest_2x(&Tracked::from(&x)).unwrap().value(),
            &x.upsample_nearest2d(8, 10).unwrap(),
            0.0,
        );
        assert_gradient(&x, upsample_nearest_2x);
    }

    #[test]
    fn bilinear_resizing_is_two_matrix_products_and_its_gradient_is_exact() {
        for (from, to) in [([7, 5], [4, 9]), ([8, 8], [8, 8]), ([32, 32], [24, 24]), ([3, 3], [10, 10])] {
            let x = random(&[2, 3, from[0], from[1]], 1);
            let matrix = |axis: usize| {
                let mut matrix = vec![0f64; to[axis] * from[axis]];
                for (i, tap) in (Bilinear { from, to }).taps::<f64>(axis).iter().enumerate() {
                    matrix[i * from[axis] + tap.lower] += 1.0 - tap.weight;
                    matrix[i * from[axis] + tap.upper] += tap.weight;
                }
                Tensor::from_vec(matrix, (to[axis], from[axis]), &Device::Cpu).unwrap()
            };
            let composed = matrix(0).broadcast_matmul(&x.broadcast_matmul(&matrix(1).t().unwrap()).unwrap()).unwrap();
            assert_close(resize_bilinear(&Tracked::from(&x), to[0], to[1]).unwrap().value(), &composed, 1e-13);
            assert_gradient(&x, |x| resize_bilinear(x, to[0], to[1]));
        }
    }

    #[test]
    fn bilinear_coordinates_are_half_pixel_centred_and_clamped_at_the_border() {
        let x = Tensor::new(&[[[[0f64, 4.0]]]], &Device::Cpu).unwrap();
        let y = resize_bilinear(&Tracked::from(&x), 1, 4).unwrap().value().flatten_all().unwrap();
        assert_eq!(y.to_vec1::<f64>().unwrap(), [0.0, 1.0, 3.0, 4.0]);
    }

    #[test]
    fn blurring_keeps_constants_reflects_borders_and_refuses_small_maps() {
        let constant = Tensor::ones((1, 1, 6, 5), candle_core::DType::F64, &Device::Cpu).unwrap();
        assert_close(&gaussian_blur(&constant).unwrap(), &constant, 1e-7);
        let mut pixels = vec![0f64; 49];
        pixels[0] = 1.0;
        let corner = gaussian_blur(&Tensor::from_vec(pixels, (1, 1, 7, 7), &Device::Cpu).unwrap()).unwrap();
        let k = GaussianBlur::kernel::<f64>();
        let corner = corner.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        assert_eq!(corner[0], k[4] * k[4]);
        assert!((corner[8] - k[3] * k[3]).abs() < 1e-16, "a border pixel is not repeated by reflection");
        assert!(gaussian_blur(&random(&[1, 1, 4, 8], 1)).is_err());
    }
}
