//! What a backbone makes of the stimuli: unit-norm features, their statistics, and the directions that regions prefer.

use super::render::Category;
use crate::image::RgbImage8;
use crate::random::Random;
use std::collections::BTreeMap;

const BATCH: usize = 50;
/// How many principal directions voxels answer along.
const PRINCIPAL: usize = 8;
const ITERATIONS: usize = 100;

/// Features of the images that subjects saw.
#[derive(Debug)]
pub struct Features {
    pub width: usize,
    /// By image.
    of: BTreeMap<usize, Vec<f32>>,
    mean: Vec<f64>,
    /// [width, width]
    covariance: Vec<f64>,
    /// Unit vectors along which the images differ most, descending.
    pub principal: Vec<Vec<f64>>,
    /// Unit vectors, by category: from the mean of all images to that of the category's.
    pub preferred: Vec<Vec<f64>>,
}

impl Features {
    /// Encodes `images`. Without categories, what a category prefers is a principal direction.
    pub fn new<E>(
        images: &BTreeMap<usize, (RgbImage8, Option<Category>)>,
        mut encode: impl FnMut(&[&RgbImage8]) -> Result<Vec<Vec<f32>>, E>,
    ) -> Result<Self, E> {
        let mut of = BTreeMap::new();
        let numbered: Vec<_> = images.iter().collect();
        for batch in numbered.chunks(BATCH) {
            let images: Vec<&RgbImage8> = batch.iter().map(|(_, (image, _))| image).collect();
            of.extend(batch.iter().map(|(number, _)| **number).zip(encode(&images)?));
        }
        let width = of.values().next().map_or(0, Vec::len);
        let mut features = Self { width, of, mean: vec![], covariance: vec![], principal: vec![], preferred: vec![] };
        let shown: Vec<usize> = images.keys().copied().collect();
        features.describe(&shown);
        features.principal = features.principal_directions();
        let overall = features.mean.clone();
        for (number, category) in Category::ALL.into_iter().enumerate() {
            let of_category = images.iter().filter(|(_, (_, own))| *own == Some(category)).map(|(number, _)| *number);
            let of_category: Vec<usize> = of_category.collect();
            let mut direction = match of_category.is_empty() {
                true => features.principal[number % features.principal.len()].clone(),
                false => features.average(&of_category).iter().zip(&overall).map(|(own, all)| own - all).collect(),
            };
            normalise(&mut direction);
            features.preferred.push(direction);
        }
        Ok(features)
    }

    /// Features of an image.
    pub fn of(&self, image: usize) -> &[f32] {
        &self.of[&image]
    }

    /// All images with their features, by number.
    pub fn all(&self) -> impl Iterator<Item = (usize, &[f32])> {
        self.of.iter().map(|(image, row)| (*image, row.as_slice()))
    }

    /// Sets mean and covariance to those over trials that show `images`.
    pub fn describe(&mut self, images: &[usize]) {
        self.mean = self.average(images);
        let mut covariance = vec![0.0; self.width * self.width];
        for image in images {
            let centred: Vec<f64> =
                self.of[image].iter().zip(&self.mean).map(|(&x, mean)| f64::from(x) - mean).collect();
            for (row, x) in covariance.chunks_exact_mut(self.width).zip(&centred) {
                row.iter_mut().zip(&centred).for_each(|(sum, y)| *sum += x * y);
            }
        }
        covariance.iter_mut().for_each(|sum| *sum /= images.len() as f64);
        self.covariance = covariance;
    }

    /// Mean and standard deviation of `weight`·φ over the trials described.
    pub fn projection(&self, weight: &[f64]) -> (f64, f64) {
        let variance: f64 = self
            .covariance
            .chunks_exact(self.width)
            .zip(weight)
            .map(|(row, weight_i)| weight_i * dot(row, weight))
            .sum();
        (dot(&self.mean, weight), variance.sqrt())
    }

    fn average(&self, images: &[usize]) -> Vec<f64> {
        let mut mean = vec![0.0; self.width];
        for image in images {
            mean.iter_mut().zip(&self.of[image]).for_each(|(sum, &x)| *sum += f64::from(x));
        }
        mean.iter_mut().for_each(|sum| *sum /= images.len() as f64);
        mean
    }

    /// The first eigenvectors of the covariance, by orthogonal iteration (Golub & Van Loan 2013, section 8.2.4).
    fn principal_directions(&self) -> Vec<Vec<f64>> {
        let mut random = Random::new(0, &[]);
        let start = |_| (0..self.width).map(|_| random.normal()).collect::<Vec<f64>>();
        let mut directions: Vec<Vec<f64>> = (0..PRINCIPAL.min(self.width)).map(start).collect();
        for _ in 0..ITERATIONS {
            for number in 0..directions.len() {
                let mut next: Vec<f64> =
                    self.covariance.chunks_exact(self.width).map(|row| dot(row, &directions[number])).collect();
                for earlier in &directions[..number] {
                    let along = dot(&next, earlier);
                    next.iter_mut().zip(earlier).for_each(|(value, earlier)| *value -= along * earlier);
                }
                normalise(&mut next);
                directions[number] = next;
            }
        }
        directions
    }
}

pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Makes the vector one of unit norm; zero stays zero.
pub fn normalise(vector: &mut [f64]) {
    let norm = dot(vector, vector).sqrt();
    if norm > 0.0 {
        vector.iter_mut().for_each(|value| *value /= norm);
    }
}
