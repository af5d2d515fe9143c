//! Random numbers that a seed and a key decide, in whatever order streams are drawn: SplitMix64 (Steele, Lea & Flood 2014).

use std::f64::consts::TAU;

/// 2⁶⁴ divided by the golden ratio, odd.
pub const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finaliser of SplitMix64 (Steele, Lea & Flood 2014): with a counter in steps of [`GOLDEN`], a generator whose i-th value needs
/// no other.
pub fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// One stream of numbers.
#[derive(Debug, Clone)]
pub struct Random {
    state: u64,
    /// The second number of the last pair of normals.
    spare: Option<f64>,
}

impl Random {
    /// The stream of `key` under `seed`.
    pub fn new(seed: u64, key: &[u64]) -> Self {
        let state = key.iter().fold(mix(seed ^ GOLDEN), |state, part| mix(state ^ mix(part.wrapping_add(GOLDEN))));
        Self { state, spare: None }
    }

    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN);
        mix(self.state)
    }

    /// In low..high.
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// One of 0..count.
    pub fn below(&mut self, count: usize) -> usize {
        ((u128::from(self.bits()) * count as u128) >> 64) as usize
    }

    /// Standard normal (Box & Muller 1958).
    pub fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let (radius, angle) = ((-2.0 * (1.0 - self.uniform(0.0, 1.0)).ln()).sqrt(), self.uniform(0.0, TAU));
        self.spare = Some(radius * angle.sin());
        radius * angle.cos()
    }

    /// Fisher and Yates's shuffle.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_functions_of_seed_and_key_and_normals_are_normal() {
        let draw = |seed, key: &[u64]| Random::new(seed, key).bits();
        assert_eq!(draw(1, &[2, 3]), draw(1, &[2, 3]));
        assert!(draw(1, &[2, 3]) != draw(1, &[3, 2]) && draw(1, &[2, 3]) != draw(2, &[2, 3]));
        let mut random = Random::new(7, &[]);
        let values: Vec<f64> = (0..20_000).map(|_| random.normal()).collect();
        let mean = values.iter().sum::<f64>() / 20_000.0;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / 20_000.0;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.04, "{mean} {variance}");
    }

    #[test]
    fn a_shuffle_keeps_every_item() {
        let mut items: Vec<usize> = (0..100).collect();
        Random::new(1, &[]).shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}
