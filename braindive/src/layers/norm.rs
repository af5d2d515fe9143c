//! Group and layer normalisation with frozen scale and shift (Wu & He 2018; Ba et al. 2016); SiLU can be fused behind.
//!
//! With x̂ = (x − μ)/σ over a row and d the gradient of x̂: gx = (d − mean(d) − x̂·mean(d x̂))/σ.

mod launch;

use super::kernel::{Element, Input, Kernel, for_each_chunk, map_tasks, run, with_elements};
use super::moments::{Moments, PIECE, sum, sum_of_products};
use super::pointwise::{sigmoid, silu_derivative};
use super::simd::vectorised;
use crate::error;
use crate::gradient::Tracked;
use crate::weights::Weights;
use candle_core::{Result, Shape, Tensor, bail};

/// Normalises groups of channels of [batch, channels, ...].
#[derive(Debug, Clone)]
pub struct GroupNorm(Normalisation);

impl GroupNorm {
    /// Reads `weight` and `bias`, both [channels].
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load(groups: usize, channels: usize, eps: f64, weights: &Weights) -> error::Result<Self> {
        let (weight, bias) = (weights.get(&[channels], "weight")?, weights.get(&[channels], "bias")?);
        Ok(Self(Normalisation { weight, bias, eps, groups: Some(groups), silu: false }))
    }

    /// `x`: [batch, channels, ...].
    ///
    /// # Errors
    /// `x` has another number of channels.
    pub fn forward(&self, x: &Tracked) -> Result<Tracked> {
        self.0.clone().forward(x)
    }

    /// silu(norm(x)) in one pass.
    ///
    /// # Errors
    /// As [`GroupNorm::forward`].
    pub fn forward_silu(&self, x: &Tracked) -> Result<Tracked> {
        Normalisation { silu: true, ..self.0.clone() }.forward(x)
    }
}

/// Normalises the last dimension.
#[derive(Debug, Clone)]
pub struct LayerNorm(Normalisation);

impl LayerNorm {
    /// Reads `weight` and `bias`, both [width].
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load(width: usize, eps: f64, weights: &Weights) -> error::Result<Self> {
        let (weight, bias) = (weights.get(&[width], "weight")?, weights.get(&[width], "bias")?);
        Ok(Self(Normalisation { weight, bias, eps, groups: None, silu: false }))
    }

    /// `x`: [..., width].
    ///
    /// # Errors
    /// `x` has another width.
    pub fn forward(&self, x: &Tracked) -> Result<Tracked> {
        self.0.clone().forward(x)
    }
}

#[derive(Debug, Clone)]
struct Normalisation {
    /// [channels]
    weight: Tensor,
    /// [channels]
    bias: Tensor,
    eps: f64,
    /// `None`: each vector along the last dimension is a row, each element a channel.
    groups: Option<usize>,
    silu: bool,
}

/// How a tensor falls into rows, and rows into channels.
#[derive(Clone, Copy)]
struct Rows {
    /// Channels per row.
    channels: usize,
    /// Elements per channel of a row.
    inner: usize,
    /// Rows until the channels begin anew.
    groups: usize,
}

impl Rows {
    fn len(self) -> usize {
        self.channels * self.inner
    }

    fn first_channel(self, row: usize) -> usize {
        row % self.groups * self.channels
    }
}

impl Normalisation {
    fn forward(self, x: &Tracked) -> Result<Tracked> {
        let kept = x.value().contiguous()?;
        let y = run(&self, &[&kept])?;
        let gradient = InputGradient(self);
        Ok(Tracked::record(y, [x], [&kept], move |[x], grad| Ok([Some(run(&gradient, &[x, grad])?)])))
    }

    fn rows(&self, dims: &[usize]) -> Result<Rows> {
        let channels = self.weight.elem_count();
        match (self.groups, dims) {
            (Some(groups), [_, found, inner @ ..]) if *found == channels && channels.is_multiple_of(groups) => {
                Ok(Rows { channels: channels / groups, inner: inner.iter().product(), groups })
            }
            (None, [.., found]) if *found == channels => Ok(Rows { channels, inner: 1, groups: 1 }),
            _ => bail!("a normalisation of {channels} channels was given a tensor of shape {dims:?}"),
        }
    }
}

/// (x − μ)/σ of a row.
#[derive(Clone, Copy)]
struct Standardised<T> {
    mean: T,
    inverse_std: T,
}

impl<T: Element> Standardised<T> {
    fn new(row: &[T], eps: f64) -> Self {
        let moments = Moments::of(row);
        Self { mean: T::from_f64(moments.mean), inverse_std: T::from_f64(1.0 / (moments.variance() + eps).sqrt()) }
    }

    #[inline(always)]
    fn of(self, x: T) -> T {
        (x - self.mean) * self.inverse_std
    }
}

vectorised! {
    /// One channel of a group.
    fn normalise_plane<T: Element>(y: &mut [T], x: &[T], row: Standardised<T>, scale: T, shift: T, silu: bool) {
        let scale = row.inverse_std * scale;
        if silu {
            for (y, &x) in y.iter_mut().zip(x) {
                let z = (x - row.mean) * scale + shift;
                *y = z * sigmoid(z);
            }
        } else {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = (x - row.mean) * scale + shift;
            }
        }
    }

    /// A row in which every element is a channel of its own.
    fn normalise_vector<T: Element>(y: &mut [T], x: &[T], row: Standardised<T>, scale: &[T], shift: &[T]) {
        for (((y, &x), &scale), &shift) in y.iter_mut().zip(x).zip(scale).zip(shift) {
            *y = (x - row.mean) * (row.inverse_std * scale) + shift;
        }
    }

    /// d, the gradient of x̂, in one channel of a group.
    fn derive_plane<T: Element>(
        d: &mut [T],
        x: &[T],
        grad: &[T],
        row: Standardised<T>,
        scale: T,
        shift: T,
        silu: bool,
    ) {
        if silu {
            for ((d, &x), &grad) in d.iter_mut().zip(x).zip(grad) {
                let z = row.of(x) * scale + shift;
                *d = grad * scale * silu_derivative(z, sigmoid(z));
            }
        } else {
            for (d, &grad) in d.iter_mut().zip(grad) {
                *d = grad * scale;
            }
        }
    }

    fn derive_vector<T: Element>(d: &mut [T], grad: &[T], scale: &[T]) {
        for ((d, &grad), &scale) in d.iter_mut().zip(grad).zip(scale) {
            *d = grad * scale;
        }
    }

    /// From d to gx, given mean(d) and mean(d x̂).
    fn project<T: Element>(d: &mut [T], x: &[T], row: Standardised<T>, mean_d: T, mean_dx: T) {
        for (d, &x) in d.iter_mut().zip(x) {
            *d = row.inverse_std * (*d - mean_d - row.of(x) * mean_dx);
        }
    }
}

impl Kernel for Normalisation {
    fn run<T: Element>(&self, inputs: &[Input<'_, T>]) -> Result<(Vec<T>, Shape)> {
        let x = &inputs[0];
        let rows = self.rows(x.dims)?;
        let mut y = vec![T::zero(); x.data.len()];
        with_elements::<T, _>(&self.weight, |weight| {
            with_elements::<T, _>(&self.bias, |bias| {
                for_each_chunk(&mut y, rows.len(), 16 * x.data.len(), |i, y| {
                    let x = &x.data[i * rows.len()..(i + 1) * rows.len()];
                    let row = Standardised::new(x, self.eps);
                    if self.groups.is_none() {
                        return normalise_vector(y, x, row, weight, bias);
                    }
                    for_each_chunk(y, rows.inner, 16 * rows.len(), |plane, y| {
                        let channel = rows.first_channel(i) + plane;
                        let x = &x[plane * rows.inner..(plane + 1) * rows.inner];
                        normalise_plane(y, x, row, weight[channel], bias[channel], self.silu);
                    });
                });
            })
        })??;
        Ok((y, Shape::from(x.dims)))
    }
}

/// From the input and the output's gradient to the input's gradient.
struct InputGradient(Normalisation);

impl Kernel for InputGradient {
    fn run<T: Element>(&self, inputs: &[Input<'_, T>]) -> Result<(Vec<T>, Shape)> {
        let (norm, x, grad) = (&self.0, &inputs[0], &inputs[1]);
        let rows = norm.rows(x.dims)?;
        let mut gx = vec![T::zero(); x.data.len()];
        with_elements::<T, _>(&norm.weight, |weight| {
            with_elements::<T, _>(&norm.bias, |bias| {
                for_each_chunk(&mut gx, rows.len(), 24 * x.data.len(), |i, gx| {
                    let range = i * rows.len()..(i + 1) * rows.len();
                    let (x, grad) = (&x.data[range.clone()], &grad.data[range]);
                    let row = Standardised::new(x, norm.eps);
                    if norm.groups.is_none() {
                        derive_vector(gx, grad, weight);
                    } else {
                        for_each_chunk(gx, rows.inner, 24 * rows.len(), |plane, d| {
                            let channel = rows.first_channel(i) + plane;
                            let range = plane * rows.inner..(plane + 1) * rows.inner;
                            let (x, grad) = (&x[range.clone()], &grad[range]);
                            derive_plane(d, x, grad, row, weight[channel], bias[channel], norm.silu);
                        });
                    }
                    let (d, n) = (&*gx, rows.len() as f64);
                    let sums = map_tasks(rows.len().div_ceil(PIECE), 4 * rows.len(), |piece| {
                        let range = piece * PIECE..((piece + 1) * PIECE).min(rows.len());
                        (sum(&d[range.clone()]), sum_of_products(&d[range.clone()], &x[range], row.mean))
                    });
                    let (sum_d, sum_dx) = sums.iter().fold((0.0, 0.0), |sums, part| (sums.0 + part.0, sums.1 + part.1));
                    let mean_d = T::from_f64(sum_d / n);
                    let mean_dx = T::from_f64(sum_dx * row.inverse_std.to_f64() / n);
                    for_each_chunk(gx, PIECE, 8 * rows.len(), |piece, d| {
                        project(d, &x[piece * PIECE..][..d.len()], row, mean_d, mean_dx);
                    });
                });
            })
        })??;
        Ok((gx, Shape::from(x.dims)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{assert_close, assert_gradient, random};
    use super::*;
    use candle_core::D;

    fn standardised(rows: &Tensor, eps: f64) -> Tensor {
        let centred = rows.broadcast_sub(&rows.mean_keepdim(D::Minus1).unwrap()).unwrap();
        let variance = centred.sqr().unwrap().mean_keepdim(D::Minus1).unwrap();
        centred.broadcast_div(&(variance + eps).unwrap().sqrt().unwrap()).unwrap()
    }

    #[test]
    fn group_norm_equals_its_composition_and_its_gradient_is_exact() {
        let (weight, bias, x) = (random(&[12], 1), random(&[12], 2), random(&[2, 12, 5, 3], 3));
        let norm = GroupNorm(Normalisation { weight, bias, eps: 1e-5, groups: Some(4), silu: false });
        let rows = standardised(&x.reshape((2, 4, 45)).unwrap(), 1e-5).reshape((2, 12, 5, 3)).unwrap();
        let [weight, bias] = [&norm.0.weight, &norm.0.bias].map(|t| t.reshape((1, 12, 1, 1)).unwrap());
        let composed = rows.broadcast_mul(&weight).unwrap().broadcast_add(&bias).unwrap();
        assert_close(norm.forward(&Tracked::from(&x)).unwrap().value(), &composed, 1e-13);
        assert_close(norm.forward_silu(&Tracked::from(&x)).unwrap().value(), &composed.silu().unwrap(), 1e-13);
        assert_gradient(&x, |x| norm.forward(x));
        assert_gradient(&x, |x| norm.forward_silu(x));
    }

    #[test]
    fn layer_norm_equals_its_composition_and_its_gradient_is_exact() {
        let (weight, bias, x) = (random(&[12], 1), random(&[12], 2), random(&[2, 5, 12], 3));
        let norm = LayerNorm(Normalisation { weight, bias, eps: 1e-5, groups: None, silu: false });
        let composed =
            standardised(&x, 1e-5).broadcast_mul(&norm.0.weight).unwrap().broadcast_add(&norm.0.bias).unwrap();
        assert_close(norm.forward(&Tracked::from(&x)).unwrap().value(), &composed, 1e-13);
        assert_gradient(&x, |x| norm.forward(x));
    }
}
