//! Clusters of a region's voxels by the direction of their encoder weights: a mixture of von Mises-Fisher distributions on the unit
//! sphere (Banerjee, Dhillon, Ghosh & Sra 2005; Luo et al. 2023, section 4.4).

mod bessel;
mod choose;
mod job;
mod mixture;
mod settings;
#[cfg(test)]
mod tests;

pub use choose::{Choice, choose};
pub use job::{CENTRES, CLUSTERS, CTAB, Job, LABELS, PICTURE, Region, Report, Stored, identity, run};
pub use mixture::{Directions, Fitted, Mixture};
pub use settings::{Assignment, Settings};

/// Why rows can't be clustered.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ClusterError {
    #[error("{rows} voxels cannot make {k} clusters: choose a smaller k or a larger region")]
    TooFew { rows: usize, k: usize },
    #[error("the weights of voxel {row} of the region are all zero, or not all finite: it has no direction")]
    NoDirection { row: usize },
    #[error(
        "the {rows} voxels of the region do not fall into {k} clusters: from every one of {starts} starts a cluster lost its voxels, or kept \
         only copies of one direction; choose a smaller k"
    )]
    Collapsed { rows: usize, k: usize, starts: usize },
    #[error("clustering needs `{what}` of at least {least}, found {found}")]
    Setting { what: &'static str, least: usize, found: usize },
    #[error("clustering was stopped")]
    Stopped,
}
