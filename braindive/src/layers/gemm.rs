//! Matrix products over strided slices: the crate's only door to the `gemm` crate.

use super::kernel::Element;

/// A matrix inside a slice: element (i, j) is `data[i * row_stride + j * column_stride]`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, T> {
    pub data: &'a [T],
    pub rows: usize,
    pub columns: usize,
    pub row_stride: usize,
    pub column_stride: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// `data` row by row, with `row_stride` elements from one row to the next.
    pub fn new(data: &'a [T], rows: usize, columns: usize, row_stride: usize) -> Self {
        Self { data, rows, columns, row_stride, column_stride: 1 }
    }

    #[must_use]
    pub fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// Whether a matrix of these extents ends inside `len` elements.
fn fits(len: usize, rows: usize, columns: usize, row_stride: usize, column_stride: usize) -> bool {
    rows == 0 || columns == 0 || (rows - 1) * row_stride + (columns - 1) * column_stride < len
}

/// Terms that are summed before they are added to the output. Rounding errors of a long sum grow less this way, and the
/// order of its terms does not depend on the machine's caches.
const BLOCK: usize = 64;

/// `output = a · b`, or `output += a · b` if `accumulate`, on the calling thread; row i of the output begins at
/// `output[i * row_stride]`.
///
/// # Panics
/// If the extents disagree or a matrix does not fit in its slice, which would be a bug in a layer.
pub(crate) fn multiply<T: Element>(
    output: &mut [T],
    row_stride: usize,
    accumulate: bool,
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    assert_eq!(k, b.rows, "inner extents of a matrix product");
    assert!(fits(a.data.len(), a.rows, a.columns, a.row_stride, a.column_stride), "left factor leaves its slice");
    assert!(fits(b.data.len(), b.rows, b.columns, b.row_stride, b.column_stride), "right factor leaves its slice");
    assert!(fits(output.len(), m, n, row_stride, 1) && row_stride >= n, "product leaves its slice");
    if k == 0 && !accumulate {
        output.chunks_mut(row_stride).take(m).for_each(|row| row[..n].fill(T::zero()));
    }
    for first in (0..k).step_by(BLOCK) {
        // SAFETY: all three matrices lie inside their slices (asserted above), and so do the blocks of `a`'s columns and `b`'s
        // rows from `first`; `output` is borrowed mutably, so that it overlaps neither factor, and its rows do not overlap
        // one another. `T` is f32 or f64, which `gemm` serves.
        unsafe {
            gemm::gemm(
                m,
                n,
                BLOCK.min(k - first),
                output.as_mut_ptr(),
                1,
                row_stride as isize,
                accumulate || first > 0,
                a.data.as_ptr().add(first * a.column_stride),
                a.column_stride as isize,
                a.row_stride as isize,
                b.data.as_ptr().add(first * b.row_stride),
                b.column_stride as isize,
                b.row_stride as isize,
                T::one(),
                T::one(),
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_strided_and_transposed_matrices_are_exact_on_small_integers() {
        let a: Vec<f64> = (0..12).map(f64::from).collect();
        let b: Vec<f64> = (0..20).map(|i| f64::from(i % 7) - 3.0).collect();
        let mut output = vec![1.0; 4 * 8];
        let left = Matrix::new(&a, 3, 4, 4).transposed();
        let right = Matrix::new(&b, 3, 5, 6);
        multiply(&mut output, 8, true, left, right);
        for i in 0..4 {
            for j in 0..8 {
                let product: f64 = (0..3).map(|k| a[k * 4 + i] * b.get(k * 6 + j).unwrap_or(&0.0)).sum();
                assert_eq!(output[i * 8 + j], if j < 5 { 1.0 + product } else { 1.0 });
            }
        }
    }

    #[test]
    fn a_long_sum_is_exact_on_small_integers() {
        let a: Vec<f32> = (0..3 * 300).map(|i| (i % 5) as f32).collect();
        let b: Vec<f32> = (0..300 * 2).map(|i| (i % 3) as f32 - 1.0).collect();
        let mut output = [7.0; 6];
        multiply(&mut output, 2, false, Matrix::new(&a, 3, 300, 300), Matrix::new(&b, 300, 2, 2));
        for (i, found) in output.into_iter().enumerate() {
            let product: f32 = (0..300).map(|k| a[i / 2 * 300 + k] * b[k * 2 + i % 2]).sum();
            assert_eq!(found, product);
        }
    }

    #[test]
    #[should_panic(expected = "right factor leaves its slice")]
    fn a_matrix_that_leaves_its_slice_is_refused() {
        multiply(&mut [0f32; 4], 2, false, Matrix::new(&[0.; 4], 2, 2, 2), Matrix::new(&[0.; 4], 2, 2, 3));
    }
}
