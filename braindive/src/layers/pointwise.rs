//! Functions of single elements: activations, gated activations, the clamp of an image to 0..1.

mod launch;

use super::kernel::{Element, Input, Kernel, for_each_chunk, run};
use super::simd::vectorised;
use crate::gradient::Tracked;
use candle_core::{Result, Shape, bail};
use serde::Deserialize;

/// Elements per task.
const CHUNK: usize = 1 << 14;

/// 1/√2
const INV_SQRT_2: f64 = std::f64::consts::FRAC_1_SQRT_2;
/// 1/√(2π)
const INV_SQRT_2PI: f64 = 0.398_942_280_401_432_7;

/// An activation function; in configurations `silu`, `gelu`, `quick_gelu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// x·σ(x)
    Silu,
    /// x·Φ(x) with the exact error function.
    Gelu,
    /// x·σ(1.702 x), as OpenAI's CLIP has it.
    QuickGelu,
}

impl Activation {
    /// The function of every element of `x`.
    ///
    /// # Errors
    /// `x` is not f32 or f64 on the CPU.
    pub fn forward(self, x: &Tracked) -> Result<Tracked> {
        Pointwise::Activation(self).forward(x)
    }
}

/// Clamps to 0..1 with PyTorch's gradient: it passes where 0 <= x <= 1, the bounds included.
///
/// # Errors
/// `x` is not f32 or f64 on the CPU.
pub fn clamp_unit(x: &Tracked) -> Result<Tracked> {
    Pointwise::ClampUnit.forward(x)
}

/// Gated linear unit: [..., 2d] → first half · gelu(second half), [..., d] (Shazeer 2020).
///
/// # Errors
/// The last dimension is odd.
pub fn geglu(x: &Tracked) -> Result<Tracked> {
    let kept = x.value().contiguous()?;
    let y = run(&Geglu, &[&kept])?;
    Ok(Tracked::record(y, [x], [&kept], |[x], grad| Ok([Some(run(&GegluGradient, &[x, grad])?)])))
}

#[inline(always)]
pub(super) fn sigmoid<T: Element>(x: T) -> T {
    T::one() / (T::one() + (-x).exp())
}

/// d/dx x·σ(x), given σ(x).
#[inline(always)]
pub(super) fn silu_derivative<T: Element>(x: T, sigmoid: T) -> T {
    sigmoid * (T::one() + x * (T::one() - sigmoid))
}

/// Φ(x), the normal distribution function.
#[inline(always)]
fn normal_cdf<T: Element>(x: T) -> T {
    T::from_f64(0.5) * (T::one() + (x * T::from_f64(INV_SQRT_2)).erf())
}

/// d/dx x·Φ(x) = Φ(x) + x·φ(x), given Φ(x).
#[inline(always)]
fn gelu_derivative<T: Element>(x: T, cdf: T) -> T {
    cdf + x * T::from_f64(INV_SQRT_2PI) * (x * x * T::from_f64(-0.5)).exp()
}

#[derive(Clone, Copy)]
enum Pointwise {
    Activation(Activation),
    ClampUnit,
}

impl Pointwise {
    fn forward(self, x: &Tracked) -> Result<Tracked> {
        let kept = x.value().contiguous()?;
        let y = run(&self, &[&kept])?;
        Ok(Tracked::record(y, [x], [&kept], move |[x], grad| Ok([Some(run(&PointwiseGradient(self), &[x, grad])?)])))
    }
}

impl Activation {
    /// The a of x·σ(a·x), if it is of that form.
    fn swish_slope(self) -> Option<f64> {
        match self {
            Self::Silu => Some(1.0),
            Self::QuickGelu => Some(1.702),
            Self::Gelu => None,
        }
    }
}

vectorised! {
    /// y = x·σ(slope·x)
    fn swish<T: Element>(y: &mut [T], x: &[T], slope: T) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = x * sigmoid(x * slope);
        }
    }

    fn swish_gradient<T: Element>(gx: &mut [T], x: &[T], grad: &[T], slope: T) {
        for ((gx, &x), &grad) in gx.iter_mut().zip(x).zip(grad) {
            let z = x * slope;
            *gx = grad * silu_derivative(z, sigmoid(z));
        }
    }

    /// y = x·Φ(x)
    fn gelu<T: Element>(y: &mut [T], x: &[T]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = x * normal_cdf(x);
        }
    }

    fn gelu_gradient<T: Element>(gx: &mut [T], x: &[T], grad: &[T]) {
        for ((gx, &x), &grad) in gx.iter_mut().zip(x).zip(grad) {
            *gx = grad * gelu_derivative(x, normal_cdf(x));
        }
    }

    fn clamp<T: Element>(y: &mut [T], x: &[T]) {
        for (y, &x) in y.iter_mut().zip(x) {
            let x = if x < T::zero() { T::zero() } else { x };
            *y = if x > T::one() { T::one() } else { x };
        }
    }

    fn clamp_gradient<T: Element>(gx: &mut [T], x: &[T], grad: &[T]) {
        for ((gx, &x), &grad) in gx.iter_mut().zip(x).zip(grad) {
            *gx = if x >= T::zero() && x <= T::one() { grad } else { T::zero() };
        }
    }

    /// y = value·gelu(gate)
    fn gated<T: Element>(y: &mut [T], value: &[T], gate: &[T]) {
        for ((y, &value), &gate) in y.iter_mut().zip(value).zip(gate) {
            *y = value * (gate * normal_cdf(gate));
        }
    }

    fn gated_gradient<T: Element>(by_value: &mut [T], by_gate: &mut [T], value: &[T], gate: &[T], grad: &[T]) {
        let outputs = by_value.iter_mut().zip(by_gate);
        for ((((by_value, by_gate), &value), &gate), &grad) in outputs.zip(value).zip(gate).zip(grad) {
            let cdf = normal_cdf(gate);
            *by_value = grad * (gate * cdf);
            *by_gate = grad * value * gelu_derivative(gate, cdf);
        }
    }
}

impl Kernel for Pointwise {
    fn run<T: Element>(&self, inputs: &[Input<'_, T>]) -> Result<(Vec<T>, Shape)> {
        let x = &inputs[0];
        let mut y = vec![T::zero(); x.data.len()];
        for_each_chunk(&mut y, CHUNK, 16 * x.data.len(), |i, y| {
            let x = &x.data[i * CHUNK..][..y.len()];
            match *self {
                Self::ClampUnit => clamp(y, x),
                Self::Activation(activation) => match activation.swish_slope() {
                    Some(slope) => swish(y, x, T::from_f64(slope)),
                    None => gelu(y, x),
                },
            }
        });
        Ok((y, Shape::from(x.dims)))
    }
}

/// gx = f′(x)·gy.
struct PointwiseGradient(Pointwise);

impl Kernel for PointwiseGradient {
    fn run<T: Element>(&self, inputs: &[Input<'_, T>]) -> Result<(Vec<T>, Shape)> {
        let (x, grad) = (&inputs[0], &inputs[1]);
        let mut gx = vec![T::zero(); x.data.len()];
        for_each_chunk(&mut gx, CHUNK, 24 * x.data.len(), |i, gx| {
            let (x, grad) = (&x.data[i * CHUNK..][..gx.len()], &grad.data[i * CHUNK..][..gx.len()]);
            match self.0 {
                Pointwise::ClampUnit => clamp_gradient(gx, x, grad),
                Pointwise::Activation(activation) => match activation.swish_slope() {
                    Some(slope) => swish_gradient(gx, x, grad, T::from_f64(slope)),
                    None => gelu_gradient(gx, x, grad),
                },
            }
        });
        Ok((gx, Shape::from(x.dims)))
    }
}

struct Geglu;

/// [..., d] from [..., 2d].
fn gated_shape(dims: &[usize]) -> Result<Shape> {
    match dims.split_last() {
        Some((&width, rest)) if width.is_multiple_of(2) && width > 0 => Ok([rest, &[width / 2]].concat().into()),
        _ => bail!("a gated linear unit was given a tensor of shape {dims:?}, expected an even last dimension"),
    }
}

impl Kernel for Geglu {
    fn run<T: Element>(&self, inputs: &[Input<'_, T>]) -> Result<(Vec<T>, Shape)> {
        let x = &inputs[0];
        let (half, shape) = (x.width() / 2, gated_shape(x.dims)?);
        let mut y = vec![T::zero(); shape.elem_count()];
        for_each_chunk(&mut y, half, 24 * x.data.len(), |i, y| {
            let (value, gate) = x.data[2 * i * half..2 * (i + 1) * half].split_at(half);
            gated(y, value, gate);
        });
        Ok((y, shape))
    }
}

struct GegluGradient;

impl Kernel for GegluGradient {
    fn run<T: Element>(&self, inputs: &[Input<'_, T>]) -> Result<(Vec<T>, Shape)> {
        let (x, grad) = (&inputs[0], &inputs[1]);
        let half = grad.width();
        let mut gx = vec![T::zero(); x.data.len()];
        for_each_chunk(&mut gx, 2 * half, 48 * x.data.len(), |i, gx| {
            let (by_value, by_gate) = gx.split_at_mut(half);
            let (value, gate) = x.data[2 * i * half..2 * (i + 1) * half].split_at(half);
            gated_gradient(by_value, by_gate, value, gate, &grad.data[i * half..(i + 1) * half]);
        });
        Ok((gx, Shape::from(x.dims)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{assert_close, assert_gradient, gradient, random};
    use super::*;
    use candle_core::{DType, Device, Tensor};

    #[test]
    fn activations_equal_their_compositions_and_their_gradients_are_exact() {
        let x = (random(&[3, 7], 1) * 4.0).unwrap();
        let quick = (&x
            * (&x * 1.702).unwrap().neg().unwrap().exp().unwrap().affine(1.0, 1.0).unwrap().recip().unwrap())
        .unwrap();
        let cases = [
            (Activation::Silu, x.silu().unwrap()),
            (Activation::Gelu, x.gelu_erf().unwrap()),
            (Activation::QuickGelu, quick),
        ];
        for (activation, composed) in cases {
            assert_close(activation.forward(&Tracked::from(&x)).unwrap().value(), &composed, 1e-10);
            assert_gradient(&x, |x| activation.forward(x));
        }
        assert_gradient(&(random(&[3, 10], 2) * 4.0).unwrap(), geglu);
        assert!(geglu(&Tracked::from(random(&[3, 7], 1))).is_err());
    }

    #[test]
    fn the_error_function_is_exact_to_the_precision_of_its_type() {
        // erf(0.5), erf(1), erf(2) from Abramowitz & Stegun, table 7.1.
        let known =
            [(0.5f64, 0.520_499_877_813_046_5_f64), (1.0, 0.842_700_792_949_714_9), (2.0, 0.995_322_265_018_952_7)];
        for (x, erf) in known {
            assert!((Element::erf(x) - erf).abs() < 2e-16);
            assert!((f64::from(Element::erf(x as f32)) - erf).abs() < 6e-8);
        }
    }

    #[test]
    fn clamping_passes_the_gradient_at_the_bounds_and_not_beyond() {
        let x = Tensor::new(&[-0.1f64, 0.0, 0.5, 1.0, 1.1], &Device::Cpu).unwrap();
        let clamped = clamp_unit(&Tracked::from(&x)).unwrap();
        assert_eq!(clamped.value().to_vec1::<f64>().unwrap(), [0.0, 0.0, 0.5, 1.0, 1.0]);
        let (grad, w) = gradient(&x, &clamp_unit);
        let passed = (grad / w).unwrap().to_dtype(DType::F64).unwrap();
        assert_eq!(passed.to_vec1::<f64>().unwrap(), [0.0, 1.0, 1.0, 1.0, 0.0]);
    }
}
