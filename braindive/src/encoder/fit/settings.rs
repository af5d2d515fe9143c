//! What is asked of `fit`.

use super::FitError;
use serde::{Deserialize, Serialize};

/// How a head is fitted. The defaults are the paper's (Luo et al. 2023, sections 3.2 and 4.1, and the authors' code).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    pub head: Method,
    pub features: Features,
    /// Augmented copies of every image whose features are kept, with `features: cached`. With as many copies as epochs both modes
    /// give the same head.
    pub copies: usize,
    pub epochs: usize,
    /// Images per step.
    pub batch: usize,
    /// Epoch e of E has this times 0.5^(e/E), e from 1.
    pub learning_rate: f64,
    /// Of weight and bias.
    pub weight_decay: f64,
    /// What PyTorch's initial weight is multiplied by; the bias is not.
    pub init_scale: f64,
    /// Of the first weights and of the augmentation; epoch e has the order of PyTorch's seed `seed + e`.
    pub seed: u64,
    /// Images are multiplied by a number within 1 ± this.
    pub brightness: f64,
    /// A batch is shifted by up to so many pixels along each axis.
    pub shift: u32,
    /// Standard deviation of the noise that is added to normalised pixels.
    pub noise: f64,
    /// Penalties among which cross-validation chooses for every voxel, with `head: ridge`.
    pub lambdas: Vec<f64>,
    /// Parts of the cross-validation.
    pub folds: usize,
}

/// How the head's weights are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// The paper's.
    #[default]
    Adamw,
    /// In closed form on the features of the images as they are, the penalty of every voxel by cross-validation.
    Ridge,
}

/// Where the features of an epoch come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Features {
    /// Every epoch augments every image anew, as the paper did.
    #[default]
    Exact,
    /// Of a fixed number of augmented copies, computed once.
    Cached,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            head: Method::Adamw,
            features: Features::Exact,
            copies: 4,
            epochs: 100,
            batch: 64,
            learning_rate: 3e-4,
            weight_decay: 2e-2,
            init_scale: 0.5,
            seed: 0,
            brightness: 0.05,
            shift: 4,
            noise: 0.05,
            lambdas: (-6..=8).map(|half_decade| 10f64.powf(f64::from(half_decade) / 2.0)).collect(),
            folds: 5,
        }
    }
}

impl Settings {
    /// # Errors
    /// A setting has a value that makes no fit.
    pub fn check(&self) -> Result<(), FitError> {
        let counts = [("copies", self.copies), ("epochs", self.epochs), ("batch", self.batch)];
        let nothing = counts.into_iter().find(|&(_, count)| count == 0);
        let sizes = [
            ("weight_decay", self.weight_decay),
            ("init_scale", self.init_scale),
            ("brightness", self.brightness),
            ("noise", self.noise),
        ];
        let odd = sizes.into_iter().find(|(_, size)| !(size.is_finite() && *size >= 0.0));
        let wrong = |setting, found: String, expected| Err(FitError::Setting { setting, found, expected });
        match (nothing, odd) {
            (Some((setting, _)), _) => wrong(setting, "0".to_owned(), "at least 1"),
            (_, Some((setting, found))) => wrong(setting, found.to_string(), "a number that is not negative"),
            _ if !(self.learning_rate.is_finite() && self.learning_rate > 0.0) => {
                wrong("learning_rate", self.learning_rate.to_string(), "a positive number")
            }
            _ if self.folds < 2 => wrong("folds", self.folds.to_string(), "at least 2"),
            _ if self.lambdas.is_empty()
                || self.lambdas.iter().any(|lambda| !(lambda.is_finite() && *lambda > 0.0)) =>
            {
                wrong("lambdas", format!("{:?}", self.lambdas), "at least one number, all of them positive")
            }
            _ => Ok(()),
        }
    }

    /// Passes of augmented images through the backbone.
    pub fn passes(&self) -> usize {
        match self.features {
            Features::Exact => self.epochs,
            Features::Cached => self.copies.min(self.epochs),
        }
    }

    /// The pass, from 1, whose features epoch `epoch` sees, from 1.
    pub fn pass_of(&self, epoch: usize) -> usize {
        (epoch - 1) % self.passes() + 1
    }

    /// Of epoch `epoch`, from 1.
    pub fn learning_rate_of(&self, epoch: usize) -> f64 {
        self.learning_rate * 0.5f64.powf(epoch as f64 / self.epochs as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_learning_rate_is_the_papers() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/reference/encoder/fit.json");
        let golden: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let settings = Settings::default();
        for (epoch, expected) in (1..).zip(golden["learning_rates"].as_array().unwrap()) {
            assert!((settings.learning_rate_of(epoch) - expected.as_f64().unwrap()).abs() < 1e-18);
        }
        let rounded = |epoch| format!("{:.5e}", settings.learning_rate_of(epoch));
        assert_eq!([1, 50, 100].map(rounded), ["2.97928e-4", "2.12132e-4", "1.50000e-4"]);
    }

    #[test]
    fn cached_copies_come_round_again_and_exact_ones_never() {
        let settings = Settings { copies: 3, epochs: 5, ..Settings::default() };
        let passes = |settings: &Settings| (1..=5).map(|epoch| settings.pass_of(epoch)).collect::<Vec<_>>();
        assert_eq!(passes(&settings), [1, 2, 3, 4, 5]);
        assert_eq!(passes(&Settings { features: Features::Cached, ..settings }), [1, 2, 3, 1, 2]);
    }

    #[test]
    fn settings_that_make_no_fit_are_refused_by_name() {
        let refused = |settings: Settings| settings.check().unwrap_err().to_string();
        assert!(refused(Settings { batch: 0, ..Settings::default() }).contains("batch"));
        assert!(refused(Settings { learning_rate: f64::NAN, ..Settings::default() }).contains("learning_rate"));
        assert!(refused(Settings { lambdas: vec![0.0], ..Settings::default() }).contains("lambdas"));
        assert!(Settings::default().check().is_ok());
    }
}
