//! Intervals of a region's scores: the held-out images are drawn again, with replacement (Efron 1979). Voxels are not: they see the same
//! images and share their noise.

use super::scores::{Sums, normalised};
use crate::layers::{Matrix, multiply};
use crate::sampler::noise::torch_cpu::Mt19937;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Draws of the images.
pub const REPLICATES: usize = 1000;

/// Voxels that are scored together.
const BLOCK: usize = 256;

/// Rounding of sums of f32.
const FLOOR: f64 = 1e-5;

/// A score over the voxels of a region, with 95 % intervals over draws of the held-out images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Of the region, for which the score is defined.
    pub voxels: usize,
    pub mean: f64,
    pub mean_interval: [f64; 2],
    pub median: f64,
    pub median_interval: [f64; 2],
}

/// Scores of every voxel in every replicate: [voxels, replicates].
#[derive(Debug)]
pub struct Replicates {
    replicates: usize,
    pub r2: Vec<f32>,
    pub r: Vec<f32>,
    pub normalised_r2: Vec<f32>,
}

impl Replicates {
    /// As [`super::VoxelScores::of`], for `replicates` draws of `seed`.
    pub fn draw(predicted: &[f32], measured: &[f32], noise_ceiling: &[f32], replicates: usize, seed: u32) -> Self {
        let voxels = noise_ceiling.len();
        let images = measured.len() / voxels;
        let mut generator = Mt19937::new(seed);
        // [replicates, images]: how often each image was drawn.
        let mut counts = vec![0.0_f32; replicates * images];
        for counts in counts.chunks_mut(images) {
            (0..images).for_each(|_| counts[generator.next() as usize % images] += 1.0);
        }
        let empty = || vec![0.0; voxels * replicates];
        let mut this = Self { replicates, r2: empty(), r: empty(), normalised_r2: empty() };
        let length = BLOCK * replicates;
        let outputs = this.r.par_chunks_mut(length).zip(this.normalised_r2.par_chunks_mut(length));
        this.r2.par_chunks_mut(length).zip(outputs).enumerate().for_each(|(block, (r2, (r, normalised_r2)))| {
            let columns = r2.len() / replicates;
            let first = block * BLOCK;
            let sums = sums(&counts, predicted, measured, [images, voxels], first..first + columns);
            for voxel in 0..columns {
                for replicate in 0..replicates {
                    let sums = Sums { images: images as f64, ..sums_of(&sums, replicate * columns + voxel) };
                    let at = voxel * replicates + replicate;
                    let found = sums.r2(FLOOR);
                    r2[at] = found as f32;
                    r[at] = sums.r(FLOOR) as f32;
                    normalised_r2[at] = normalised(found, noise_ceiling[first + voxel]) as f32;
                }
            }
        });
        this
    }

    /// A score over some voxels: `scores` [voxels] of all images, `drawn` one of this struct's arrays. `None` if it is defined
    /// for none of them.
    pub fn summary(&self, scores: &[f64], drawn: &[f32], rows: &[usize]) -> Option<Summary> {
        let rows: Vec<usize> = rows.iter().copied().filter(|&row| scores[row].is_finite()).collect();
        let [mean, median] = center(rows.iter().map(|&row| scores[row]).collect())?;
        let centers: Vec<[f64; 2]> = (0..self.replicates)
            .into_par_iter()
            .filter_map(|replicate| {
                let values = rows.iter().map(|&row| f64::from(drawn[row * self.replicates + replicate]));
                center(values.filter(|value| value.is_finite()).collect())
            })
            .collect();
        let interval = |which: usize| {
            let mut values: Vec<f64> = centers.iter().map(|center| center[which]).collect();
            values.sort_unstable_by(f64::total_cmp);
            let at = |share: f64| values.get((share * (values.len() - 1) as f64).round() as usize).copied();
            [0.025, 0.975].map(|share| if values.is_empty() { f64::NAN } else { at(share).unwrap_or(f64::NAN) })
        };
        Some(Summary { voxels: rows.len(), mean, mean_interval: interval(0), median, median_interval: interval(1) })
    }
}

/// Sums over each replicate's images, in the order of [`Sums`] without the number of images: [replicates, columns] each.
fn sums(
    counts: &[f32],
    predicted: &[f32],
    measured: &[f32],
    [images, voxels]: [usize; 2],
    columns: std::ops::Range<usize>,
) -> [Vec<f32>; 6] {
    let terms: [fn(f32, f32) -> f32; 6] =
        [|y, p| (y - p) * (y - p), |y, _| y, |y, _| y * y, |_, p| p, |_, p| p * p, |y, p| y * p];
    let (width, replicates) = (columns.len(), counts.len() / images);
    let mut values = vec![0.0; images * width];
    terms.map(|term| {
        for (image, values) in values.chunks_mut(width).enumerate() {
            let row = image * voxels;
            let range = row + columns.start..row + columns.end;
            let pairs = measured[range.clone()].iter().zip(&predicted[range]);
            values.iter_mut().zip(pairs).for_each(|(value, (&y, &p))| *value = term(y, p));
        }
        let mut sums = vec![0.0; replicates * width];
        let counts = Matrix::new(counts, replicates, images, images);
        multiply(&mut sums, width, false, counts, Matrix::new(&values, images, width, width));
        sums
    })
}

fn sums_of(sums: &[Vec<f32>; 6], at: usize) -> Sums {
    let [residual, measured, measured_square, predicted, predicted_square, product] =
        [0, 1, 2, 3, 4, 5].map(|term| f64::from(sums[term][at]));
    Sums { images: 0.0, residual, measured, measured_square, predicted, predicted_square, product }
}

/// Mean and median; `None` of nothing.
fn center(mut values: Vec<f64>) -> Option<[f64; 2]> {
    let (count, middle) = (values.len(), values.len() / 2);
    if count == 0 {
        return None;
    }
    let mean = values.iter().sum::<f64>() / count as f64;
    let (below, &mut upper, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
    let lower = below.iter().copied().max_by(f64::total_cmp).unwrap_or(upper);
    Some([mean, if count % 2 == 1 { upper } else { (lower + upper) / 2.0 }])
}

#[cfg(test)]
mod tests {
    use super::super::VoxelScores;
    use super::*;

    /// Standard normal: twelve uniform numbers.
    fn normals(n: usize, seed: u32) -> Vec<f32> {
        let mut generator = Mt19937::new(seed);
        let mut draw = || (generator.next() >> 8) as f32 / (1 << 24) as f32 - 0.5;
        (0..n).map(|_| (0..12).map(|_| draw()).sum()).collect()
    }

    #[test]
    fn means_and_medians_are_those_of_the_textbook() {
        assert_eq!(center(vec![]), None);
        assert_eq!(center(vec![3.0, 1.0, 8.0]), Some([4.0, 3.0]));
        assert_eq!(center(vec![3.0, 1.0, 9.0, 7.0]), Some([5.0, 5.0]));
    }

    /// The standard error of r = 0 over n images is 1/√n, and a second voxel that is the same voxel makes it no smaller.
    #[test]
    fn intervals_are_as_wide_as_the_held_out_images_allow() {
        let (images, voxels) = (100, 2);
        let (y, p) = (normals(images, 1), normals(images, 2));
        let twice = |values: &[f32]| values.iter().flat_map(|&value| [value; 2]).collect::<Vec<f32>>();
        let (measured, predicted) = (twice(&y), twice(&p));
        let ceiling = vec![50.0; voxels];
        let scores = VoxelScores::of(&predicted, &measured, &ceiling);
        let drawn = Replicates::draw(&predicted, &measured, &ceiling, 1000, 0);
        let r = drawn.summary(&scores.r, &drawn.r, &[0, 1]).unwrap();
        let [low, high] = r.mean_interval;
        assert!(low < r.mean && r.mean < high);
        let width = high - low;
        assert!((0.75..1.25).contains(&(width / (2.0 * 1.96 * 0.1))), "{width}");
        assert_eq!((r.mean_interval, r.mean), (r.median_interval, r.median));
        let r2 = drawn.summary(&scores.r2, &drawn.r2, &[1]).unwrap();
        let normalised = drawn.summary(&scores.normalised_r2, &drawn.normalised_r2, &[1]).unwrap();
        assert!((normalised.mean - 2.0 * r2.mean).abs() < 1e-12 && r2.voxels == 1);
        assert_eq!(drawn.summary(&[f64::NAN, 1.0], &drawn.r, &[0]), None);
    }
}
