//! Sums, mean and variance of long rows, in f64 whatever the elements are: errors of a mean or a variance shift a whole row.

use super::kernel::{Element, map_tasks};
use super::simd::vectorised;

/// Elements per task.
pub(super) const PIECE: usize = 1 << 16;
/// Elements that stay in a level-1 cache from the sum to that of the squared deviations.
const SHORT: usize = 2048;
/// Partial sums, so that a sum vectorises.
const LANES: usize = 32;

/// The number of some elements, their mean, and the sum of their squared deviations from it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Moments {
    count: f64,
    pub mean: f64,
    deviations: f64,
}

impl Moments {
    /// The moments of `row`, from one pass over memory.
    pub fn of<T: Element>(row: &[T]) -> Self {
        let pieces = map_tasks(row.len().div_ceil(PIECE), 4 * row.len(), |i| {
            let piece = &row[i * PIECE..((i + 1) * PIECE).min(row.len())];
            piece.chunks(SHORT).map(Self::of_short).fold(Self::default(), Self::merged)
        });
        pieces.into_iter().fold(Self::default(), Self::merged)
    }

    fn of_short<T: Element>(x: &[T]) -> Self {
        let count = x.len() as f64;
        let mean = sum(x) / count;
        Self { count, mean, deviations: deviations(x, mean) }
    }

    /// The moments of both samples together, `other` not empty (Chan, Golub & LeVeque 1983, eq. 2.1).
    fn merged(self, other: Self) -> Self {
        let count = self.count + other.count;
        let delta = other.mean - self.mean;
        let share = other.count / count;
        Self {
            count,
            mean: self.mean + delta * share,
            deviations: self.deviations + other.deviations + delta * delta * self.count * share,
        }
    }

    /// Mean squared deviation, the biased variance that normalisations take.
    pub fn variance(self) -> f64 {
        self.deviations / self.count
    }
}

/// Adds the lanes up pair by pair.
#[inline(always)]
fn total(mut lanes: [f64; LANES]) -> f64 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

vectorised! {
    /// Σ x
    pub(super) fn sum<T: Element>(x: &[T]) -> f64 {
        let (chunks, rest) = x.as_chunks::<LANES>();
        let mut lanes = [0.0; LANES];
        for chunk in chunks {
            for lane in 0..LANES {
                lanes[lane] += chunk[lane].to_f64();
            }
        }
        for (lane, &x) in lanes.iter_mut().zip(rest) {
            *lane += x.to_f64();
        }
        total(lanes)
    }

    /// Σ (x − mean)²
    fn deviations<T: Element>(x: &[T], mean: f64) -> f64 {
        let (chunks, rest) = x.as_chunks::<LANES>();
        let mut lanes = [0.0; LANES];
        for chunk in chunks {
            for lane in 0..LANES {
                let deviation = chunk[lane].to_f64() - mean;
                lanes[lane] += deviation * deviation;
            }
        }
        for (lane, &x) in lanes.iter_mut().zip(rest) {
            *lane += (x.to_f64() - mean) * (x.to_f64() - mean);
        }
        total(lanes)
    }

    /// Σ a·(b − shift), of slices of one length.
    pub(super) fn sum_of_products<T: Element>(a: &[T], b: &[T], shift: T) -> f64 {
        let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
        let mut lanes = [0.0; LANES];
        for (a, b) in a.iter().zip(b) {
            for lane in 0..LANES {
                lanes[lane] += a[lane].to_f64() * (b[lane].to_f64() - shift.to_f64());
            }
        }
        for ((lane, &a), &b) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
            *lane += a.to_f64() * (b.to_f64() - shift.to_f64());
        }
        total(lanes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_of_long_rows_far_from_zero_are_accurate() {
        for n in [1, 31, 2048, 3 * PIECE + 100] {
            let row: Vec<f32> = (0..n).map(|i| 100.0 + (i * 7919 % 1000) as f32 / 500.0).collect();
            let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / n as f64;
            let variance = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n as f64;
            let moments = Moments::of(&row);
            assert!((moments.mean - mean).abs() < 1e-14 * mean, "{n}: mean {} instead of {mean}", moments.mean);
            assert!((moments.variance() - variance).abs() <= 1e-12 * variance, "{n}: variance {}", moments.variance());
            assert!((sum(&row) - mean * n as f64).abs() <= 1e-14 * mean * n as f64);
            let products = sum_of_products(&row, &row, 100.0);
            let exact: f64 = row.iter().map(|&x| f64::from(x) * (f64::from(x) - 100.0)).sum();
            assert!((products - exact).abs() <= 1e-12 * exact.abs());
        }
    }
}
