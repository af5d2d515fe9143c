//! Nothing but time: for load tests and rehearsals of failures.

use crate::outcome::FailureClass;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One cell of a grid of simulated jobs: each waits, then fails or gives a small picture of noise. No model is needed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimulateCondition {
    pub subject: String,
    pub region: String,
    /// How long a job takes, seconds.
    pub seconds: f64,
    /// Share of `seconds` by which a job takes longer or shorter, drawn from its seed: 0 takes the same time always, 0.5
    /// between half and one and a half.
    #[serde(default)]
    pub spread: f64,
    /// Probability that an attempt fails in a class, drawn anew for every attempt; what is left is success.
    #[serde(default)]
    pub fail: BTreeMap<FailureClass, f64>,
    /// Least size of the picture, bytes.
    #[serde(default)]
    pub bytes: u32,
}
