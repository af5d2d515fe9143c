//! How well each voxel is predicted.

use super::super::fit::LinearMap;
use crate::layers::{Bias, Matrix, MatrixMut, multiply_in_blocks};

/// Scores of every voxel over the held-out images; NaN where they are not defined.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct VoxelScores {
    /// 1 − SS_res/SS_tot about the mean of the held-out images; NaN where all betas are equal.
    pub r2: Vec<f64>,
    /// Pearson's correlation; NaN where betas or predictions are all equal.
    pub r: Vec<f64>,
    /// R² over the noise ceiling, a share; NaN where the ceiling is 0.
    pub normalised_r2: Vec<f64>,
}

/// Predicted activation [images, voxels] for unit-norm `features` [images, K].
pub fn predict(map: LinearMap<'_>, features: &[f32]) -> Vec<f32> {
    let LinearMap { width, weight, bias } = map;
    let (images, voxels) = (features.len() / width, bias.len());
    let mut predicted = vec![0.0; images * voxels];
    let (features, weight) = (Matrix::new(features, images, width, width), Matrix::new(weight, voxels, width, width));
    let output = MatrixMut::new(&mut predicted, images, voxels, voxels);
    multiply_in_blocks(output, [64, 256], Bias::Columns(bias), features, weight.transposed());
    predicted
}

/// Sums over some images, from which a voxel's scores follow.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sums {
    pub images: f64,
    /// Of squared residuals.
    pub residual: f64,
    pub measured: f64,
    pub measured_square: f64,
    pub predicted: f64,
    pub predicted_square: f64,
    pub product: f64,
}

impl Sums {
    pub fn add(&mut self, measured: f64, predicted: f64) {
        self.images += 1.0;
        self.residual += (measured - predicted).powi(2);
        self.measured += measured;
        self.measured_square += measured * measured;
        self.predicted += predicted;
        self.predicted_square += predicted * predicted;
        self.product += measured * predicted;
    }

    /// `floor`: variation that is rounding, as a share of the sum of squares.
    pub fn r2(&self, floor: f64) -> f64 {
        match self.variation(floor) {
            [total, _] if total > 0.0 => 1.0 - self.residual / total,
            _ => f64::NAN,
        }
    }

    pub fn r(&self, floor: f64) -> f64 {
        match self.variation(floor) {
            [measured, predicted] if measured > 0.0 && predicted > 0.0 => {
                (self.product - self.measured * self.predicted / self.images) / (measured * predicted).sqrt()
            }
            _ => f64::NAN,
        }
    }

    /// Sums of squares about the mean, measured and predicted; 0 where they are no more than rounding.
    fn variation(&self, floor: f64) -> [f64; 2] {
        let about_mean = |sum: f64, square: f64| match square - sum * sum / self.images {
            variation if variation > floor * square => variation,
            _ => 0.0,
        };
        [about_mean(self.measured, self.measured_square), about_mean(self.predicted, self.predicted_square)]
    }
}

/// Rounding of sums of f64.
const FLOOR: f64 = 1e-12;

impl VoxelScores {
    /// `predicted`, `measured`: [images, voxels]; `noise_ceiling`: [voxels], per cent.
    pub fn of(predicted: &[f32], measured: &[f32], noise_ceiling: &[f32]) -> Self {
        let voxels = noise_ceiling.len();
        let mut sums = vec![Sums::default(); voxels];
        for (predicted, measured) in predicted.chunks(voxels).zip(measured.chunks(voxels)) {
            for ((sums, &measured), &predicted) in sums.iter_mut().zip(measured).zip(predicted) {
                sums.add(f64::from(measured), f64::from(predicted));
            }
        }
        let r2: Vec<f64> = sums.iter().map(|sums| sums.r2(FLOOR)).collect();
        let r = sums.iter().map(|sums| sums.r(FLOOR)).collect();
        let normalised_r2 = r2.iter().zip(noise_ceiling).map(|(&r2, &ceiling)| normalised(r2, ceiling)).collect();
        Self { r2, r, normalised_r2 }
    }
}

/// `ceiling`: per cent.
pub fn normalised(r2: f64, ceiling: f32) -> f64 {
    if ceiling > 0.0 { 100.0 * r2 / f64::from(ceiling) } else { f64::NAN }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device, safetensors};

    #[test]
    fn scores_equal_the_references() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/reference/encoder/encoder.safetensors");
        let golden = safetensors::load(path, &Device::Cpu).unwrap();
        let values = |key: &str| -> Vec<f32> {
            golden[key].to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
        };
        let scores = VoxelScores::of(&values("pred_test"), &values("betas_test"), &[50.0; 60]);
        for (voxel, ((r2, r), normalised)) in scores.r2.iter().zip(&scores.r).zip(&scores.normalised_r2).enumerate() {
            let [expected_r2, expected_r] = ["r2", "pearson_r"].map(|key| f64::from(values(key)[voxel]));
            assert!((r2 - expected_r2).abs() < 1e-5 && (r - expected_r).abs() < 1e-5, "{voxel}: {r2} {r}");
            assert!((normalised - 2.0 * r2).abs() < 1e-12);
        }
    }

    #[test]
    fn what_is_not_defined_is_nan() {
        // Voxel 0 never changes, voxel 1 is predicted to be constant, voxel 2 has no ceiling.
        let measured = [0.1, 1.0, 1.0, 0.1, 2.0, 3.0, 0.1, 4.0, 2.0];
        let predicted = [0.2, 0.5, 1.0, 0.4, 0.5, 3.0, 0.3, 0.5, 2.0];
        let VoxelScores { r2, r, normalised_r2 } = VoxelScores::of(&predicted, &measured, &[10.0, 10.0, 0.0]);
        assert!(r2[0].is_nan() && r[0].is_nan() && normalised_r2[0].is_nan());
        assert!(r2[1] < 0.0 && r[1].is_nan());
        assert!((r2[2] - 1.0).abs() < 1e-12 && (r[2] - 1.0).abs() < 1e-12 && normalised_r2[2].is_nan());
    }
}
