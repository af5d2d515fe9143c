//! A subject's encoder: a linear head, fitted to prepared data on the features of a frozen backbone.

use super::input::{Input, ModelFolder, Out};
use serde::{Deserialize, Serialize};

/// One cell of the grid without its seeds. A seed names initialisation, augmentation and the order of the images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FitCondition {
    /// The grid's name of the subject, for example `subj01`.
    pub subject: String,
    /// The subject's prepared data.
    pub data: Input,
    pub backbone: ModelFolder,
    pub settings: FitSettings,
    pub out: Out,
}

/// How a head is fitted. What is left out is the paper's (Luo et al. 2023, section 4.1, and the authors' code).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FitSettings {
    pub head: HeadMethod,
    pub features: Features,
    /// Augmented copies of every image whose features are kept, with `features: cached`.
    pub copies: u32,
    pub epochs: u32,
    /// Images per step.
    pub batch: u32,
    /// Epoch e of E has this times 0.5^(e/E), e from 1.
    pub learning_rate: f64,
    /// Of weight and bias.
    pub weight_decay: f64,
    /// What PyTorch's initial weight is multiplied by.
    pub init_scale: f64,
    /// Images are multiplied by a number within 1 ± this.
    pub brightness: f64,
    /// A batch is shifted by up to so many pixels along each axis.
    pub shift: u32,
    /// Standard deviation of the noise that is added to normalised pixels.
    pub noise: f64,
    /// Penalties among which cross-validation chooses for every voxel, with `head: ridge`.
    pub lambdas: Vec<f64>,
    /// Parts of the cross-validation.
    pub folds: u32,
}

/// How the head's weights are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeadMethod {
    #[default]
    Adamw,
    /// In closed form, λ by cross-validation.
    Ridge,
}

/// Where the features of an epoch come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Features {
    /// Every epoch augments every image anew.
    #[default]
    Exact,
    /// Of a fixed number of augmented copies, computed once.
    Cached,
}

impl Default for FitSettings {
    fn default() -> Self {
        Self {
            head: HeadMethod::default(),
            features: Features::default(),
            copies: 4,
            epochs: 100,
            batch: 64,
            learning_rate: 3e-4,
            weight_decay: 2e-2,
            init_scale: 0.5,
            brightness: 0.05,
            shift: 4,
            noise: 0.05,
            lambdas: (-6..=8).map(|half_decade| 10f64.powf(f64::from(half_decade) / 2.0)).collect(),
            folds: 5,
        }
    }
}
