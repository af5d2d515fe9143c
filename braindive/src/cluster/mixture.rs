//! Expectation maximisation for a mixture of von Mises-Fisher distributions with a concentration of its own for every component
//! (Banerjee et al. 2005, equations 3.8 to 3.16): density f(x) = c_d(κ) exp(κ μᵀx), c_d(κ) = κ^(d/2−1) / ((2π)^(d/2) I_{d/2−1}(κ)).

use super::bessel::log_bessel_i;
use super::{Assignment, ClusterError};
use crate::layers::{Matrix, multiply};
use rayon::prelude::*;
use std::f64::consts::TAU;

/// Steps of EM at most.
const MOST_STEPS: usize = 200;
/// EM ends when the log-likelihood changes by less than this share of it.
const TOLERANCE: f64 = 1e-10;
/// Mean resultant length from which a component holds copies of one direction: its likelihood has no maximum.
const ONE_DIRECTION: f64 = 1.0 - 1e-9;
/// Rows that are summed at a time, so that a core's cache holds them between the two products of a step; sums do not depend on the number
/// of threads.
const TILE: usize = 64;

/// Unit vectors, one a row.
#[derive(Debug, Clone, PartialEq)]
pub struct Directions {
    dimension: usize,
    /// [rows, dimension]
    values: Vec<f64>,
}

impl Directions {
    /// Brings the rows of `weights` [rows, dimension] to unit length.
    ///
    /// # Errors
    /// A row is zero or not finite.
    pub fn new(weights: &[f32], dimension: usize) -> Result<Self, ClusterError> {
        let mut values: Vec<f64> = weights.iter().map(|&value| f64::from(value)).collect();
        for (row, vector) in values.chunks_mut(dimension).enumerate() {
            let length = norm(vector);
            if length == 0.0 || !length.is_finite() {
                return Err(ClusterError::NoDirection { row });
            }
            vector.iter_mut().for_each(|value| *value /= length);
        }
        Ok(Self { dimension, values })
    }

    pub fn rows(&self) -> usize {
        self.values.len() / self.dimension
    }

    pub fn dimension(&self) -> usize {
        self.dimension
    }

    pub fn row(&self, row: usize) -> &[f64] {
        &self.values[row * self.dimension..][..self.dimension]
    }

    /// A few rows at a time.
    fn tiles(&self) -> impl IndexedParallelIterator<Item = &[f64]> {
        self.values.par_chunks(TILE * self.dimension)
    }

    /// The rows with these numbers.
    pub fn select(&self, rows: &[usize]) -> Self {
        let values = rows.iter().flat_map(|&row| self.row(row)).copied().collect();
        Self { dimension: self.dimension, values }
    }
}

/// k components.
#[derive(Debug, Clone, PartialEq)]
pub struct Mixture {
    /// Mean directions, unit vectors [k][d].
    pub means: Vec<Vec<f64>>,
    /// Concentrations κ.
    pub kappa: Vec<f64>,
    /// Shares α, which sum to 1.
    pub alpha: Vec<f64>,
}

/// A mixture and what EM did.
#[derive(Debug, Clone, PartialEq)]
pub struct Fitted {
    pub mixture: Mixture,
    /// The likeliest component of every row.
    pub labels: Vec<usize>,
    /// Before every step, natural logarithm per row: of the mixture, or of each row's own component with hard assignments.
    pub log_likelihood: Vec<f64>,
}

/// What the E step adds up over rows.
struct Sums {
    log_likelihood: f64,
    /// Rows, or shares of rows, of every component.
    weight: Vec<f64>,
    /// [k, d]
    resultant: Vec<f64>,
}

impl Mixture {
    /// A mixture around `means`, its other parameters as EM begins: κ = d, α = 1/k.
    pub fn around(means: Vec<Vec<f64>>) -> Self {
        let k = means.len();
        let dimension = means.first().map_or(0, Vec::len);
        Self { means, kappa: vec![dimension as f64; k], alpha: vec![1.0 / k as f64; k] }
    }

    /// Runs EM from here until the likelihood stands still.
    ///
    /// # Errors
    /// A component loses its rows or holds copies of one direction.
    pub fn fit(mut self, rows: &Directions, assign: Assignment) -> Result<Fitted, ClusterError> {
        let mut log_likelihood: Vec<f64> = Vec::new();
        loop {
            let sums = self.expect(rows, assign);
            let now = sums.log_likelihood / rows.rows() as f64;
            let before = log_likelihood.last().copied();
            log_likelihood.push(now);
            self.maximise(rows, &sums)?;
            let still = before.is_some_and(|before| (now - before).abs() < TOLERANCE * before.abs());
            if still || log_likelihood.len() == MOST_STEPS {
                let labels = self.labels(rows);
                return Ok(Fitted { mixture: self, labels, log_likelihood });
            }
        }
    }

    /// Mean over the rows of log Σ α f, natural logarithm.
    pub fn log_likelihood(&self, rows: &Directions) -> f64 {
        self.expect(rows, Assignment::Soft).log_likelihood / rows.rows() as f64
    }

    /// The likeliest component of every row; of equally likely ones the first.
    pub fn labels(&self, rows: &Directions) -> Vec<usize> {
        let (offsets, k) = (self.offsets(), self.means.len());
        let of_tile = |tile| self.scores(&offsets, rows.dimension, tile).chunks_exact(k).map(likeliest).collect();
        let tiles: Vec<Vec<usize>> = rows.tiles().map(of_tile).collect();
        tiles.concat()
    }

    /// Cosines between all pairs of means [k][k].
    pub fn cosines(&self) -> Vec<Vec<f64>> {
        let cosines = |one: &Vec<f64>| self.means.iter().map(|other| dot(one, other)).collect();
        self.means.iter().map(cosines).collect()
    }

    /// With the components in another order: `order[i]` becomes the i-th.
    pub(super) fn reordered(&self, order: &[usize]) -> Self {
        Self {
            means: order.iter().map(|&component| self.means[component].clone()).collect(),
            kappa: order.iter().map(|&component| self.kappa[component]).collect(),
            alpha: order.iter().map(|&component| self.alpha[component]).collect(),
        }
    }

    /// log α + log c_d(κ) of every component.
    fn offsets(&self) -> Vec<f64> {
        let half = self.means.first().map_or(0, Vec::len) as f64 / 2.0;
        let order = half - 1.0;
        let log_c = |kappa: f64| order * kappa.ln() - half * TAU.ln() - log_bessel_i(order, kappa);
        self.alpha.iter().zip(&self.kappa).map(|(alpha, &kappa)| alpha.ln() + log_c(kappa)).collect()
    }

    /// log α f(x) of every row of `tile` and every component: [rows, k].
    fn scores(&self, offsets: &[f64], dimension: usize, tile: &[f64]) -> Vec<f64> {
        let (rows, k) = (tile.len() / dimension, self.means.len());
        let means = self.means.concat();
        let mut scores = vec![0.0; rows * k];
        let (tile, means) =
            (Matrix::new(tile, rows, dimension, dimension), Matrix::new(&means, k, dimension, dimension));
        multiply(&mut scores, k, false, tile, means.transposed());
        for scores in scores.chunks_exact_mut(k) {
            let parameters = offsets.iter().zip(&self.kappa);
            scores.iter_mut().zip(parameters).for_each(|(score, (offset, kappa))| *score = offset + kappa * *score);
        }
        scores
    }

    fn expect(&self, rows: &Directions, assign: Assignment) -> Sums {
        let (k, d) = (self.means.len(), rows.dimension);
        let offsets = self.offsets();
        let empty = || Sums { log_likelihood: 0.0, weight: vec![0.0; k], resultant: vec![0.0; k * d] };
        let of_tile = |tile: &[f64]| {
            let mut sums = empty();
            let mut shares = self.scores(&offsets, d, tile);
            for shares in shares.chunks_exact_mut(k) {
                sums.log_likelihood += assigned(shares, assign);
                sums.weight.iter_mut().zip(&*shares).for_each(|(sum, share)| *sum += share);
            }
            let n = tile.len() / d;
            let shares = Matrix::new(&shares, n, k, k).transposed();
            multiply(&mut sums.resultant, d, false, shares, Matrix::new(tile, n, d, d));
            sums
        };
        let tiles: Vec<Sums> = rows.tiles().map(of_tile).collect();
        tiles.into_iter().fold(empty(), Sums::and)
    }

    fn maximise(&mut self, rows: &Directions, sums: &Sums) -> Result<(), ClusterError> {
        let (n, d) = (rows.rows() as f64, rows.dimension as f64);
        for (component, (weight, resultant)) in
            sums.weight.iter().zip(sums.resultant.chunks_exact(rows.dimension)).enumerate()
        {
            let length = norm(resultant);
            let mean_length = length / weight;
            // Also where nothing is left, whose mean length is no number.
            if mean_length.is_nan() || mean_length == 0.0 || mean_length >= ONE_DIRECTION {
                return Err(ClusterError::Collapsed { rows: rows.rows(), k: self.means.len(), starts: 1 });
            }
            self.alpha[component] = weight / n;
            self.means[component] = resultant.iter().map(|value| value / length).collect();
            // Equation 4.4 of Banerjee et al., within a few per cent of the maximum.
            self.kappa[component] = (mean_length * d - mean_length.powi(3)) / (1.0 - mean_length * mean_length);
        }
        Ok(())
    }
}

impl Sums {
    fn and(mut self, other: Self) -> Self {
        self.log_likelihood += other.log_likelihood;
        self.weight.iter_mut().zip(other.weight).for_each(|(sum, value)| *sum += value);
        self.resultant.iter_mut().zip(other.resultant).for_each(|(sum, value)| *sum += value);
        self
    }
}

/// Turns a row's scores into the shares of it that the components get; returns the row's log-likelihood.
fn assigned(scores: &mut [f64], assign: Assignment) -> f64 {
    let likeliest = likeliest(scores);
    let best = scores[likeliest];
    match assign {
        Assignment::Hard => {
            scores.fill(0.0);
            scores[likeliest] = 1.0;
            best
        }
        Assignment::Soft => {
            scores.iter_mut().for_each(|score| *score = (*score - best).exp());
            let total: f64 = scores.iter().sum();
            scores.iter_mut().for_each(|share| *share /= total);
            best + total.ln()
        }
    }
}

fn likeliest(scores: &[f64]) -> usize {
    (1..scores.len()).fold(0, |best, component| if scores[component] > scores[best] { component } else { best })
}

pub(super) fn dot(one: &[f64], other: &[f64]) -> f64 {
    one.iter().zip(other).map(|(one, other)| one * other).sum()
}

fn norm(vector: &[f64]) -> f64 {
    dot(vector, vector).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use checkpoint::Checkpoint;
    use std::path::Path;

    struct Golden(Checkpoint);

    impl Golden {
        fn floats(&self, name: &str) -> Vec<f64> {
            let tensor = &self.0.tensors()[name];
            self.0.bytes(tensor).as_chunks::<8>().0.iter().map(|&bytes| f64::from_le_bytes(bytes)).collect()
        }

        fn integers(&self, name: &str) -> Vec<usize> {
            self.0.integers(&self.0.tensors()[name]).unwrap().into_iter().map(|value| value as usize).collect()
        }

        fn rows(&self, name: &str) -> Directions {
            let tensor = &self.0.tensors()[name];
            let bytes = self.0.bytes(tensor);
            let values: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
            Directions::new(&values, tensor.shape[1]).unwrap()
        }
    }

    fn close(found: &[f64], expected: &[f64], tolerance: f64) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() <= tolerance * expected.abs().max(1.0), "{found}, expected {expected}");
        }
    }

    /// Reference: NumPy in f64, `tests/reference/ref_more.py`, with scipy-checked Bessel functions.
    #[test]
    fn em_follows_the_reference_step_by_step() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/reference/vmf/vmf.safetensors");
        let golden = Golden(Checkpoint::open(&path).unwrap());
        for set in ["easy_d32", "overlap_d16", "uneven_d64", "weights_d512"] {
            let rows = golden.rows(&format!("{set}.W"));
            let starts = golden.integers(&format!("{set}.init_index"));
            for (mode, assign) in [("soft", Assignment::Soft), ("hard", Assignment::Hard)] {
                let means = starts.iter().map(|&row| rows.row(row).to_vec()).collect();
                let fitted = Mixture::around(means).fit(&rows, assign).unwrap();
                let of = |what: &str| format!("{set}.{mode}.{what}");
                assert_eq!(fitted.labels, golden.integers(&of("labels")), "{set} {mode}");
                // At d = 16 the reference's expansion of the Bessel function is good to 1e-7.
                close(&fitted.log_likelihood, &golden.floats(&of("loglik")), 1e-6);
                close(&fitted.mixture.kappa, &golden.floats(&of("kappa")), 1e-6);
                close(&fitted.mixture.alpha, &golden.floats(&of("alpha")), 1e-6);
                close(&fitted.mixture.means.concat(), &golden.floats(&of("mu")), 1e-6);
            }
        }
    }

    #[test]
    fn a_component_of_one_direction_is_refused() {
        let rows = Directions::new(&[1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.9, 0.1], 3).unwrap();
        let starts = vec![rows.row(0).to_vec(), rows.row(2).to_vec()];
        let refused = Mixture::around(starts).fit(&rows, Assignment::Hard).unwrap_err();
        assert_eq!(refused, ClusterError::Collapsed { rows: 4, k: 2, starts: 1 });
        assert_eq!(Directions::new(&[1.0, 0.0, 0.0, 0.0], 2), Err(ClusterError::NoDirection { row: 1 }));
        assert_eq!(Directions::new(&[1.0, 0.0, f32::NAN, 0.0], 2), Err(ClusterError::NoDirection { row: 1 }));
    }
}
