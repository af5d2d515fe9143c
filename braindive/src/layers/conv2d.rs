//! Two-dimensional convolution as matrix products over patches (im2col), any kernel, stride and symmetric padding.

use super::gemm::{Matrix, multiply};
use super::kernel::{Element, Input, Kernel, custom_op, for_each_chunk, map_tasks, with_elements, with_optional};
use super::work;
use crate::error;
use crate::gradient::Tracked;
use crate::weights::Weights;
use candle_core::{Result, Shape, Tensor, bail};

/// Elements of a task's patch matrix: about a level-2 cache of f32.
const PATCH_ELEMENTS: usize = 1 << 18;
/// Fewer output pixels than this make the matrix product slow.
const TASK_PIXELS: usize = 256;
/// Input channels per task of the gradient.
const GRADIENT_CHANNELS: usize = 32;

/// A frozen convolution.
#[derive(Debug, Clone)]
pub struct Conv2d {
    /// [outputs, inputs, kernel, kernel]
    weight: Tensor,
    /// [outputs]
    bias: Option<Tensor>,
    stride: usize,
    padding: usize,
}

impl Conv2d {
    /// Reads `weight` [outputs, inputs, kernel, kernel] and `bias` [outputs]; stride 1, padding that keeps the size.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load(inputs: usize, outputs: usize, kernel: usize, weights: &Weights) -> error::Result<Self> {
        let weight = weights.get(&[outputs, inputs, kernel, kernel], "weight")?;
        Ok(Self { weight, bias: Some(weights.get(&[outputs], "bias")?), stride: 1, padding: kernel / 2 })
    }

    /// Reads `weight` [outputs, inputs, kernel, kernel]; patches side by side, no bias (the patch embedding of a ViT).
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load_patches(inputs: usize, outputs: usize, kernel: usize, weights: &Weights) -> error::Result<Self> {
        let weight = weights.get(&[outputs, inputs, kernel, kernel], "weight")?;
        Ok(Self { weight, bias: None, stride: kernel, padding: 0 })
    }

    /// The same layer with another stride, at least 1.
    #[must_use]
    pub(crate) fn with_stride(self, stride: usize) -> Self {
        Self { stride, ..self }
    }

    /// `x`: [batch, inputs, height, width].
    ///
    /// # Errors
    /// `x` has another number of channels, or is smaller than the kernel.
    pub fn forward(&self, x: &Tracked) -> Result<Tracked> {
        let geometry = self.geometry(x.value().dims())?;
        work::count(geometry.multiply_adds());
        let y = x.value().contiguous()?.apply_op1_no_bwd(self)?;
        let gradient = InputGradient { geometry, weight: self.weight.clone() };
        Ok(Tracked::record(y, [x], [], move |[], grad| {
            work::count(geometry.multiply_adds());
            Ok([Some(grad.contiguous()?.apply_op1_no_bwd(&gradient)?)])
        }))
    }

    fn geometry(&self, dims: &[usize]) -> Result<Geometry> {
        let (outputs, inputs, kernel, _) = self.weight.dims4()?;
        match *dims {
            [batch, channels, height, width]
                if channels == inputs && height.min(width) + 2 * self.padding >= kernel =>
            {
                let size = |length: usize| (length + 2 * self.padding - kernel) / self.stride + 1;
                let (out_height, out_width) = (size(height), size(width));
                let (stride, padding) = (self.stride, self.padding);
                Ok(Geometry { batch, inputs, outputs, kernel, stride, padding, height, width, out_height, out_width })
            }
            _ => bail!("a {kernel}x{kernel} convolution over {inputs} channels was given a tensor of shape {dims:?}"),
        }
    }
}

#[derive(Clone, Copy)]
struct Geometry {
    batch: usize,
    inputs: usize,
    outputs: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
    height: usize,
    width: usize,
    out_height: usize,
    out_width: usize,
}

impl Geometry {
    fn pixels(&self) -> usize {
        self.height * self.width
    }

    fn out_pixels(&self) -> usize {
        self.out_height * self.out_width
    }

    /// Rows of the patch matrix: one per input channel and tap.
    fn taps(&self) -> usize {
        self.inputs * self.kernel * self.kernel
    }

    fn multiply_adds(&self) -> usize {
        self.batch * self.outputs * self.taps() * self.out_pixels()
    }

    fn work(&self) -> usize {
        2 * self.multiply_adds()
    }

    /// The patch matrix of a 1x1 convolution is its input.
    fn is_pointwise(&self) -> bool {
        self.kernel == 1 && self.stride == 1 && self.padding == 0
    }

    /// Output rows per task.
    fn tile(&self, taps: usize) -> usize {
        let pixels = (PATCH_ELEMENTS / taps).max(TASK_PIXELS);
        (pixels / self.out_width).clamp(1, self.out_height)
    }

    /// For every tap of `channels` and every row of the tile, the run of output columns that reads inside the image:
    /// `visit(offset in the patch matrix, offset in the channels' planes, length)`; steps of `stride` in the plane.
    fn for_each_run(&self, channels: usize, rows: std::ops::Range<usize>, mut visit: impl FnMut(usize, usize, usize)) {
        let columns = rows.len() * self.out_width;
        for tap in 0..channels * self.kernel * self.kernel {
            let (channel, ky, kx) =
                (tap / (self.kernel * self.kernel), tap / self.kernel % self.kernel, tap % self.kernel);
            let first = self.padding.saturating_sub(kx).div_ceil(self.stride);
            let end = (self.width + self.padding).saturating_sub(kx).div_ceil(self.stride).min(self.out_width);
            for (i, row) in rows.clone().enumerate() {
                let y = row * self.stride + ky;
                if y >= self.padding && y - self.padding < self.height && first < end {
                    let plane = (channel * self.height + y - self.padding) * self.width;
                    let x = first * self.stride + kx - self.padding;
                    visit(tap * columns + i * self.out_width + first, plane + x, end - first);
                }
            }
        }
    }
}

impl Kernel for Conv2d {
    fn run<T: Element>(&self, inputs: &[Input<'_, T>]) -> Result<(Vec<T>, Shape)> {
        let x = &inputs[0];
        let g = self.geometry(x.dims)?;
        let shape = Shape::from((g.batch, g.outputs, g.out_height, g.out_width));
        let tile = g.tile(g.taps());
        let tiles = g.out_height.div_ceil(tile);
        let tile_rows = |i: usize| i % tiles * tile..(i % tiles * tile + tile).min(g.out_height);
        let products = with_elements::<T, _>(&self.weight, |weight| {
            let weight = Matrix::new(weight, g.outputs, g.taps(), g.taps());
            map_tasks(g.batch * tiles, g.work(), |i| {
                let image = &x.data[i / tiles * g.inputs * g.pixels()..][..g.inputs * g.pixels()];
                let rows = tile_rows(i);
                let columns = rows.len() * g.out_width;
                let mut product = vec![T::zero(); g.outputs * columns];
                if g.is_pointwise() {
                    let pixels = Matrix::new(&image[rows.start * g.width..], g.inputs, columns, g.pixels());
                    multiply(&mut product, columns, false, weight, pixels);
                } else {
                    let mut patches = vec![T::zero(); g.taps() * columns];
                    g.for_each_run(g.inputs, rows, |patch, pixel, length| {
                        let target = &mut patches[patch..patch + length];
                        if g.stride == 1 {
                            target.copy_from_slice(&image[pixel..pixel + length]);
                        } else {
                            target.iter_mut().zip(image[pixel..].iter().step_by(g.stride)).for_each(|(p, &v)| *p = v);
                        }
                    });
                    multiply(&mut product, columns, false, weight, Matrix::new(&patches, g.taps(), columns, columns));
                }
                product
            })
        })?;
        let mut y = vec![T::zero(); shape.elem_count()];
        with_optional::<T, _>(self.bias.as_ref(), |bias| {
            for_each_chunk(&mut y, g.out_pixels(), 4 * shape.elem_count(), |plane, y| {
                let (image, channel) = (plane / g.outputs, plane % g.outputs);
                let shift = bias.map_or(T::zero(), |bias| bias[channel]);
                for (i, product) in products[image * tiles..(image + 1) * tiles].iter().enumerate() {
                    let (begin, columns) = (i * tile * g.out_width, tile_rows(i).len() * g.out_width);
                    let product = &product[channel * columns..(channel + 1) * columns];
                    y[begin..begin + columns].iter_mut().zip(product).for_each(|(y, &v)| *y = v + shift);
                }
            });
        })?;
        Ok((y, shape))
    }
}

custom_op!(Conv2d, CustomOp1, "frozen-conv2d");

/// Wᵀ gy gives the gradient of every patch; patches add up where they overlap (col2im).
struct InputGradient {
    geometry: Geometry,
    weight: Tensor,
}

impl Kernel for InputGradient {
    fn run<T: Element>(&self, inputs: &[Input<'_, T>]) -> Result<(Vec<T>, Shape)> {
        let (g, grad) = (self.geometry, inputs[0].data);
        let shape = Shape::from((g.batch, g.inputs, g.height, g.width));
        let mut gx = vec![T::zero(); shape.elem_count()];
        with_elements::<T, _>(&self.weight, |weight| {
            let group = GRADIENT_CHANNELS.min(g.inputs);
            let groups = g.inputs.div_ceil(group);
            let mut planes: Vec<&mut [T]> =
                gx.chunks_mut(g.inputs * g.pixels()).flat_map(|image| image.chunks_mut(group * g.pixels())).collect();
            for_each_chunk(&mut planes, 1, g.work(), |i, planes| {
                let (image, first) = (i / groups, i % groups * group);
                let gx = &mut *planes[0];
                let channels = gx.len() / g.pixels();
                let taps = channels * g.kernel * g.kernel;
                let weight =
                    Matrix::new(&weight[first * g.kernel * g.kernel..], g.outputs, taps, g.taps()).transposed();
                let grad = &grad[image * g.outputs * g.out_pixels()..][..g.outputs * g.out_pixels()];
                if g.is_pointwise() {
                    let grad = Matrix::new(grad, g.outputs, g.pixels(), g.pixels());
                    return multiply(gx, g.pixels(), false, weight, grad);
                }
                let tile = g.tile(taps);
                let mut patches = vec![T::zero(); taps * tile * g.out_width];
                for begin in (0..g.out_height).step_by(tile) {
                    let rows = begin..(begin + tile).min(g.out_height);
                    let columns = rows.len() * g.out_width;
                    let grad = Matrix::new(&grad[begin * g.out_width..], g.outputs, columns, g.out_pixels());
                    multiply(&mut patches, columns, false, weight, grad);
                    g.for_each_run(channels, rows, |patch, pixel, length| {
                        let source = &patches[patch..patch + length];
                        if g.stride == 1 {
                            gx[pixel..pixel + length].iter_mut().zip(source).for_each(|(x, &v)| *x += v);
                        } else {
                            gx[pixel..].iter_mut().step_by(g.stride).zip(source).for_each(|(x, &v)| *x += v);
                        }
                    });
                }
            });
        })?;
        Ok((gx, shape))
    }
}

custom_op!(InputGradient, CustomOp1, "frozen-conv2d-input-gradient");

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{assert_close, assert_gradient, random};
    use super::*;

    fn layer(weight: &Tensor, bias: Option<&Tensor>, stride: usize, padding: usize) -> Conv2d {
        Conv2d { weight: weight.clone(), bias: bias.cloned(), stride, padding }
    }

    #[test]
    fn equals_candles_convolution_and_its_gradient_is_exact() {
        // (inputs, outputs, kernel, stride, padding, height, width)
        let cases = [
            (3, 5, 3, 1, 1, 7, 6),
            (40, 4, 3, 1, 1, 20, 33),
            (4, 6, 3, 2, 1, 8, 8),
            (4, 6, 3, 2, 1, 7, 5),
            (35, 6, 1, 1, 0, 5, 4),
            (3, 8, 4, 4, 0, 12, 8),
        ];
        for (inputs, outputs, kernel, stride, padding, height, width) in cases {
            let weight = random(&[outputs, inputs, kernel, kernel], 1);
            let (bias, x) = (random(&[outputs], 2), random(&[2, inputs, height, width], 3));
            let layer = layer(&weight, Some(&bias), stride, padding);
            let composed = x.conv2d(&weight, padding, stride, 1, 1).unwrap();
            let composed = composed.broadcast_add(&bias.reshape((1, outputs, 1, 1)).unwrap()).unwrap();
            assert_close(layer.forward(&Tracked::from(&x)).unwrap().value(), &composed, 1e-12);
            assert_gradient(&x, |x| layer.forward(x));
        }
    }

    #[test]
    fn an_image_of_several_tiles_equals_candles_convolution() {
        let (weight, x) = (random(&[8, 64, 3, 3], 1), random(&[1, 64, 40, 40], 2));
        let layer = layer(&weight, None, 1, 1);
        assert_close(
            layer.forward(&Tracked::from(&x)).unwrap().value(),
            &x.conv2d(&weight, 1, 1, 1, 1).unwrap(),
            1e-11,
        );
        assert_gradient(&x, |x| layer.forward(x));
    }

    #[test]
    fn the_result_does_not_depend_on_the_number_of_threads() {
        let (weight, x) = (random(&[48, 64, 3, 3], 1), random(&[1, 64, 40, 40], 2));
        let layer = layer(&weight, None, 1, 1);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| super::super::gradient_check::gradient(&x, &|x: &Tracked| layer.forward(x)).0)
        };
        assert_close(&run(1), &run(3), 0.0);
    }

    #[test]
    fn another_number_of_channels_is_an_error() {
        let layer = layer(&random(&[2, 3, 3, 3], 1), None, 1, 1);
        assert!(layer.forward(&Tracked::from(random(&[1, 4, 8, 8], 2))).is_err());
    }
}
