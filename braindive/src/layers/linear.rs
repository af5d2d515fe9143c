//! Fully connected layer: y = x Wᵀ + b over the last dimension.

mod launch;

use super::gemm::{Bias, Matrix, MatrixMut, multiply_in_blocks};
use super::kernel::{Element, Input, Kernel, run, with_elements, with_optional};
use super::work;
use crate::error;
use crate::gradient::Tracked;
use crate::weights::Weights;
use candle_core::{Result, Shape, Tensor};

/// Rows and columns of a task: enough rows that reading the weight in the right order is a small part of the work.
const BLOCK: [usize; 2] = [1024, 128];

/// A frozen fully connected layer.
#[derive(Debug, Clone)]
pub struct Linear {
    /// [outputs, inputs]
    weight: Tensor,
    /// [outputs]
    bias: Option<Tensor>,
}

impl Linear {
    /// Reads `weight` [outputs, inputs] and `bias` [outputs] below `weights`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load(inputs: usize, outputs: usize, weights: &Weights) -> error::Result<Self> {
        Ok(Self { bias: Some(weights.get(&[outputs], "bias")?), ..Self::load_without_bias(inputs, outputs, weights)? })
    }

    /// Reads `weight` [outputs, inputs] below `weights`.
    ///
    /// # Errors
    /// The tensor is missing or has another shape.
    pub fn load_without_bias(inputs: usize, outputs: usize, weights: &Weights) -> error::Result<Self> {
        Ok(Self { weight: weights.get(&[outputs, inputs], "weight")?, bias: None })
    }

    /// `weight`: [outputs, inputs]; `bias`: [outputs].
    ///
    /// # Errors
    /// `weight` is no matrix, or `bias` has not one element per output.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>) -> Result<Self> {
        let (outputs, _) = weight.dims2()?;
        if let Some(bias) = bias.filter(|bias| bias.dims() != [outputs]) {
            candle_core::bail!("a linear layer of {outputs} outputs was given a bias of shape {:?}", bias.dims());
        }
        Ok(Self { weight: weight.detach().contiguous()?, bias: bias.map(|b| b.detach().contiguous()).transpose()? })
    }

    /// `x`: [..., inputs]; returns [..., outputs].
    ///
    /// # Errors
    /// The last dimension is not the number of inputs.
    pub fn forward(&self, x: &Tracked) -> Result<Tracked> {
        let multiply_adds = x.value().elem_count() * self.weight.dim(0)?;
        work::count(multiply_adds);
        let y = run(self, &[x.value()])?;
        let gradient = InputGradient { weight: self.weight.clone() };
        Ok(Tracked::record(y, [x], [], move |[], grad| {
            work::count(multiply_adds);
            Ok([Some(run(&gradient, &[grad])?)])
        }))
    }
}

impl Kernel for Linear {
    fn run<T: Element>(&self, inputs: &[Input<'_, T>]) -> Result<(Vec<T>, Shape)> {
        let x = &inputs[0];
        let (outputs, features) = self.weight.dims2()?;
        let shape = replace_width(x.dims, features, outputs)?;
        let mut y = vec![T::zero(); shape.elem_count()];
        with_elements::<T, _>(&self.weight, |weight| {
            let weight = Matrix::new(weight, outputs, features, features).transposed();
            with_optional::<T, _>(self.bias.as_ref(), |bias| multiply_rows(x, weight, bias, &mut y))
        })??;
        Ok((y, shape))
    }
}

/// gx = gy W.
struct InputGradient {
    weight: Tensor,
}

impl Kernel for InputGradient {
    fn run<T: Element>(&self, inputs: &[Input<'_, T>]) -> Result<(Vec<T>, Shape)> {
        let grad = &inputs[0];
        let (outputs, features) = self.weight.dims2()?;
        let shape = replace_width(grad.dims, outputs, features)?;
        let mut gx = vec![T::zero(); shape.elem_count()];
        with_elements::<T, _>(&self.weight, |weight| {
            multiply_rows(grad, Matrix::new(weight, outputs, features, features), None, &mut gx);
        })?;
        Ok((gx, shape))
    }
}

/// Every row of `y` is a row of `x` times `weight`, plus `bias`. The items of a batch are products of their own: a product of other
/// extents may sum in another way, and an item's result must not depend on the others.
fn multiply_rows<T: Element>(x: &Input<'_, T>, weight: Matrix<'_, T>, bias: Option<&[T]>, y: &mut [T]) {
    let (inputs, outputs) = (weight.rows, weight.columns);
    let rows: usize = match x.dims {
        [_, rows @ .., _] => rows.iter().product(),
        _ => 1,
    };
    if y.is_empty() {
        return;
    }
    for (x, y) in x.data.chunks_exact((rows * inputs).max(1)).zip(y.chunks_exact_mut(rows * outputs)) {
        let y = MatrixMut::new(y, rows, outputs, outputs);
        multiply_in_blocks(y, BLOCK, Bias::of_columns(bias), Matrix::new(x, rows, inputs, inputs), weight);
    }
}

fn replace_width(dims: &[usize], from: usize, to: usize) -> Result<Shape> {
    match dims.split_last() {
        Some((&width, rest)) if width == from => Ok([rest, &[to]].concat().into()),
        _ => candle_core::bail!("a linear layer over {from} features was given a tensor of shape {dims:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{assert_close, assert_gradient, random};
    use super::*;

    #[test]
    fn equals_a_matrix_product_and_its_gradient_is_exact() {
        let (weight, bias, x) = (random(&[5, 7], 1), random(&[5], 2), random(&[2, 70, 7], 3));
        let layer = Linear::new(&weight, Some(&bias)).unwrap();
        let composed = x.broadcast_matmul(&weight.t().unwrap()).unwrap().broadcast_add(&bias).unwrap();
        assert_close(layer.forward(&Tracked::from(&x)).unwrap().value(), &composed, 1e-13);
        assert_gradient(&x, |x| layer.forward(x));
        let layer = Linear::new(&weight, None).unwrap();
        assert_gradient(&x, |x| layer.forward(x));
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() {
        let weight = random(&[5, 7], 1);
        assert!(Linear::new(&weight, None).unwrap().forward(&Tracked::from(random(&[2, 6], 2))).is_err());
        assert!(Linear::new(&weight, Some(&random(&[1], 2))).is_err());
    }

    #[test]
    fn an_empty_batch_gives_an_empty_result() {
        let layer = Linear::new(&random(&[5, 7], 1), None).unwrap();
        assert_eq!(layer.forward(&Tracked::from(random(&[0, 7], 2))).unwrap().value().dims(), [0, 5]);
    }
}
