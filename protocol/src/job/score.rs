//! Scoring images that another experiment made, with other models: an independent ranker, since guidance exploits the encoder that
//! guides.

use super::sample::SampleCondition;
use crate::ids::Digest;
use serde::{Deserialize, Serialize};

/// One cell of the grid without its seeds; a job scores the image of its seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoreCondition {
    /// Key of the condition whose images are scored.
    pub images: Digest,
    /// That condition with the models, objective and probes that score. Of the diffusion model only the tokenizer is read, which the probe
    /// shares.
    #[serde(flatten)]
    pub scored: SampleCondition,
}
