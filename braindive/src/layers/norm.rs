//! Group and layer normalisation with frozen scale and shift (Wu & He 2018; Ba et al. 2016); SiLU can be fused behind.
//!
//! With x̂ = (x − μ)/σ over a row and d the gradient of x̂: gx = (d − mean(d) − x̂·mean(d x̂))/σ.

use super::kernel::{Element, Input, Kernel, custom_op, for_each_chunk, with_elements};
use super::pointwise::sigmoid;
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
        let y = kept.apply_op1_no_bwd(&self)?;
        let gradient = InputGradient(self);
        Ok(Tracked::record(y, [x], [&kept], move |[x], grad| {
            Ok([Some(x.apply_op2_no_bwd(&grad.contiguous()?, &gradient)?)])
        }))
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

/// Mean and 1/σ of a row, accumulated in f64.
fn moments<T: Element>(row: &[T], eps: f64) -> (T, T) {
    let n = row.len() as f64;
    let mean = sum(row, row, |x, _| x.to_f64()) / n;
    let variance = sum(row, row, |x, _| (x.to_f64() - mean).powi(2)) / n;
    (T::from_f64(mean), T::from_f64(1.0 / (variance + eps).sqrt()))
}

/// Σ f(a, b) over two rows of one length in eight interleaved partial sums, so that it vectorises.
fn sum<T: Element>(a: &[T], b: &[T], f: impl Fn(T, T) -> f64) -> f64 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut lanes = [0f64; 8];
    for (a, b) in a.iter().zip(b) {
        for ((lane, &a), &b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += f(a, b);
        }
    }
    lanes.iter().sum::<f64>() + a_rest.iter().zip(b_rest).map(|(&a, &b)| f(a, b)).sum::<f64>()
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
                    let (mean, inverse_std) = moments(x, self.eps);
                    let planes = y.chunks_exact_mut(rows.inner).zip(x.chunks_exact(rows.inner));
                    for (channel, (y, x)) in (rows.first_channel(i)..).zip(planes) {
                        let (scale, shift) = (inverse_std * weight[channel], bias[channel]);
                        for (y, &x) in y.iter_mut().zip(x) {
                            let z = (x - mean) * scale + shift;
                            *y = if self.silu { z * sigmoid(z) } else { z };
                        }
                    }
                });
            })
        })??;
        Ok((y, Shape::from(x.dims)))
    }
}

custom_op!(Normalisation, CustomOp1, "frozen-normalisation");

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
                    let (mean, inverse_std) = moments(x, norm.eps);
                    let normalised = |x: T| (x - mean) * inverse_std;
                    let planes = gx
                        .chunks_exact_mut(rows.inner)
                        .zip(x.chunks_exact(rows.inner).zip(grad.chunks_exact(rows.inner)));
                    for (channel, (d, (x, grad))) in (rows.first_channel(i)..).zip(planes) {
                        let (scale, shift) = (weight[channel], bias[channel]);
                        for ((d, &x), &grad) in d.iter_mut().zip(x).zip(grad) {
                            *d = grad * scale;
                            if norm.silu {
                                let z = normalised(x) * scale + shift;
                                let s = sigmoid(z);
                                *d *= s * (T::one() + z * (T::one() - s));
                            }
                        }
                    }
                    let n = rows.len() as f64;
                    let mean_d = T::from_f64(sum(gx, x, |d, _| d.to_f64()) / n);
                    let mean_dx = T::from_f64(sum(gx, x, |d, x| (d * normalised(x)).to_f64()) / n);
                    for (d, &x) in gx.iter_mut().zip(x) {
                        *d = inverse_std * (*d - mean_d - normalised(x) * mean_dx);
                    }
                });
            })
        })??;
        Ok((gx, Shape::from(x.dims)))
    }
}

custom_op!(InputGradient, CustomOp2, "frozen-normalisation-input-gradient");

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
