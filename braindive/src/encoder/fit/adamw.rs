//! A linear head under a squared loss and AdamW (Loshchilov and Hutter 2019), an epoch at a time.
//!
//! Nothing links one voxel to another: the gradient of a voxel's row asks for that row, the features and the voxel's betas alone.
//! So a block of voxels goes through a whole epoch while its weights and moments stay in a core's cache, instead of all of them
//! going through memory at every batch. The result is the same, whatever the number of threads.

use crate::layers::{Element, Matrix, multiply, prefetch, transposed, vectorised};
use rayon::prelude::*;

/// Decay of the running mean of the gradient, and of its square.
const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPS: f64 = 1e-8;

/// Voxels of a block: with 512 features, weights and both moments take 384 KiB, and with AVX-512 a row of them fills the four registers
/// that the widest kernel of the `gemm` crate holds.
const BLOCK: usize = 64;

/// A head in the making.
#[derive(Debug, Clone, PartialEq)]
pub struct Training<T> {
    /// Features of an image, K.
    pub features: usize,
    /// [voxels, K]
    pub weight: Learned<T>,
    /// [voxels]
    pub bias: Learned<T>,
    /// Batches that were seen.
    pub steps: u64,
}

/// Parameters with the moments of their gradient.
#[derive(Debug, Clone, PartialEq)]
pub struct Learned<T> {
    pub value: Vec<T>,
    pub mean: Vec<T>,
    pub square: Vec<T>,
}

/// What an epoch sees, in that order.
#[derive(Debug, Clone, Copy)]
pub struct Epoch<'a, T> {
    /// [images, K], unit norm, in the order in which they are seen.
    pub features: &'a [T],
    /// [images, voxels] in their own order.
    pub betas: &'a [T],
    /// Row of `betas` of each image that is seen.
    pub order: &'a [usize],
    pub batch: usize,
    pub learning_rate: f64,
    /// Of weight and bias alike.
    pub weight_decay: f64,
}

/// What a step multiplies with, the same for all parameters.
#[derive(Debug, Clone, Copy)]
struct Rates<T> {
    /// 2 / (images of the batch · voxels): from residuals to the loss's gradient.
    gradient: T,
    /// 1 − learning rate · weight decay
    kept: T,
    /// Learning rate over the bias correction of the mean.
    step: T,
    /// One over the bias correction of the root mean square.
    root: T,
}

impl<T: Element> Learned<T> {
    fn new(value: Vec<T>) -> Self {
        let zero = vec![T::zero(); value.len()];
        Self { mean: zero.clone(), square: zero, value }
    }

    fn as_block(&mut self) -> Block<'_, T> {
        Block { value: &mut self.value, mean: &mut self.mean, square: &mut self.square }
    }

    /// Blocks of `length` elements.
    fn blocks(&mut self, length: usize) -> impl IndexedParallelIterator<Item = Block<'_, T>> {
        let Self { value, mean, square } = self;
        let moments = mean.par_chunks_mut(length).zip(square.par_chunks_mut(length));
        value.par_chunks_mut(length).zip(moments).map(|(value, (mean, square))| Block { value, mean, square })
    }
}

/// Some neighbouring parameters.
struct Block<'a, T> {
    value: &'a mut [T],
    mean: &'a mut [T],
    square: &'a mut [T],
}

impl<T: Element> Block<'_, T> {
    /// A copy of the rows of `width` parameters that this is, column by column.
    fn transposed(&self, width: usize) -> Learned<T> {
        let rows = self.value.len() / width;
        let [value, mean, square] = [&*self.value, &*self.mean, &*self.square].map(|x| transposed(x, rows, width));
        Learned { value, mean, square }
    }

    /// Takes back what [`Self::transposed`] gave.
    fn transpose_from(&mut self, columns: &Learned<T>, width: usize) {
        let rows = columns.value.len() / width;
        self.value.copy_from_slice(&transposed(&columns.value, width, rows));
        self.mean.copy_from_slice(&transposed(&columns.mean, width, rows));
        self.square.copy_from_slice(&transposed(&columns.square, width, rows));
    }

    fn step(&mut self, gradient: &[T], rates: Rates<T>) {
        adamw(self.value, self.mean, self.square, gradient, rates);
    }
}

impl<T: Element> Training<T> {
    /// From first weights [voxels, K] and biases [voxels].
    pub fn new(features: usize, weight: Vec<T>, bias: Vec<T>) -> Self {
        assert_eq!(weight.len(), features * bias.len(), "a weight of another shape than its bias");
        Self { features, weight: Learned::new(weight), bias: Learned::new(bias), steps: 0 }
    }

    pub fn voxels(&self) -> usize {
        self.bias.value.len()
    }

    /// One pass over the images in batches, the last of which may be short. Returns the mean over the batches of their mean squared
    /// error before the step.
    ///
    /// # Panics
    /// If the lengths of `epoch` do not fit together.
    pub fn epoch(&mut self, epoch: &Epoch<'_, T>) -> f64 {
        let (width, voxels) = (self.features, self.voxels());
        assert_eq!(epoch.features.len(), epoch.order.len() * width, "features of another number of images");
        let steps: Vec<Rates<T>> = epoch
            .order
            .chunks(epoch.batch)
            .zip(self.steps + 1..)
            .map(|(batch, step)| rates(epoch, batch.len() * voxels, step))
            .collect();
        self.steps += steps.len() as u64;
        let biases = self.bias.blocks(BLOCK);
        let blocks = self.weight.blocks(BLOCK * width).zip(biases).enumerate();
        // Summed in order, so that the loss does not depend on who was ready first.
        let losses: Vec<f64> = blocks
            .map(|(i, (weight, bias))| train_block(epoch, &steps, width, voxels, i * BLOCK, weight, bias))
            .collect();
        losses.iter().sum::<f64>() / steps.len() as f64
    }
}

/// Takes voxels from `first` through an epoch; returns their share of the batches' losses.
fn train_block<T: Element>(
    epoch: &Epoch<'_, T>,
    steps: &[Rates<T>],
    width: usize,
    voxels: usize,
    first: usize,
    mut rows: Block<'_, T>,
    mut bias: Block<'_, T>,
) -> f64 {
    let block = bias.value.len();
    // [K, block]: neighbours in memory are neighbouring voxels, so that both products read whole vectors and nothing has to be packed.
    let mut columns = rows.transposed(width);
    let mut weight = columns.as_block();
    let mut residual = vec![T::zero(); epoch.batch * block];
    let mut gradient = vec![T::zero(); width * block];
    let mut bias_gradient = vec![T::zero(); block];
    let mut squares = vec![T::zero(); block];
    let mut loss = 0.0;
    let batches = epoch.order.chunks(epoch.batch).zip(epoch.features.chunks(epoch.batch * width));
    for ((images, features), &rates) in batches.zip(steps) {
        let features = Matrix::new(features, images.len(), width, width);
        let betas = |image: usize| &epoch.betas[image * voxels + first..][..block];
        // Each image's lie on a page of their own; they come while the product is computed.
        images.iter().for_each(|&image| prefetch(betas(image)));
        let residual = &mut residual[..images.len() * block];
        multiply(residual, block, false, features, Matrix::new(weight.value, width, block, block));
        bias_gradient.fill(T::zero());
        squares.fill(T::zero());
        for (residual, &image) in residual.chunks_mut(block).zip(images) {
            subtract(residual, betas(image), bias.value, &mut bias_gradient, &mut squares, rates.gradient);
        }
        loss += squares.iter().map(|square| square.to_f64()).sum::<f64>() / (images.len() * voxels) as f64;
        multiply(&mut gradient, block, false, features.transposed(), Matrix::new(residual, images.len(), block, block));
        weight.step(&gradient, rates);
        bias.step(&bias_gradient, rates);
    }
    rows.transpose_from(&columns, width);
    loss
}

/// The constants of step number `step`, from 1, over `elements` residuals.
fn rates<T: Element>(epoch: &Epoch<'_, T>, elements: usize, step: u64) -> Rates<T> {
    let correction = |beta: f64| 1.0 - beta.powf(step as f64);
    Rates {
        gradient: T::from_f64(2.0 / elements as f64),
        kept: T::from_f64(1.0 - epoch.learning_rate * epoch.weight_decay),
        step: T::from_f64(epoch.learning_rate / correction(BETA1)),
        root: T::from_f64(1.0 / correction(BETA2).sqrt()),
    }
}

vectorised! {
    /// From a product to the loss's gradient, for one image: adds the bias, subtracts the betas, scales. Adds to the bias' gradient and to
    /// every voxel's sum of squared residuals.
    fn subtract<T: Element>(residual: &mut [T], betas: &[T], bias: &[T], bias_gradient: &mut [T], squares: &mut [T], scale: T) {
        let sums = bias_gradient.iter_mut().zip(squares);
        for (((residual, &beta), &bias), (gradient, square)) in residual.iter_mut().zip(betas).zip(bias).zip(sums) {
            let difference = *residual + bias - beta;
            *square += difference * difference;
            *residual = difference * scale;
            *gradient += *residual;
        }
    }

    fn adamw<T: Element>(value: &mut [T], mean: &mut [T], square: &mut [T], gradient: &[T], rates: Rates<T>) {
        let [beta1, beta2, eps] = [BETA1, BETA2, EPS].map(T::from_f64);
        let [rest1, rest2] = [1.0 - BETA1, 1.0 - BETA2].map(T::from_f64);
        for (((value, mean), square), &gradient) in value.iter_mut().zip(mean).zip(square).zip(gradient) {
            *mean = beta1 * *mean + rest1 * gradient;
            *square = beta2 * *square + rest2 * gradient * gradient;
            *value = rates.kept * *value - rates.step * *mean / (square.sqrt() * rates.root + eps);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device, Tensor, safetensors};
    use std::collections::HashMap;

    struct Golden(HashMap<String, Tensor>);

    impl Golden {
        fn read() -> Self {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/reference/encoder/encoder.safetensors");
            Self(safetensors::load(path, &Device::Cpu).unwrap())
        }

        fn values<T: Element>(&self, key: &str) -> Vec<T> {
            self.0[key].to_dtype(T::DTYPE).unwrap().flatten_all().unwrap().to_vec1().unwrap()
        }
    }

    fn unit<T: Element>(features: &[T], width: usize) -> Vec<T> {
        let unit = |row: &[T]| {
            let length = row.iter().fold(T::zero(), |sum, &x| sum + x * x).sqrt();
            row.iter().map(|&x| x / length).collect::<Vec<T>>()
        };
        features.chunks(width).flat_map(unit).collect()
    }

    /// Trains as the reference did; calls `check` after every epoch with its number from 1 and its loss.
    fn train<T: Element>(golden: &Golden, mut check: impl FnMut(usize, f64, &Training<T>)) {
        let (images, width) = golden.0["features"].dims2().unwrap();
        let features = unit(&golden.values::<T>("features"), width);
        let betas = golden.values::<T>("betas");
        let orders: Vec<usize> = golden.values::<f64>("order").iter().map(|&image| image as usize).collect();
        let mut training = Training::new(width, golden.values("W0"), golden.values("b0"));
        for (epoch, order) in (1..).zip(orders.chunks(images)) {
            let features: Vec<T> =
                order.iter().flat_map(|image| &features[image * width..][..width]).copied().collect();
            let learning_rate = 3e-4 * 0.5f64.powf(epoch as f64 / 100.0);
            let loss = training.epoch(&Epoch {
                features: &features,
                betas: &betas,
                order,
                batch: 64,
                learning_rate,
                weight_decay: 2e-2,
            });
            check(epoch, loss, &training);
        }
        assert_eq!(training.steps, 100 * 24);
    }

    fn assert_close<T: Element>(found: &[T], expected: &[T], tolerance: f64, what: &str) {
        assert_eq!(found.len(), expected.len());
        let worst = found.iter().zip(expected).map(|(&a, &b)| (a - b).to_f64().abs()).fold(0.0, f64::max);
        assert!(worst < tolerance, "{what}: {worst}");
    }

    fn assert_reproduced<T: Element>(suffix: &str, tolerance: f64) {
        let golden = Golden::read();
        let losses: Vec<f64> = golden.values("loss_per_epoch");
        train::<T>(&golden, |epoch, loss, training| {
            assert!((loss - losses[epoch - 1]).abs() < 1e-6, "epoch {epoch}: {loss}");
            if [1, 10, 100].contains(&epoch) {
                for (name, found) in [("W", &training.weight), ("b", &training.bias)] {
                    let key = format!("{name}_epoch{epoch}{suffix}");
                    assert_close(&found.value, &golden.values(&key), tolerance, &key);
                }
            }
        });
    }

    #[test]
    fn training_equals_pytorchs_in_single_precision() {
        assert_reproduced::<f32>("", 1e-5);
    }

    #[test]
    fn training_equals_pytorchs_in_double_precision() {
        assert_eq!(Golden::read().0["W_epoch100_f64"].dtype(), DType::F64);
        assert_reproduced::<f64>("_f64", 1e-12);
    }

    /// Each block gives what it would give alone but for the loss's divisor, which is shared.
    #[test]
    fn voxels_do_not_know_of_one_another() {
        let (images, width, voxels) = (37, 5, BLOCK + 3);
        let wave = |n: usize, k: f64| (0..n).map(|i| (k * i as f64).sin()).collect::<Vec<f64>>();
        let features = unit(&wave(images * width, 1.3), width);
        let betas = wave(images * voxels, 0.7);
        let order: Vec<usize> = (0..images).rev().collect();
        let epoch = |betas: &[f64], training: &mut Training<f64>| {
            let epoch =
                Epoch { features: &features, betas, order: &order, batch: 16, learning_rate: 1e-2, weight_decay: 0.1 };
            training.epoch(&epoch)
        };
        let (weight, bias) = (wave(voxels * width, 0.3), wave(voxels, 0.9));
        let mut whole = Training::new(width, weight.clone(), bias.clone());
        let loss = epoch(&betas, &mut whole);
        let last = voxels - 1;
        let mut alone = Training::new(width, weight[last * width..].to_vec(), bias[last..].to_vec());
        let own: Vec<f64> = betas.chunks(voxels).map(|row| row[last]).collect();
        let own_loss = epoch(&own, &mut alone);
        // Adam divides the gradient's scale out again, all but its epsilon.
        assert_close(&whole.weight.value[last * width..], &alone.weight.value, 1e-6, "the last voxel's weight");
        assert!(loss.is_finite() && own_loss.is_finite() && loss != own_loss);
    }
}
