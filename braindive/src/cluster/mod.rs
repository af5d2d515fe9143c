//! Clusters of voxels by what they answer to: a mixture of von Mises-Fisher distributions over the directions of their encoder weights
//! (Luo et al. 2023, section 4.4; Banerjee et al. 2005).

mod bessel;
mod job;
mod mixture;
mod rows;
mod select;
mod settings;
#[cfg(test)]
mod tests;

pub use bessel::log_bessel_i;
pub use job::{CENTRES, CLUSTERS, CTAB, Job, LABELS, PICTURE, Region, Report, Stored, identity, run};
pub use mixture::{Fitted, Mixture};
pub use rows::UnitRows;
pub use select::{Clustering, cluster};
pub use settings::{Assign, Settings};

/// Why rows can't be clustered.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ClusterError {
    #[error("clustering: `{key}` is {found}, expected {expected}")]
    Setting { key: &'static str, found: String, expected: &'static str },
    #[error(
        "row {row} of the region has the norm {norm}, so that it has no direction; leave the voxel out of the region"
    )]
    NoDirection { row: usize, norm: f64 },
    #[error(
        "clustering {rows} rows into {k} clusters: there have to be at least as many rows as clusters; choose a larger region or a smaller `k`"
    )]
    TooFewRows { rows: usize, k: usize },
    #[error("the region's {rows} rows all have the same direction, so that there is nothing to tell them apart by")]
    Identical { rows: usize },
    #[error(
        "clustering into {k} clusters left one of them with less than a row, or with rows of one direction, from each of {starts} starts; choose a smaller `k`"
    )]
    Empty { k: usize, starts: usize },
    #[error("the rows have {found} features, clustering needs at least {expected}")]
    Narrow { found: usize, expected: usize },
    #[error("clustering was stopped")]
    Stopped,
}
