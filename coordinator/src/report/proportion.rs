//! A proportion and its interval (Wilson 1927, "Probable inference, the law of succession, and statistical inference").

use serde::Serialize;

/// `hits` of `of`; of at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Proportion {
    pub hits: u64,
    pub of: u64,
}

impl Proportion {
    /// `None` if there is nothing to take a share of.
    pub fn new(hits: u64, of: u64) -> Option<Self> {
        (of > 0).then_some(Self { hits: hits.min(of), of })
    }

    /// Between 0 and 1.
    pub fn share(self) -> f64 {
        self.hits as f64 / self.of as f64
    }

    /// Wilson's score interval at 95 %, without continuity correction; lower and upper bound between 0 and 1. Unlike
    /// Wald's it is right for few images and for shares near 0 and 1.
    pub fn interval(self) -> (f64, f64) {
        const Z: f64 = 1.959_963_984_540_054;
        let (n, p) = (self.of as f64, self.share());
        let centre = p + Z * Z / (2.0 * n);
        let half = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
        let scale = 1.0 + Z * Z / n;
        (((centre - half) / scale).clamp(0.0, p), ((centre + half) / scale).clamp(p, 1.0))
    }

    /// Both together, as one sample.
    pub fn pooled(self, other: Self) -> Self {
        Self { hits: self.hits + other.hits, of: self.of + other.of }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_equals_published_values() {
        // Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
        for (hits, of, lower, upper) in
            [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)]
        {
            let (low, high) = Proportion::new(hits, of).unwrap().interval();
            assert!((low - lower).abs() < 5e-5 && (high - upper).abs() < 5e-5, "{hits}/{of}: {low:.5} {high:.5}");
        }
    }

    #[test]
    fn the_interval_stays_within_0_and_1_and_holds_the_share() {
        for of in 1..40 {
            for hits in 0..=of {
                let proportion = Proportion::new(hits, of).unwrap();
                let (low, high) = proportion.interval();
                assert!(0.0 <= low && low <= proportion.share() && proportion.share() <= high && high <= 1.0);
            }
        }
        assert_eq!(Proportion::new(0, 0), None);
    }
}
