//! What every voxel answers to: a linear function of an image's unit-norm features, and noise in a known proportion to it.
//!
//! With signal z = w·φ + b of mean 0 and variance 1 over the trials, a beta is ncsnr·z plus standard normal noise, so that the
//! noise ceiling of a mean of n trials is ncsnr² / (ncsnr² + 1/n) (Allen et al. 2022, Methods, "Computation of the noise ceiling").

use super::anatomy::{Anatomy, FOOD, Place};
use super::features::{Features, dot, normalise};
use crate::random::Random;

/// How far the centres of a region's two clusters lean to either side.
const LEAN: f64 = 0.7;
/// How far a voxel strays from its centre.
const STRAY: f64 = 0.25;

/// What a category's voxels prefer, in the order of [`super::render::Category::ALL`].
const FACES: usize = 0;
const BODIES: usize = 1;
const PLACES: usize = 2;
const WORDS: usize = 3;
const FOODS: usize = 4;

/// A voxel's planted answer.
#[derive(Debug, Clone)]
pub struct Tuned {
    /// In z-scored signal units per unit of feature; all zero where there is no signal.
    pub weight: Vec<f64>,
    pub bias: f64,
    pub ncsnr: f64,
    /// 1 or 2 where the region has two clusters, else 0.
    pub cluster: u8,
    /// Whether the voxel holds nothing but zeros.
    pub is_dead: bool,
}

/// The planted answers of a subject.
#[derive(Debug)]
pub struct Tuning<'a> {
    features: &'a Features,
    seed: u64,
    subject: u8,
}

impl<'a> Tuning<'a> {
    pub fn new(anatomy: &Anatomy, features: &'a Features, seed: u64) -> Self {
        Self { features, seed, subject: anatomy.subject }
    }

    /// The answer of a voxel of cortex.
    pub fn of(&self, anatomy: &Anatomy, place: Place) -> Tuned {
        let mut random = Random::new(self.seed, &[1, u64::from(self.subject), place.voxel as u64]);
        let (centre, cluster, ncsnr) = self.centre(anatomy, place, &mut random);
        let is_dead = centre.is_none() && random.below(100) == 0;
        let mut weight = self.stray(&mut random);
        if let Some(centre) = centre {
            weight.iter_mut().zip(&centre).for_each(|(weight, centre)| *weight = centre + STRAY * *weight);
        }
        let (mean, deviation) = self.features.projection(&weight);
        weight.iter_mut().for_each(|weight| *weight /= deviation);
        Tuned { weight, bias: -mean / deviation, ncsnr, cluster, is_dead }
    }

    /// The unit direction that the voxel's area answers to, its cluster and its ncsnr.
    fn centre(&self, anatomy: &Anatomy, place: Place, random: &mut Random) -> (Option<Vec<f64>>, u8, f64) {
        let category = |file, category: usize| anatomy.area(place, file).map(|area| (area.name, category));
        let selective = category("floc-faces", FACES)
            .or_else(|| category("floc-bodies", BODIES))
            .or_else(|| category("floc-places", PLACES))
            .or_else(|| category("floc-words", WORDS))
            .or_else(|| FOOD.holds(place).then_some((FOOD.name, FOODS)));
        let early = anatomy.area(place, "prf-visualrois");
        match (selective, early) {
            (Some((name, category)), _) => {
                let (lean, cluster) = match name {
                    "food" => (Some([PLACES, WORDS]), 1 + random.below(2) as u8),
                    "OPA" => (Some([FOODS, BODIES]), 1 + random.below(2) as u8),
                    _ => (None, 0),
                };
                let centre = match lean {
                    Some(sides) => self.leaning(category, sides, cluster == 1),
                    None => self.features.preferred[category].clone(),
                };
                (Some(centre), cluster, random.uniform(1.0, 2.0))
            }
            (None, Some(area)) => {
                let centre = self.stray(&mut Random::new(self.seed, &[2, u64::from(area.label)]));
                (Some(centre), 0, random.uniform(0.7, 1.5))
            }
            (None, None) => (None, 0, random.uniform(0.0, 0.35)),
        }
    }

    /// What `category` prefers, leaning to the first of two others or away from it, to the second.
    fn leaning(&self, category: usize, [first, second]: [usize; 2], to_first: bool) -> Vec<f64> {
        let preferred = &self.features.preferred;
        let base = &preferred[category];
        let mut side: Vec<f64> = preferred[first].iter().zip(&preferred[second]).map(|(a, b)| a - b).collect();
        let along = dot(&side, base);
        side.iter_mut().zip(base).for_each(|(side, base)| *side -= along * base);
        normalise(&mut side);
        let lean = if to_first { LEAN } else { -LEAN };
        let mut centre: Vec<f64> = base.iter().zip(&side).map(|(base, side)| base + lean * side).collect();
        normalise(&mut centre);
        centre
    }

    /// A unit vector along which images differ: a random mixture of the features' principal directions.
    fn stray(&self, random: &mut Random) -> Vec<f64> {
        let mut direction = vec![0.0; self.features.width];
        for principal in &self.features.principal {
            let share = random.normal();
            direction.iter_mut().zip(principal).for_each(|(sum, value)| *sum += share * value);
        }
        normalise(&mut direction);
        direction
    }
}

/// Most of the variance of means of `n` trials that a model can explain, in 0..1.
pub fn noise_ceiling(ncsnr: f64, n: f64) -> f64 {
    ncsnr * ncsnr / (ncsnr * ncsnr + 1.0 / n)
}
