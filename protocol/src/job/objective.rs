//! What guidance maximises, and scores are taken of: weighted means over voxels of a subject's head.

use super::input::Input;
use crate::ids::Digest;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A weighted sum of region means: `Σ_k weight_k · sum_{v ∈ S_k}(W_v·f + b_v) / denominator_k`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Objective {
    pub terms: Vec<Term>,
}

/// One region of an objective.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Term {
    /// Positive to maximise, negative to suppress.
    pub weight: f64,
    pub voxels: VoxelSet,
}

/// Which of the head's voxels a term averages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum VoxelSet {
    /// Row numbers of the head, resolved when the experiment was submitted.
    Rows {
        rows: Vec<u32>,
        /// The mean's denominator. Larger than the number of rows where the mask holds voxels that the head does not
        /// predict and the mean is taken over the whole mask (preset `paper`).
        denominator: u32,
    },
    /// An ROI of a head that is still to be made, resolved by the worker.
    Roi {
        name: String,
        /// As of a [`VolumeMask`].
        whole_mask_mean: bool,
    },
    /// A cluster of a region, resolved by the worker through the head's `voxel_ijk`.
    Cluster {
        /// The region's clusters: `clusters.nii.gz` holds their numbers.
        clusters: Input,
        /// From 1.
        number: u32,
    },
    /// Voxels of the subject's volumes, resolved by the worker through the head's `voxel_ijk`.
    Volume(VolumeMask),
}

/// A mask in the subject's functional volume: label volume, threshold map, or mask file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VolumeMask {
    /// A NIfTI volume; voxels whose value is one of `labels`, or any positive value where `labels` is empty.
    pub mask: PathBuf,
    pub mask_sha256: Digest,
    pub labels: Vec<i32>,
    /// Further restricts the mask to voxels whose value in this NIfTI map is larger than the threshold.
    pub t_map: Option<PathBuf>,
    pub t_map_sha256: Option<Digest>,
    pub t_above: Option<f64>,
    /// Whether the mean is over the whole mask (true: preset `paper`) or over the voxels that the head predicts.
    pub whole_mask_mean: bool,
}
