//! What a job is: the parameters that decide its result, as the coordinator planned them. One file per kind of work.
//!
//! Everything that all seeds of a condition share stands in a [`Condition`], which travels once per claim; a job adds its seed.

mod cluster;
mod fit;
mod input;
mod objective;
mod prepare;
mod sample;
mod sampling;
mod score;
mod simulate;

pub use cluster::*;
pub use fit::*;
pub use input::*;
pub use objective::*;
pub use prepare::*;
pub use sample::*;
pub use sampling::*;
pub use score::*;
pub use simulate::*;

use crate::ids::{Digest, Seed};
use crate::named;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What all seeds of a condition share. Every kind of work has its own file under `worker/src/tasks/`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Condition {
    /// A subject's data as everything else reads them, in a folder.
    Prepare(Box<PrepareCondition>),
    /// A subject's encoder, in a folder.
    Fit(Box<FitCondition>),
    /// The clusters of a region, in a folder.
    Cluster(Box<ClusterCondition>),
    /// Guided sampling of one image per seed, and its scores.
    Sample(Box<SampleCondition>),
    /// Scores of images that are there.
    Score(Box<ScoreCondition>),
    /// Nothing but time: for load tests and rehearsals of failures.
    Simulate(SimulateCondition),
}

impl Condition {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Prepare(_) => Kind::Prepare,
            Self::Fit(_) => Kind::Fit,
            Self::Cluster(_) => Kind::Cluster,
            Self::Sample(_) => Kind::Sample,
            Self::Score(_) => Kind::Score,
            Self::Simulate(_) => Kind::Simulate,
        }
    }

    /// What its networks compute in.
    pub fn precision(&self) -> Precision {
        match self {
            Self::Sample(condition) => condition.sampling.precision,
            Self::Prepare(_) | Self::Fit(_) | Self::Cluster(_) | Self::Score(_) | Self::Simulate(_) => {
                Precision::Single
            }
        }
    }

    /// Keys of the conditions whose products it reads.
    pub fn reads(&self) -> Vec<&Digest> {
        match self {
            Self::Fit(condition) => condition.data.maker().into_iter().collect(),
            Self::Cluster(condition) => condition.encoder.maker().into_iter().collect(),
            Self::Sample(condition) => condition.reads().collect(),
            Self::Score(condition) => condition.scored.reads().chain([&condition.images]).collect(),
            Self::Prepare(_) | Self::Simulate(_) => Vec::new(),
        }
    }

    /// The folder that the job of a seed makes, if it is of a kind that makes one.
    pub fn out(&self, seed: Seed) -> Option<PathBuf> {
        let out = match self {
            Self::Prepare(condition) => &condition.out,
            Self::Fit(condition) => &condition.out,
            Self::Cluster(condition) => &condition.out,
            Self::Sample(_) | Self::Score(_) | Self::Simulate(_) => return None,
        };
        Some(out.of(seed))
    }
}

/// A kind of work. A worker says which kinds it can do, and is given no others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Prepare,
    Fit,
    Cluster,
    Sample,
    Score,
    Simulate,
}

named!(Kind, "a kind of work", {
    Prepare: "prepare",
    Fit: "fit",
    Cluster: "cluster",
    Sample: "sample",
    Score: "score",
    Simulate: "simulate",
});
