//! Ridge regression in closed form, each voxel with the penalty that predicts left-out images best: (XᵀX + λI) w = Xᵀy on centred
//! features X and betas y (Hoerl and Kennard 1970).

use super::settings::Settings;
use crate::layers::{Bias, Matrix, MatrixMut, multiply, multiply_in_blocks};
use rayon::prelude::*;

/// Voxels that are solved for together.
const BLOCK: usize = 512;

/// What a ridge regression found.
#[derive(Debug, Clone, PartialEq)]
pub struct Ridge {
    /// [voxels, K]
    pub weight: Vec<f32>,
    /// [voxels]
    pub bias: Vec<f32>,
    /// Of every voxel.
    pub lambda: Vec<f64>,
}

/// Features of some images about their mean, and what every voxel needs of them.
struct Normal {
    /// [K]
    mean: Vec<f64>,
    /// XᵀX: [K, K]
    gram: Vec<f64>,
    /// Centred: [images, K]
    features: Vec<f64>,
    images: Vec<usize>,
}

/// `features`: [images, K]; `betas`: [images, voxels]. Folds are every `settings.folds`-th image. `fold_done` is called after each.
pub fn ridge<E>(
    features: &[f32],
    width: usize,
    betas: &[f32],
    settings: &Settings,
    mut fold_done: impl FnMut() -> Result<(), E>,
) -> Result<Ridge, E> {
    let images = features.len() / width;
    let voxels = betas.len() / images;
    let (lambdas, folds) = (&settings.lambdas, settings.folds);
    // [voxels, lambdas]: squared errors of the left-out images.
    let mut errors = vec![0.0; voxels * lambdas.len()];
    for fold in 0..folds {
        let is_left_out = |image: &usize| image % folds == fold;
        let (left_out, kept): (Vec<usize>, Vec<usize>) = (0..images).partition(is_left_out);
        let normal = Normal::of(features, width, kept);
        let inverses = normal.inverses(lambdas);
        let seen = normal.centred(features, &left_out);
        // What a left-out image's prediction is made of, for each λ: x (XᵀX + λI)⁻¹.
        let predictors: Vec<Vec<f64>> =
            inverses.par_iter().map(|inverse| product(&seen, left_out.len(), inverse, width)).collect();
        errors.par_chunks_mut(BLOCK * lambdas.len()).enumerate().for_each(|(block, errors)| {
            let columns = Columns { first: block * BLOCK, voxels: errors.len() / lambdas.len(), all: voxels };
            let (mean, moment) = normal.moment(betas, columns);
            for (i, predictor) in predictors.iter().enumerate() {
                let predicted = product(predictor, left_out.len(), &moment, columns.voxels);
                for (&image, predicted) in left_out.iter().zip(predicted.chunks(columns.voxels)) {
                    let betas = columns.of(betas, image);
                    for (voxel, ((&beta, predicted), mean)) in betas.iter().zip(predicted).zip(&mean).enumerate() {
                        errors[voxel * lambdas.len() + i] += (f64::from(beta) - mean - predicted).powi(2);
                    }
                }
            }
        });
        fold_done()?;
    }
    let best = |errors: &[f64]| (0..lambdas.len()).min_by(|&a, &b| errors[a].total_cmp(&errors[b])).unwrap_or(0);
    let chosen: Vec<usize> = errors.chunks(lambdas.len()).map(best).collect();
    let normal = Normal::of(features, width, (0..images).collect());
    let inverses = normal.inverses(lambdas);
    let (mut weight, mut bias) = (vec![0.0; voxels * width], vec![0.0; voxels]);
    let blocks = weight.par_chunks_mut(BLOCK * width).zip(bias.par_chunks_mut(BLOCK)).enumerate();
    blocks.for_each(|(block, (weight, bias))| {
        let columns = Columns { first: block * BLOCK, voxels: bias.len(), all: voxels };
        let (mean, moment) = normal.moment(betas, columns);
        let solved: Vec<Option<Vec<f64>>> = (0..lambdas.len())
            .map(|i| {
                let wanted = chosen[columns.first..][..columns.voxels].contains(&i);
                wanted.then(|| product(&inverses[i], width, &moment, columns.voxels))
            })
            .collect();
        for (voxel, (row, bias)) in weight.chunks_mut(width).zip(bias).enumerate() {
            let Some(solved) = &solved[chosen[columns.first + voxel]] else { continue };
            let mut offset = mean[voxel];
            for (k, weight) in row.iter_mut().enumerate() {
                let found = solved[k * columns.voxels + voxel];
                *weight = found as f32;
                offset -= found * normal.mean[k];
            }
            *bias = offset as f32;
        }
    });
    Ok(Ridge { weight, bias, lambda: chosen.into_iter().map(|i| lambdas[i]).collect() })
}

/// Neighbouring voxels.
#[derive(Clone, Copy)]
struct Columns {
    first: usize,
    voxels: usize,
    /// Of the data.
    all: usize,
}

impl Columns {
    fn of<'a>(&self, betas: &'a [f32], image: usize) -> &'a [f32] {
        &betas[image * self.all + self.first..][..self.voxels]
    }
}

impl Normal {
    fn of(features: &[f32], width: usize, images: Vec<usize>) -> Self {
        let mut normal = Self { mean: vec![0.0; width], gram: Vec::new(), features: Vec::new(), images };
        for &image in &normal.images {
            let row = &features[image * width..][..width];
            normal.mean.iter_mut().zip(row).for_each(|(mean, &feature)| *mean += f64::from(feature));
        }
        normal.mean.iter_mut().for_each(|mean| *mean /= normal.images.len() as f64);
        normal.features = normal.centred(features, &normal.images);
        let rows = Matrix::new(&normal.features, normal.images.len(), width, width);
        normal.gram = vec![0.0; width * width];
        let gram = MatrixMut::new(&mut normal.gram, width, width, width);
        multiply_in_blocks(gram, [64, 64], Bias::None, rows.transposed(), rows);
        normal
    }

    fn centred(&self, features: &[f32], images: &[usize]) -> Vec<f64> {
        let width = self.mean.len();
        let row = |&image: &usize| {
            features[image * width..][..width].iter().zip(&self.mean).map(|(&feature, mean)| f64::from(feature) - mean)
        };
        images.iter().flat_map(row).collect()
    }

    /// Mean beta of each voxel, and Xᵀy: [K, voxels].
    fn moment(&self, betas: &[f32], columns: Columns) -> (Vec<f64>, Vec<f64>) {
        let rows = self.images.iter().flat_map(|&image| columns.of(betas, image)).map(|&beta| f64::from(beta));
        let mut rows: Vec<f64> = rows.collect();
        let mut mean = vec![0.0; columns.voxels];
        for row in rows.chunks(columns.voxels) {
            mean.iter_mut().zip(row).for_each(|(mean, beta)| *mean += beta);
        }
        mean.iter_mut().for_each(|mean| *mean /= self.images.len() as f64);
        for row in rows.chunks_mut(columns.voxels) {
            row.iter_mut().zip(&mean).for_each(|(beta, mean)| *beta -= mean);
        }
        let width = self.mean.len();
        let mut moment = vec![0.0; width * columns.voxels];
        let features = Matrix::new(&self.features, self.images.len(), width, width).transposed();
        multiply(
            &mut moment,
            columns.voxels,
            false,
            features,
            Matrix::new(&rows, self.images.len(), columns.voxels, columns.voxels),
        );
        (mean, moment)
    }

    /// (XᵀX + λI)⁻¹ for each λ: [K, K].
    fn inverses(&self, lambdas: &[f64]) -> Vec<Vec<f64>> {
        let width = self.mean.len();
        lambdas
            .par_iter()
            .map(|lambda| {
                let mut penalised = self.gram.clone();
                penalised.iter_mut().step_by(width + 1).for_each(|diagonal| *diagonal += lambda);
                inverse(penalised, width)
            })
            .collect()
    }
}

/// a · b with `rows` rows and `columns` columns, row by row.
fn product(a: &[f64], rows: usize, b: &[f64], columns: usize) -> Vec<f64> {
    let inner = a.len() / rows;
    let mut product = vec![0.0; rows * columns];
    multiply(&mut product, columns, false, Matrix::new(a, rows, inner, inner), Matrix::new(b, inner, columns, columns));
    product
}

/// The inverse of a symmetric positive definite matrix [n, n], by its Cholesky factor L: A = LLᵀ, A⁻¹ = L⁻ᵀL⁻¹.
fn inverse(mut a: Vec<f64>, n: usize) -> Vec<f64> {
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    for i in 0..n {
        for j in 0..=i {
            let rest = a[i * n + j] - dot(&a[i * n..][..j], &a[j * n..][..j]);
            a[i * n + j] = if i == j { rest.sqrt() } else { rest / a[j * n + j] };
        }
    }
    // Row j holds column j of L⁻¹, whose elements before the j-th are zero.
    let mut columns = vec![0.0; n * n];
    for (j, column) in columns.chunks_mut(n).enumerate() {
        for i in j..n {
            let unit = f64::from(u8::from(i == j));
            column[i] = (unit - dot(&a[i * n + j..][..i - j], &column[j..i])) / a[i * n + i];
        }
    }
    let factor = Matrix::new(&columns, n, n, n);
    multiply(&mut a, n, false, factor, factor.transposed());
    a
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    fn noise(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut draw = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(state) / 2f64.powi(32) - 0.5
        };
        (0..n).map(|_| ((0..12).map(|_| draw()).sum::<f64>()) as f32).collect()
    }

    #[test]
    fn an_inverse_times_its_matrix_is_one() {
        let n = 7;
        let rows: Vec<f64> = noise(n * n, 1).into_iter().map(f64::from).collect();
        let mut a = vec![0.0; n * n];
        multiply(&mut a, n, false, Matrix::new(&rows, n, n, n), Matrix::new(&rows, n, n, n).transposed());
        a.iter_mut().step_by(n + 1).for_each(|diagonal| *diagonal += 0.1);
        let one = product(&a, n, &inverse(a.clone(), n), n);
        for (at, value) in one.iter().enumerate() {
            let expected = f64::from(u8::from(at % (n + 1) == 0));
            assert!((value - expected).abs() < 1e-9, "{at}: {value}");
        }
    }

    /// Voxel 0 is a noiseless function of the features, voxel 1 has nothing to do with them.
    #[test]
    fn a_voxel_gets_the_penalty_that_fits_it() {
        let (images, width) = (240, 6);
        let features = noise(images * width, 2);
        let planted = [0.5, -1.0, 0.25, 2.0, 0.0, -0.125];
        let random = noise(images, 3);
        let betas: Vec<f32> = (0..images)
            .flat_map(|image| {
                let row = &features[image * width..][..width];
                [row.iter().zip(planted).map(|(x, w)| x * w).sum::<f32>() + 0.75, random[image]]
            })
            .collect();
        let settings = Settings { lambdas: vec![1e-3, 1.0, 1e6], ..Settings::default() };
        let mut folds = 0;
        let found = ridge(&features, width, &betas, &settings, || {
            folds += 1;
            Ok::<(), Infallible>(())
        })
        .unwrap();
        assert_eq!((folds, &found.lambda[..]), (5, &[1e-3, 1e6][..]));
        for (weight, planted) in found.weight.iter().zip(planted) {
            assert!((weight - planted).abs() < 1e-4, "{weight} {planted}");
        }
        assert!((found.bias[0] - 0.75).abs() < 1e-4, "{}", found.bias[0]);
        assert!(found.weight[width..].iter().all(|weight| weight.abs() < 1e-3));
    }

    /// The normal equations hold: Xᵀ(y − Xw) = λw.
    #[test]
    fn the_solution_is_the_penalised_least_squares_one() {
        let (images, width, voxels) = (50, 4, 3);
        let (features, betas) = (noise(images * width, 5), noise(images * voxels, 6));
        let settings = Settings { lambdas: vec![3.0], ..Settings::default() };
        let found = ridge(&features, width, &betas, &settings, || Ok::<(), Infallible>(())).unwrap();
        let mean = |k: usize| (0..images).map(|i| f64::from(features[i * width + k])).sum::<f64>() / images as f64;
        for voxel in 0..voxels {
            for k in 0..width {
                let slope: f64 = (0..images)
                    .map(|i| {
                        let row = &features[i * width..][..width];
                        let weight = &found.weight[voxel * width..][..width];
                        let predicted: f64 = row.iter().zip(weight).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
                        let residual = f64::from(betas[i * voxels + voxel]) - predicted - f64::from(found.bias[voxel]);
                        (f64::from(row[k]) - mean(k)) * residual
                    })
                    .sum();
                let expected = 3.0 * f64::from(found.weight[voxel * width + k]);
                assert!((slope - expected).abs() < 1e-4, "{voxel} {k}: {slope} {expected}");
            }
        }
    }
}
