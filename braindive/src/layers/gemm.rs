//! Matrix products over strided slices: the crate's only door to the `gemm` crate.

use super::kernel::{Element, for_each_chunk};
use std::marker::PhantomData;

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

    /// `rows` rows from row `first`.
    #[must_use]
    pub fn rows_from(self, first: usize, rows: usize) -> Self {
        Self { data: &self.data[first * self.row_stride..], rows, ..self }
    }

    /// `columns` columns from column `first`.
    #[must_use]
    pub fn columns_from(self, first: usize, columns: usize) -> Self {
        Self { data: &self.data[first * self.column_stride..], columns, ..self }
    }
}

/// Whether a matrix of these extents ends inside `len` elements.
fn fits(len: usize, rows: usize, columns: usize, row_stride: usize, column_stride: usize) -> bool {
    rows == 0 || columns == 0 || (rows - 1) * row_stride + (columns - 1) * column_stride < len
}

/// A matrix to write into, row by row inside a slice; it can be cut into blocks that different threads write.
#[derive(Debug)]
pub(crate) struct MatrixMut<'a, T> {
    data: *mut T,
    rows: usize,
    columns: usize,
    row_stride: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: like the `&mut [T]` that it was made of, it alone reaches its elements.
unsafe impl<T: Send> Send for MatrixMut<'_, T> {}

/// Terms that are summed before they are added to the output. Fewer cost time (every block reads and writes the output once),
/// more cost accuracy. Up to 512 terms `gemm` never divides further, whatever the machine's caches, so that the order of a sum
/// is the same everywhere.
const BLOCK: usize = 64;

impl<'a, T> MatrixMut<'a, T> {
    /// `data` row by row, with `row_stride` elements from one row to the next.
    ///
    /// # Panics
    /// If the matrix does not fit in its slice or its rows overlap, which would be a bug in a layer.
    pub fn new(data: &'a mut [T], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(fits(data.len(), rows, columns, row_stride, 1) && row_stride >= columns, "product leaves its slice");
        Self { data: data.as_mut_ptr(), rows, columns, row_stride, slice: PhantomData }
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Row `i`.
    ///
    /// # Panics
    /// If there is none.
    pub fn row(&mut self, i: usize) -> &mut [T] {
        assert!(i < self.rows, "row {i} of a matrix of {}", self.rows);
        // SAFETY: the row lies inside the slice (asserted in `new`), and `self` is borrowed as long as the row.
        unsafe { std::slice::from_raw_parts_mut(self.data.wrapping_add(i * self.row_stride), self.columns) }
    }

    /// Blocks of at most `rows` × `columns`, those of the same rows one after another. A matrix without elements has none.
    pub fn blocks(self, rows: usize, columns: usize) -> Vec<Self> {
        let starts = |length: usize, step: usize| (0..length).step_by(step.max(1));
        starts(self.rows, rows)
            .flat_map(|row| starts(self.columns, columns).map(move |column| (row, column)))
            .map(|(row, column)| Self {
                // SAFETY: an element of the matrix, hence inside the slice. Blocks share no element, and `self` is gone.
                data: unsafe { self.data.add(row * self.row_stride + column) },
                rows: rows.min(self.rows - row),
                columns: columns.min(self.columns - column),
                ..self
            })
            .collect()
    }
}

impl<T: Element> MatrixMut<'_, T> {
    /// Becomes `a · b`, or adds it if `accumulate`, on the calling thread.
    ///
    /// # Panics
    /// If the extents disagree or a matrix does not fit in its slice, which would be a bug in a layer.
    pub fn multiply(&mut self, accumulate: bool, a: Matrix<'_, T>, b: Matrix<'_, T>) {
        let k = a.columns;
        assert_eq!(k, b.rows, "inner extents of a matrix product");
        assert_eq!((self.rows, self.columns), (a.rows, b.columns), "outer extents of a matrix product");
        assert!(fits(a.data.len(), a.rows, a.columns, a.row_stride, a.column_stride), "left factor leaves its slice");
        assert!(fits(b.data.len(), b.rows, b.columns, b.row_stride, b.column_stride), "right factor leaves its slice");
        if k == 0 && !accumulate {
            (0..self.rows).for_each(|i| self.row(i).fill(T::zero()));
        }
        for first in (0..k).step_by(BLOCK) {
            // SAFETY: the factors lie inside their slices (asserted above), and so do the blocks of `a`'s columns and `b`'s rows
            // from `first`; the output lies inside its own (asserted in `new`), which is borrowed mutably, so that it overlaps
            // neither factor, and its rows do not overlap one another. `T` is f32 or f64, which `gemm` serves.
            unsafe {
                gemm::gemm(
                    self.rows,
                    self.columns,
                    BLOCK.min(k - first),
                    self.data,
                    1,
                    self.row_stride as isize,
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
}

/// `output = a · b`, or `output += a · b` if `accumulate`, on the calling thread; row i of the output begins at
/// `output[i * row_stride]`.
///
/// # Panics
/// As [`MatrixMut::new`] and [`MatrixMut::multiply`].
pub(crate) fn multiply<T: Element>(
    output: &mut [T],
    row_stride: usize,
    accumulate: bool,
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
) {
    MatrixMut::new(output, a.rows, b.columns, row_stride).multiply(accumulate, a, b);
}

/// What is added to a product.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bias<'a, T> {
    None,
    /// One value per row.
    Rows(&'a [T]),
    /// One value per column.
    Columns(&'a [T]),
}

impl<'a, T> Bias<'a, T> {
    pub fn of_rows(values: Option<&'a [T]>) -> Self {
        values.map_or(Self::None, Self::Rows)
    }

    pub fn of_columns(values: Option<&'a [T]>) -> Self {
        values.map_or(Self::None, Self::Columns)
    }
}

/// `output = a · b + bias` on all cores, a task per block of `[rows, columns]` of the output.
///
/// # Panics
/// As [`MatrixMut::multiply`], or if the bias is too short, which would be a bug in a layer.
pub(crate) fn multiply_in_blocks<T: Element>(
    output: MatrixMut<'_, T>,
    [rows, columns]: [usize; 2],
    bias: Bias<'_, T>,
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
) {
    let across = output.columns.div_ceil(columns);
    let mut blocks = output.blocks(rows, columns);
    for_each_chunk(&mut blocks, 1, 2 * a.rows * a.columns * b.columns, |i, blocks| {
        let (row, column) = (i / across * rows, i % across * columns);
        for block in blocks {
            let width = block.columns;
            (0..block.rows).for_each(|i| match bias {
                Bias::None => {}
                Bias::Rows(values) => block.row(i).fill(values[row + i]),
                Bias::Columns(values) => block.row(i).copy_from_slice(&values[column..column + width]),
            });
            let (a, b) = (a.rows_from(row, block.rows), b.columns_from(column, width));
            block.multiply(!matches!(bias, Bias::None), a, b);
        }
    });
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
        let a: Vec<f32> = (0..3 * 1100).map(|i| (i % 5) as f32).collect();
        let b: Vec<f32> = (0..1100 * 2).map(|i| (i % 3) as f32 - 1.0).collect();
        let mut output = [7.0; 6];
        multiply(&mut output, 2, false, Matrix::new(&a, 3, 1100, 1100), Matrix::new(&b, 1100, 2, 2));
        for (i, found) in output.into_iter().enumerate() {
            let product: f32 = (0..1100).map(|k| a[i / 2 * 1100 + k] * b[k * 2 + i % 2]).sum();
            assert_eq!(found, product);
        }
    }

    #[test]
    fn blocks_cover_every_element_once() {
        let mut data = [0; 5 * 8];
        for (i, mut block) in MatrixMut::new(&mut data, 5, 7, 8).blocks(2, 3).into_iter().enumerate() {
            (0..block.rows()).for_each(|row| block.row(row).iter_mut().for_each(|v| *v += i + 1));
        }
        for (row, values) in data.chunks(8).enumerate() {
            let expected: Vec<usize> = (0..7).map(|column| row / 2 * 3 + column / 3 + 1).chain([0]).collect();
            assert_eq!(values, expected);
        }
        assert!(MatrixMut::new(&mut [0; 0], 3, 0, 0).blocks(2, 2).is_empty());
    }

    #[test]
    #[should_panic(expected = "right factor leaves its slice")]
    fn a_matrix_that_leaves_its_slice_is_refused() {
        multiply(&mut [0f32; 4], 2, false, Matrix::new(&[0.; 4], 2, 2, 2), Matrix::new(&[0.; 4], 2, 2, 3));
    }
}
