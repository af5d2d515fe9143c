//! Two-dimensional convolution of any kernel, stride and symmetric padding, and the choice of its algorithm.

mod launch;

use super::kernel::{Element, Input, Kernel, run, with_elements, with_optional};
use super::patches::Geometry;
use super::winograd::{self, Filters};
use super::work;
use crate::error;
use crate::gradient::Tracked;
use crate::weights::Weights;
use candle_core::{Result, Shape, Tensor, bail};

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

    /// `weight`: [outputs, inputs, kernel, kernel]; `bias`: [outputs]; `stride` at least 1; `padding` on all four sides.
    ///
    /// # Errors
    /// `weight` is no bank of square filters, or `bias` has not one element per output.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>, stride: usize, padding: usize) -> Result<Self> {
        let (outputs, _, height, width) = weight.dims4()?;
        if height != width || stride == 0 {
            bail!(
                "a convolution was given filters of {height}x{width} and stride {stride}; filters are square, strides positive"
            );
        }
        if let Some(bias) = bias.filter(|bias| bias.dims() != [outputs]) {
            bail!("a convolution of {outputs} outputs was given a bias of shape {:?}", bias.dims());
        }
        let bias = bias.map(|bias| bias.detach().contiguous()).transpose()?;
        Ok(Self { weight: weight.detach().contiguous()?, bias, stride, padding })
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
        let multiply_adds = x.value().dim(0)? * geometry.multiply_adds();
        work::count(multiply_adds);
        let y = run(self, &[x.value()])?;
        let gradient = InputGradient { geometry, weight: self.weight.clone() };
        Ok(Tracked::record(y, [x], [], move |[], grad| {
            work::count(multiply_adds);
            Ok([Some(run(&gradient, &[grad])?)])
        }))
    }

    fn geometry(&self, dims: &[usize]) -> Result<Geometry> {
        let (outputs, inputs, kernel, _) = self.weight.dims4()?;
        match *dims {
            [_, channels, height, width] if channels == inputs && height.min(width) + 2 * self.padding >= kernel => {
                let size = |length: usize| (length + 2 * self.padding - kernel) / self.stride + 1;
                let (out_height, out_width) = (size(height), size(width));
                let (stride, padding) = (self.stride, self.padding);
                Ok(Geometry { inputs, outputs, kernel, stride, padding, height, width, out_height, out_width })
            }
            _ => bail!("a {kernel}x{kernel} convolution over {inputs} channels was given a tensor of shape {dims:?}"),
        }
    }
}

impl Kernel for Conv2d {
    fn run<T: Element>(&self, inputs: &[Input<'_, T>]) -> Result<(Vec<T>, Shape)> {
        let x = &inputs[0];
        let g = self.geometry(x.dims)?;
        let shape = Shape::from((x.dims[0], g.outputs, g.out_height, g.out_width));
        let mut y = vec![T::zero(); shape.elem_count()];
        let images = x.data.chunks_exact(g.inputs * g.pixels()).zip(y.chunks_exact_mut(g.outputs * g.out_pixels()));
        with_elements::<T, _>(&self.weight, |weight| {
            with_optional::<T, _>(self.bias.as_ref(), |bias| match Method::of(&g, g.inputs, g.outputs) {
                Method::Winograd => {
                    let filters = Filters { weight, inputs: g.inputs, outputs: g.outputs, adjoint: false };
                    images.for_each(|(x, y)| winograd::convolve(filters, bias, x, [g.height, g.width], y));
                }
                Method::Scatter => {
                    let (g, weight) = g.exchanged(weight);
                    images.for_each(|(x, y)| g.scatter(&weight, bias, x, y));
                }
                Method::Any | Method::Gather => images.for_each(|(x, y)| g.gather(weight, bias, x, y)),
            })
        })??;
        Ok((y, shape))
    }
}

/// The adjoint of the convolution.
struct InputGradient {
    geometry: Geometry,
    weight: Tensor,
}

impl Kernel for InputGradient {
    fn run<T: Element>(&self, inputs: &[Input<'_, T>]) -> Result<(Vec<T>, Shape)> {
        let (g, grad) = (self.geometry, &inputs[0]);
        let shape = Shape::from((grad.dims[0], g.inputs, g.height, g.width));
        let mut gx = vec![T::zero(); shape.elem_count()];
        let images = grad.data.chunks_exact(g.outputs * g.out_pixels()).zip(gx.chunks_exact_mut(g.inputs * g.pixels()));
        with_elements::<T, _>(&self.weight, |weight| match Method::of(&g, g.outputs, g.inputs) {
            Method::Winograd => {
                let filters = Filters { weight, inputs: g.outputs, outputs: g.inputs, adjoint: true };
                images.for_each(|(grad, gx)| winograd::convolve(filters, None, grad, [g.height, g.width], gx));
            }
            Method::Gather => {
                let (g, weight) = g.exchanged(weight);
                images.for_each(|(grad, gx)| g.gather(&weight, None, grad, gx));
            }
            Method::Any | Method::Scatter => images.for_each(|(grad, gx)| g.scatter(weight, None, grad, gx)),
        })?;
        Ok((gx, shape))
    }
}

/// How a convolution or its adjoint is computed. A function of the extents alone, so that a result is the same on any machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Winograd,
    /// By the patches of what is read, which has far fewer channels than what is written.
    Gather,
    /// By the patches of what is written, which has far fewer channels than what is read.
    Scatter,
    /// By patches on the side of the layer's input, so that the weight serves as it is.
    Any,
}

impl Method {
    /// From `read` channels to `written` channels.
    fn of(g: &Geometry, read: usize, written: usize) -> Self {
        if !g.keeps_size() || g.kernel == 1 {
            Self::Any
        } else if g.kernel == 3 && winograd::pays(read, written, g.height, g.width) {
            Self::Winograd
        } else if 8 * read <= written {
            Self::Gather
        } else if 8 * written <= read {
            Self::Scatter
        } else {
            Self::Any
        }
    }
}

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
            (3, 40, 3, 1, 1, 9, 10),
            (33, 34, 3, 1, 1, 15, 18),
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
    fn neither_output_nor_gradient_depends_on_the_number_of_threads() {
        // By Winograd's method with few and with many tiles, by patches of many and of few pixels.
        for (inputs, outputs, stride, side) in [(64, 48, 1, 40), (48, 64, 1, 47), (8, 48, 2, 40), (300, 170, 1, 8)] {
            let (weight, x) = (random(&[outputs, inputs, 3, 3], 1), random(&[1, inputs, side, side], 2));
            let layer = layer(&weight, None, stride, 1);
            let run = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| {
                    let gradient = super::super::gradient_check::gradient(&x, &|x: &Tracked| layer.forward(x)).0;
                    (layer.forward(&Tracked::from(&x)).unwrap().into_value(), gradient)
                })
            };
            let (one, three) = (run(1), run(3));
            assert_close(&one.0, &three.0, 0.0);
            assert_close(&one.1, &three.1, 0.0);
        }
    }

    #[test]
    fn the_method_follows_from_the_extents() {
        let method = |inputs, outputs, kernel, stride, side: usize, gradient| {
            let layer = layer(&random(&[outputs, inputs, kernel, kernel], 1), None, stride, kernel / 2);
            let g = layer.geometry(&[1, inputs, side, side]).unwrap();
            if gradient { Method::of(&g, outputs, inputs) } else { Method::of(&g, inputs, outputs) }
        };
        for gradient in [false, true] {
            assert_eq!(method(64, 48, 3, 1, 16, gradient), Method::Winograd);
            assert_eq!(method(64, 48, 3, 1, 8, gradient), Method::Any);
            assert_eq!(method(64, 48, 3, 2, 16, gradient), Method::Any);
            assert_eq!(method(64, 48, 1, 1, 16, gradient), Method::Any);
        }
        assert_eq!(method(128, 3, 3, 1, 32, false), Method::Scatter);
        assert_eq!(method(128, 3, 3, 1, 32, true), Method::Gather);
        assert_eq!(method(4, 320, 3, 1, 32, false), Method::Gather);
        assert_eq!(method(4, 320, 3, 1, 32, true), Method::Scatter);
    }

    #[test]
    fn another_number_of_channels_is_an_error() {
        let layer = layer(&random(&[2, 3, 3, 3], 1), None, 1, 1);
        assert!(layer.forward(&Tracked::from(random(&[1, 4, 8, 8], 2))).is_err());
    }
}
