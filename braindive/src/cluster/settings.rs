//! How clusters are looked for.

use super::ClusterError;
use serde::{Deserialize, Serialize};

/// The defaults are the paper's two clusters, with soft assignments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Numbers of clusters; of several, the one with the highest likelihood of held-out voxels is taken.
    pub k: Vec<usize>,
    pub assign: Assignment,
    /// Starts of the search, of which the one that ends with the highest likelihood counts.
    pub starts: usize,
    /// Parts into which voxels are dealt to choose between several k: each is held out once.
    pub folds: usize,
    /// Names the starts and the parts.
    pub seed: u64,
}

/// What the E step gives to a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Assignment {
    /// The share of every voxel that its posterior says: soft-moVMF.
    #[default]
    Soft,
    /// The voxels of which it is the likeliest: hard-moVMF.
    Hard,
}

impl Default for Settings {
    fn default() -> Self {
        Self { k: vec![2], assign: Assignment::Soft, starts: 10, folds: 5, seed: 0 }
    }
}

impl Settings {
    /// # Errors
    /// A number is too small to mean anything.
    pub fn check(&self) -> Result<(), ClusterError> {
        let least = |what, least, found| match found >= least {
            true => Ok(()),
            false => Err(ClusterError::Setting { what, least, found }),
        };
        least("k", 1, self.k.iter().copied().min().unwrap_or(0))?;
        least("starts", 1, self.starts)?;
        least("folds", 2, self.folds)
    }
}
