//! Matrix products, as a machine is asked for them.

use candle_core::DType;

/// A matrix in a machine's memory, row by row, or a batch of matrices of the same extents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operand {
    pub address: u64,
    pub dtype: DType,
    /// Elements from one row to the next.
    pub stride: usize,
    /// The product takes the transpose of what lies there.
    pub transposed: bool,
    /// Elements from one matrix of the batch to the next; 0 if all share one.
    pub batch_stride: usize,
}

impl Operand {
    /// The transpose of what it is.
    #[must_use]
    pub fn transposed(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }

    /// As many matrices as the product has, `batch_stride` elements apart.
    #[must_use]
    pub fn batched(self, batch_stride: usize) -> Self {
        Self { batch_stride, ..self }
    }
}

/// output = scale · left · right, or what was there before plus that; of every matrix of a batch. Sums are taken in f32.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Product {
    /// [rows, inner]
    pub left: Operand,
    /// [inner, columns]
    pub right: Operand,
    /// [rows, columns], not transposed.
    pub output: Operand,
    pub rows: usize,
    pub inner: usize,
    pub columns: usize,
    pub batch: usize,
    pub scale: f32,
    pub accumulate: bool,
}

impl Product {
    /// left · right, once.
    pub fn new(output: Operand, left: Operand, right: Operand, [rows, inner, columns]: [usize; 3]) -> Self {
        Self { left, right, output, rows, inner, columns, batch: 1, scale: 1.0, accumulate: false }
    }

    /// Of as many matrices.
    #[must_use]
    pub fn batched(self, batch: usize) -> Self {
        Self { batch, ..self }
    }

    /// Times a number.
    #[must_use]
    pub fn scaled(self, scale: f64) -> Self {
        Self { scale: scale as f32, ..self }
    }

    /// Added to what is there.
    #[must_use]
    pub fn accumulated(self, accumulate: bool) -> Self {
        Self { accumulate, ..self }
    }
}
