//! Sums of two tensors: skip connections, gradients of several paths, shifts of whole channels.

mod launch;

use super::kernel::{Element, Input, Kernel, for_each_chunk, run};
use super::simd::vectorised;
use candle_core::{Result, Shape, Tensor, bail};
pub(super) use launch::add_in_place;

/// Elements per task.
const CHUNK: usize = 1 << 14;

/// x + y; `y` has the shape of `x`, but may lack some of its first dimensions, or have 1 in place of some of its first and of its
/// last: [1, channels, 1, 1] shifts the channels of every image.
///
/// # Errors
/// `y` has another shape.
pub(crate) fn add(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    run(&Sum, &[x, y])
}

struct Sum;

vectorised! {
    fn sums<T: Element>(sum: &mut [T], x: &[T], y: &[T]) {
        for ((sum, &x), &y) in sum.iter_mut().zip(x).zip(y) {
            *sum = x + y;
        }
    }

    fn shifted<T: Element>(sum: &mut [T], x: &[T], shift: T) {
        for (sum, &x) in sum.iter_mut().zip(x) {
            *sum = x + shift;
        }
    }
}

impl Kernel for Sum {
    fn run<T: Element>(&self, inputs: &[Input<'_, T>]) -> Result<(Vec<T>, Shape)> {
        let [x, y] = inputs else { bail!("a sum takes two tensors") };
        let Some(block) = repeated_elements(x.dims, y.dims) else {
            bail!("a tensor of shape {:?} cannot be added to one of shape {:?}", y.dims, x.dims);
        };
        let mut sum = vec![T::zero(); x.data.len()];
        if block > 1 {
            for_each_chunk(&mut sum, block, 8 * x.data.len(), |i, sum| {
                shifted(sum, &x.data[i * block..(i + 1) * block], y.data[i % y.data.len()]);
            });
        } else {
            for_each_chunk(&mut sum, y.data.len(), 8 * x.data.len(), |i, sum| {
                let x = &x.data[i * y.data.len()..(i + 1) * y.data.len()];
                for_each_chunk(sum, CHUNK, 8 * x.len(), |i, sum| {
                    let range = i * CHUNK..i * CHUNK + sum.len();
                    sums(sum, &x[range.clone()], &y.data[range]);
                });
            });
        }
        Ok((sum, Shape::from(x.dims)))
    }
}

/// How many neighbours in x share an element of y, if y can be added.
fn repeated_elements(x: &[usize], y: &[usize]) -> Option<usize> {
    let x = &x[x.len().checked_sub(y.len())?..];
    let first = x.iter().zip(y).take_while(|(x, y)| x != y && **y == 1).count();
    let shared = x[first..].iter().zip(&y[first..]).take_while(|(x, y)| x == y).count();
    let last = first + shared;
    y[last..].iter().all(|&n| n == 1).then(|| x[last..].iter().product())
}

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{assert_close, random};
    use super::*;

    #[test]
    fn equals_candles_sum_of_equal_and_of_broadcast_shapes() {
        let x = random(&[2, 3, 40, 70], 1);
        let shapes: [&[usize]; 9] = [
            &[2, 3, 40, 70],
            &[2, 3, 40, 1],
            &[2, 3, 1, 1],
            &[2, 1, 1, 1],
            &[1, 1, 1, 1],
            &[1, 3, 40, 70],
            &[1, 3, 1, 1],
            &[40, 70],
            &[3, 1, 1],
        ];
        for shape in shapes {
            let y = random(shape, 2);
            assert_close(&add(&x, &y).unwrap(), &x.broadcast_add(&y).unwrap(), 0.0);
        }
        for shape in [&[2, 1, 40, 70][..], &[2, 3, 40], &[2, 2, 40, 70], &[2, 3, 40, 70, 1]] {
            assert!(add(&x, &random(shape, 2)).is_err());
        }
    }
}
