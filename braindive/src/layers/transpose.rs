//! Transposition of the last two dimensions: between maps and tokens, and of what matrix products read along columns.

mod launch;

use super::kernel::{Element, Input, Kernel, for_each_chunk, run};
use candle_core::{D, Result, Shape, Tensor, bail};

/// Side of the blocks that are transposed one at a time: a block's rows and columns are whole cache lines.
const BLOCK: usize = 16;

/// `x`: [..., rows, columns]; returns [..., columns, rows], contiguous.
///
/// # Errors
/// `x` has fewer than two dimensions.
pub(crate) fn transpose(x: &Tensor) -> Result<Tensor> {
    run(&Transposition, &[x])
}

struct Transposition;

fn transposed_shape(dims: &[usize]) -> Result<Shape> {
    match dims {
        [others @ .., rows, columns] => Ok([others, &[*columns, *rows]].concat().into()),
        _ => bail!("a tensor of shape {dims:?} cannot be transposed"),
    }
}

impl Kernel for Transposition {
    fn run<T: Element>(&self, inputs: &[Input<'_, T>]) -> Result<(Vec<T>, Shape)> {
        let x = &inputs[0];
        let shape = transposed_shape(x.dims)?;
        Ok((transposed(x.data, shape.dim(D::Minus1)?, x.width()), shape))
    }
}

/// The transposes of the matrices [rows, columns] that `x` consists of.
pub(crate) fn transposed<T: Element>(x: &[T], rows: usize, columns: usize) -> Vec<T> {
    let mut y = vec![T::zero(); x.len()];
    for_each_chunk(&mut y, rows * columns, 4 * x.len(), |matrix, y| {
        let x = &x[matrix * rows * columns..(matrix + 1) * rows * columns];
        for_each_chunk(y, BLOCK * rows, 4 * x.len(), |i, y| {
            for first in (0..rows).step_by(BLOCK) {
                let block = first..(first + BLOCK).min(rows);
                for (column, y) in (i * BLOCK..).zip(y.chunks_exact_mut(rows)) {
                    for (y, x) in y[block.clone()].iter_mut().zip(x[block.start * columns..].chunks(columns)) {
                        *y = x[column];
                    }
                }
            }
        });
    });
    y
}

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{assert_close, random};
    use super::*;

    #[test]
    fn equals_candles_transposition() {
        for shape in [[1, 1, 1], [2, 3, 17], [1, 40, 16], [3, 33, 50]] {
            let x = random(&shape, 1);
            assert_close(&transpose(&x).unwrap(), &x.transpose(1, 2).unwrap().contiguous().unwrap(), 0.0);
        }
        assert!(transpose(&random(&[3], 1)).is_err());
        assert_eq!(transpose(&random(&[0, 2, 3], 1)).unwrap().dims(), [0, 3, 2]);
    }
}
