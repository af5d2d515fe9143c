//! Clusters of a region's voxels by what their weights prefer.

use super::input::{Input, Out};
use serde::{Deserialize, Serialize};

/// One cell of the grid without its seeds. A seed names the starts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterCondition {
    /// The grid's name of the subject, for example `subj01`.
    pub subject: String,
    /// A region of the encoder, for example `food`.
    pub region: String,
    /// The subject's encoder, with the places of its voxels.
    pub encoder: Input,
    pub settings: ClusterSettings,
    pub out: Out,
}

/// How many clusters are looked for, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterSettings {
    /// Numbers of clusters; of several the one with the highest held-out likelihood is taken.
    pub k: Vec<u32>,
    pub assign: Assignment,
    /// Starts of the search, of which the best counts.
    pub starts: u32,
    /// Parts into which voxels are dealt to choose between several k.
    pub folds: u32,
}

/// Whether a voxel belongs to clusters by shares or to one (Banerjee et al. 2005: soft- and hard-moVMF).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Assignment {
    #[default]
    Soft,
    Hard,
}

impl Default for ClusterSettings {
    fn default() -> Self {
        Self { k: vec![2], assign: Assignment::default(), starts: 10, folds: 5 }
    }
}
