//! What an experiment file asks for, resolved: conditions, seeds, and the keys that make submitting idempotent.

use protocol::ids::{Digest, Seed};
use protocol::job::Condition;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A validated experiment, ready to become rows: every condition × every seed is a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub experiment: Experiment,
    pub conditions: Vec<PlannedCondition>,
    /// Without duplicates, in the order of the file.
    pub seeds: Vec<Seed>,
}

impl Plan {
    /// Conditions × seeds.
    pub fn jobs(&self) -> u64 {
        self.conditions.len() as u64 * self.seeds.len() as u64
    }
}

/// What belongs to the experiment as a whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Experiment {
    pub name: String,
    pub description: String,
    /// Larger is claimed first.
    pub priority: i32,
    /// `retries` + 1.
    pub max_attempts: u32,
    pub budget_gpu_hours: Option<f64>,
    /// The file's text as it was submitted.
    pub yaml: String,
}

/// One cell of the grid.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedCondition {
    /// sha256 of everything that decides a result but the seed: names, parameters, digests of models and masks. Paths are
    /// not part of it, so that moving a folder makes no new conditions.
    pub key: Digest,
    pub subject: String,
    pub region: String,
    /// The other axes of the grid and this cell's values on them, for example `{"gamma": 14.0}`.
    pub axes: BTreeMap<String, serde_json::Value>,
    pub spec: Condition,
}
