//! Rows of unit norm: the directions of voxels' weights. They are kept as they came, with their norms, and every sum is in f64.

use super::ClusterError;
use crate::layers::simd::vectorised;
use rayon::prelude::*;

/// Rows that are gone over together, and whose sums are added in order whatever the number of threads.
const BLOCK: usize = 256;
const LANES: usize = 16;

/// [rows, width], each row of unit norm.
#[derive(Debug, Clone)]
pub struct UnitRows {
    width: usize,
    values: Vec<f32>,
    inverse_norms: Vec<f64>,
}

impl UnitRows {
    /// Takes rows of any norm. `values`: [rows, width].
    ///
    /// # Errors
    /// A row has no direction: it is zero, or holds NaN or infinity.
    pub fn new(width: usize, values: Vec<f32>) -> Result<Self, ClusterError> {
        let mut inverse_norms = Vec::with_capacity(values.len() / width.max(1));
        for (row, values) in values.chunks_exact(width.max(1)).enumerate() {
            let norm = values.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt();
            if !(norm.is_finite() && norm > 0.0) {
                return Err(ClusterError::NoDirection { row, norm });
            }
            inverse_norms.push(1.0 / norm);
        }
        Ok(Self { width, values, inverse_norms })
    }

    pub fn len(&self) -> usize {
        self.inverse_norms.len()
    }

    pub fn is_empty(&self) -> bool {
        self.inverse_norms.is_empty()
    }

    pub fn width(&self) -> usize {
        self.width
    }

    /// A row of unit norm.
    pub fn row(&self, row: usize) -> Vec<f64> {
        let values = &self.values[row * self.width..][..self.width];
        values.iter().map(|&value| f64::from(value) * self.inverse_norms[row]).collect()
    }

    /// Some of the rows, in the order given.
    pub fn select(&self, rows: &[usize]) -> Self {
        let values = rows.iter().flat_map(|&row| &self.values[row * self.width..][..self.width]).copied().collect();
        let inverse_norms = rows.iter().map(|&row| self.inverse_norms[row]).collect();
        Self { width: self.width, values, inverse_norms }
    }

    /// Cosines of every row with `centres` [k, width] of unit norm: [rows, k].
    pub fn cosines(&self, centres: &[f64]) -> Vec<f64> {
        let blocks: Vec<Vec<f64>> = self.blocks().map(|block| block.cosines(centres)).collect();
        blocks.concat()
    }

    /// The blocks of rows, in parallel and in order.
    pub(super) fn blocks(&self) -> impl IndexedParallelIterator<Item = Block<'_>> {
        let values = self.values.par_chunks(BLOCK * self.width);
        let inverse_norms = self.inverse_norms.par_chunks(BLOCK);
        values.zip(inverse_norms).map(|(values, inverse_norms)| Block { width: self.width, values, inverse_norms })
    }
}

/// Consecutive rows.
pub(super) struct Block<'a> {
    width: usize,
    values: &'a [f32],
    inverse_norms: &'a [f64],
}

impl Block<'_> {
    /// As [`UnitRows::cosines`].
    pub(super) fn cosines(&self, centres: &[f64]) -> Vec<f64> {
        let k = centres.len() / self.width;
        let mut cosines = vec![0.0; self.inverse_norms.len() * k];
        products(self.values, centres, self.width, &mut cosines);
        for (cosines, inverse_norm) in cosines.chunks_exact_mut(k).zip(self.inverse_norms) {
            cosines.iter_mut().for_each(|cosine| *cosine *= inverse_norm);
        }
        cosines
    }

    /// Sums of the rows by `weights` [rows, k]: [k, width].
    pub(super) fn weighted_sums(&self, weights: &[f64]) -> Vec<f64> {
        let k = weights.len() / self.inverse_norms.len();
        let mut scaled = weights.to_vec();
        for (weights, inverse_norm) in scaled.chunks_exact_mut(k).zip(self.inverse_norms) {
            weights.iter_mut().for_each(|weight| *weight *= inverse_norm);
        }
        let mut sums = vec![0.0; k * self.width];
        add_weighted(self.values, &scaled, self.width, &mut sums);
        sums
    }
}

trait Real: Copy {
    fn widened(self) -> f64;
}

impl Real for f32 {
    #[inline(always)]
    fn widened(self) -> f64 {
        f64::from(self)
    }
}

vectorised! {
    /// `products` [rows, k] of `rows` [rows, width] with `centres` [k, width].
    fn products<R: Real>(rows: &[R], centres: &[f64], width: usize, products: &mut [f64]) {
        let k = centres.len() / width;
        for (row, products) in rows.chunks_exact(width).zip(products.chunks_exact_mut(k)) {
            for (centre, product) in centres.chunks_exact(width).zip(products) {
                let mut lanes = [0.0; LANES];
                let (row_lanes, row_rest) = row.as_chunks::<LANES>();
                let (centre_lanes, centre_rest) = centre.as_chunks::<LANES>();
                for (row, centre) in row_lanes.iter().zip(centre_lanes) {
                    for lane in 0..LANES {
                        lanes[lane] += row[lane].widened() * centre[lane];
                    }
                }
                let mut sum = 0.0;
                for lane in lanes {
                    sum += lane;
                }
                for (row, centre) in row_rest.iter().zip(centre_rest) {
                    sum += row.widened() * centre;
                }
                *product = sum;
            }
        }
    }

    /// Adds to `sums` [k, width] the `rows` [rows, width] times `weights` [rows, k].
    fn add_weighted<R: Real>(rows: &[R], weights: &[f64], width: usize, sums: &mut [f64]) {
        let k = sums.len() / width;
        for (row, weights) in rows.chunks_exact(width).zip(weights.chunks_exact(k)) {
            for (sums, &weight) in sums.chunks_exact_mut(width).zip(weights) {
                // Posteriors are often exactly 0 or 1.
                if weight != 0.0 {
                    for (sum, value) in sums.iter_mut().zip(row) {
                        *sum += weight * value.widened();
                    }
                }
            }
        }
    }
}
