//! Convolution of any kernel, stride and symmetric padding as matrix products over patches: gathered before the product
//! (im2col) or scattered after it (col2im), whichever side has fewer channels.

use super::gemm::{Bias, Matrix, MatrixMut, multiply_in_blocks};
use super::kernel::{Element, for_each_chunk};
use std::ops::Range;

/// Elements of the patches that are made at once, unless one row of the image has more.
const PATCH_ELEMENTS: usize = 1 << 22;
/// Output channels and pixels of a task that gathers.
const GATHER_BLOCK: [usize; 2] = [160, 256];
/// Elements of the patches of a task that scatters: about a level-2 cache of f32.
const SCATTER_ELEMENTS: usize = 1 << 18;
/// Rows of the patches of a task that scatters.
const SCATTER_TAPS: usize = 288;

/// The extents of a convolution of one image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    pub inputs: usize,
    pub outputs: usize,
    pub kernel: usize,
    pub stride: usize,
    pub padding: usize,
    pub height: usize,
    pub width: usize,
    pub out_height: usize,
    pub out_width: usize,
}

impl Geometry {
    pub fn pixels(&self) -> usize {
        self.height * self.width
    }

    pub fn out_pixels(&self) -> usize {
        self.out_height * self.out_width
    }

    /// Rows of the patch matrix: one per input channel and tap.
    pub fn taps(&self) -> usize {
        self.inputs * self.kernel * self.kernel
    }

    /// Of one image.
    pub fn multiply_adds(&self) -> usize {
        self.outputs * self.taps() * self.out_pixels()
    }

    fn work(&self) -> usize {
        2 * self.multiply_adds()
    }

    /// The patch matrix of a 1x1 convolution is its input.
    pub fn is_pointwise(&self) -> bool {
        self.kernel == 1 && self.keeps_size()
    }

    /// Whether the output has the size of the input, and the adjoint is a convolution with the same extents.
    pub fn keeps_size(&self) -> bool {
        self.stride == 1 && self.kernel == 2 * self.padding + 1
    }

    /// The convolution with inputs and outputs exchanged, and its weight: every filter turned by 180°. If the size is kept, to
    /// gather with it is to scatter with the original, and the other way round.
    pub fn exchanged<T: Element>(&self, weight: &[T]) -> (Self, Vec<T>) {
        let (inputs, outputs, taps) = (self.inputs, self.outputs, self.kernel * self.kernel);
        let mut exchanged = Vec::with_capacity(weight.len());
        for input in 0..inputs {
            for output in 0..outputs {
                exchanged.extend(weight[(output * inputs + input) * taps..][..taps].iter().rev());
            }
        }
        (Self { inputs: outputs, outputs: inputs, ..*self }, exchanged)
    }

    /// y = W · patches of x + bias. `weight`: [outputs, inputs, kernel, kernel], `x`: [inputs, height, width],
    /// `y`: [outputs, out_height, out_width].
    pub fn gather<T: Element>(&self, weight: &[T], bias: Option<&[T]>, x: &[T], y: &mut [T]) {
        let weight = Matrix::new(weight, self.outputs, self.taps(), self.taps());
        let bias = Bias::of_rows(bias);
        let y = MatrixMut::new(y, self.outputs, self.out_pixels(), self.out_pixels());
        if self.is_pointwise() {
            let pixels = Matrix::new(x, self.inputs, self.pixels(), self.pixels());
            return multiply_in_blocks(y, GATHER_BLOCK, bias, weight, pixels);
        }
        let rows = (PATCH_ELEMENTS / (self.taps() * self.out_width)).max(1);
        for (i, band) in y.blocks(self.outputs, rows * self.out_width).into_iter().enumerate() {
            let columns = band.columns();
            let rows = i * rows..i * rows + columns / self.out_width;
            let mut patches = vec![T::zero(); self.taps() * columns];
            let work = 2 * patches.len();
            for_each_chunk(&mut patches, self.kernel * self.kernel * columns, work, |channel, patches| {
                let plane = &x[channel * self.pixels()..][..self.pixels()];
                self.for_each_run(rows.clone(), 0..self.height, |tap, row, first, pixel, length| {
                    let patch = &mut patches[tap * columns + row * self.out_width + first..][..length];
                    if self.stride == 1 {
                        patch.copy_from_slice(&plane[pixel..pixel + length]);
                    } else {
                        patch.iter_mut().zip(plane[pixel..].iter().step_by(self.stride)).for_each(|(p, &v)| *p = v);
                    }
                });
            });
            let patches = Matrix::new(&patches, self.taps(), columns, columns);
            multiply_in_blocks(band, GATHER_BLOCK, bias, weight, patches);
        }
    }

    /// The adjoint of [`Self::gather`], plus a bias: Wᵀ gy gives the gradient of every patch, and patches add up where they
    /// overlap. `grad`: [outputs, out_height, out_width], `gx`: [inputs, height, width], `bias`: [inputs].
    pub fn scatter<T: Element>(&self, weight: &[T], bias: Option<&[T]>, grad: &[T], gx: &mut [T]) {
        let taps_per_channel = self.kernel * self.kernel;
        let channels = (SCATTER_TAPS / taps_per_channel).clamp(1, self.inputs);
        // A band of an image has about as many rows of patches as of pixels, divided by the stride.
        let rows = (SCATTER_ELEMENTS / (channels * taps_per_channel * self.out_width)).max(self.kernel) * self.stride;
        let bands = self.height.div_ceil(rows);
        let gx = MatrixMut::new(gx, self.inputs, self.pixels(), self.pixels());
        let mut blocks = gx.blocks(channels, rows * self.width);
        for_each_chunk(&mut blocks, 1, self.work(), |i, blocks| {
            for gx in blocks {
                let first = i / bands * channels;
                let band = i % bands * rows..i % bands * rows + gx.columns() / self.width;
                let weight = &weight[first * taps_per_channel..];
                let weight = Matrix::new(weight, self.outputs, gx.rows() * taps_per_channel, self.taps()).transposed();
                let reads = self.rows_that_read(&band);
                let columns = reads.len() * self.out_width;
                let grad = &grad[reads.start * self.out_width..];
                let grad = Matrix::new(grad, self.outputs, columns, self.out_pixels());
                if self.is_pointwise() {
                    (0..gx.rows()).for_each(|row| gx.row(row).fill(bias.map_or(T::zero(), |bias| bias[first + row])));
                    gx.multiply(true, weight, grad);
                    continue;
                }
                let mut patches = vec![T::zero(); weight.rows * columns];
                MatrixMut::new(&mut patches, weight.rows, columns, columns).multiply(false, weight, grad);
                for channel in 0..gx.rows() {
                    let patches = &patches[channel * taps_per_channel * columns..];
                    let gx = gx.row(channel);
                    gx.fill(bias.map_or(T::zero(), |bias| bias[first + channel]));
                    self.for_each_run(reads.clone(), band.clone(), |tap, row, first, pixel, length| {
                        let patch = &patches[tap * columns + row * self.out_width + first..][..length];
                        let gx = &mut gx[pixel - band.start * self.width..];
                        if self.stride == 1 {
                            gx[..length].iter_mut().zip(patch).for_each(|(x, &v)| *x += v);
                        } else {
                            gx.iter_mut().step_by(self.stride).zip(patch).for_each(|(x, &v)| *x += v);
                        }
                    });
                }
            }
        });
    }

    /// The rows of output pixels whose patches touch the rows `band` of the input.
    fn rows_that_read(&self, band: &Range<usize>) -> Range<usize> {
        let first = (band.start + self.padding + 1).saturating_sub(self.kernel).div_ceil(self.stride);
        let end = ((band.end - 1 + self.padding) / self.stride + 1).min(self.out_height);
        first.min(end)..end
    }

    /// For every tap of a channel and every output row in `rows`, the run of output columns that reads the image in the rows
    /// `band`: `visit(tap, row counted from rows.start, first column, offset in the plane, length)`; the plane is read in steps
    /// of `stride`.
    fn for_each_run(
        &self,
        rows: Range<usize>,
        band: Range<usize>,
        mut visit: impl FnMut(usize, usize, usize, usize, usize),
    ) {
        for tap in 0..self.kernel * self.kernel {
            let (ky, kx) = (tap / self.kernel, tap % self.kernel);
            let first = self.padding.saturating_sub(kx).div_ceil(self.stride);
            let end = (self.width + self.padding).saturating_sub(kx).div_ceil(self.stride).min(self.out_width);
            for (i, row) in rows.clone().enumerate() {
                let y = row * self.stride + ky;
                if y >= self.padding && band.contains(&(y - self.padding)) && first < end {
                    let x = first * self.stride + kx - self.padding;
                    visit(tap, i, first, (y - self.padding) * self.width + x, end - first);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{assert_close, random};
    use super::*;
    use candle_core::{Device, Tensor};

    fn values(tensor: &Tensor) -> Vec<f64> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// (inputs, outputs, kernel, stride, padding, height, width)
    const CASES: [(usize, usize, usize, usize, usize, usize, usize); 11] = [
        (3, 5, 3, 1, 1, 7, 6),
        (40, 4, 3, 1, 1, 20, 33),
        (2, 3, 3, 1, 1, 1, 1),
        (4, 6, 3, 2, 1, 8, 8),
        (4, 6, 3, 2, 1, 7, 5),
        (35, 170, 1, 1, 0, 5, 4),
        (300, 6, 1, 1, 0, 40, 30),
        (3, 8, 4, 4, 0, 14, 8),
        (2, 3, 2, 3, 0, 8, 11),
        (33, 2, 3, 1, 1, 70, 128),
        (600, 2, 3, 1, 1, 33, 257),
    ];

    #[test]
    fn gathering_equals_candles_convolution_and_scattering_is_its_adjoint() {
        for (inputs, outputs, kernel, stride, padding, height, width) in CASES {
            let weight = random(&[outputs, inputs, kernel, kernel], 1);
            let (bias, x) = (random(&[outputs], 2), random(&[1, inputs, height, width], 3));
            let composed = x.conv2d(&weight, padding, stride, 1, 1).unwrap();
            let (_, _, out_height, out_width) = composed.dims4().unwrap();
            let g = Geometry { inputs, outputs, kernel, stride, padding, height, width, out_height, out_width };
            let mut y = vec![f64::NAN; outputs * g.out_pixels()];
            let weight = values(&weight);
            g.gather(&weight, Some(&values(&bias)), &values(&x), &mut y);
            let biased = composed.broadcast_add(&bias.reshape((1, outputs, 1, 1)).unwrap()).unwrap();
            assert_close(&Tensor::from_slice(&y, composed.dims(), &Device::Cpu).unwrap(), &biased, 1e-12);

            let (grad, shift) = (values(&random(composed.dims(), 4)), values(&random(&[inputs], 5)));
            let mut gx = vec![f64::NAN; inputs * g.pixels()];
            g.scatter(&weight, Some(&shift), &grad, &mut gx);
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            for seed in 10..14 {
                let x = values(&random(&[inputs, height * width], seed));
                g.gather(&weight, None, &x, &mut y);
                let shifted: f64 = x.chunks_exact(g.pixels()).zip(&shift).map(|(x, s)| s * x.iter().sum::<f64>()).sum();
                let (expected, found) = (dot(&y, &grad) + shifted, dot(&x, &gx));
                assert!((expected - found).abs() <= 1e-12 * x.len() as f64, "⟨Wx, g⟩ = {expected}, ⟨x, Wᵀg⟩ = {found}");
            }
        }
    }

    #[test]
    fn with_exchanged_weights_scattering_is_gathering() {
        for (inputs, outputs, kernel, stride, padding, height, width) in CASES {
            let (out_height, out_width) = (height, width);
            let g = Geometry { inputs, outputs, kernel, stride, padding, height, width, out_height, out_width };
            if g.keeps_size() {
                let weight = values(&random(&[outputs, inputs, kernel, kernel], 1));
                let x = values(&random(&[inputs, height, width], 3));
                let (mut gathered, mut scattered) = (vec![0.0; outputs * g.pixels()], vec![0.0; outputs * g.pixels()]);
                g.gather(&weight, None, &x, &mut gathered);
                let (exchanged, weight) = g.exchanged(&weight);
                exchanged.scatter(&weight, None, &x, &mut scattered);
                let difference = gathered.iter().zip(&scattered).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                assert!(difference <= 1e-12, "differ by {difference:e}");
            }
        }
    }
}
