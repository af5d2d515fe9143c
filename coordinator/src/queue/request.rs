//! What people ask of the job table, and the answers; the command line and the API share these types.

use crate::plan::Plan;
use crate::queue::filter::Filter;
use crate::queue::state::State;
use protocol::ids::{ExperimentId, JobId};
use serde::{Deserialize, Serialize};

/// What submitting a plan changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submitted {
    pub experiment: ExperimentId,
    /// The name was new.
    pub created: bool,
    pub new_conditions: u64,
    pub new_jobs: u64,
    /// Jobs of the plan that were there before.
    pub existing_jobs: u64,
    /// Conditions of the experiment that the plan does not list (any more); their jobs stay as they are.
    pub unlisted_conditions: u64,
}

/// What submitting a plan would change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Preview {
    /// The experiment of that name, if there is one.
    pub exists: Option<ExperimentId>,
    pub new_conditions: u64,
    pub existing_jobs: u64,
    pub new_jobs: u64,
    pub unlisted_conditions: u64,
    /// Mean over finished jobs of the same experiment, all phases; at most 1000 of them are looked at.
    pub measured_seconds_per_image: Option<f64>,
}

impl Preview {
    /// Of a plan whose experiment is not there yet.
    pub fn all_new(plan: &Plan) -> Self {
        Self {
            exists: None,
            new_conditions: plan.conditions.len() as u64,
            existing_jobs: 0,
            new_jobs: plan.jobs(),
            unlisted_conditions: 0,
            measured_seconds_per_image: None,
        }
    }
}

/// Which jobs to cancel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cancel {
    Jobs(Vec<JobId>),
    /// All that fit and are not finished.
    Where(Filter),
}

/// Which jobs to retry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retry {
    /// Failed, cancelled or blocked jobs. Jobs that their conditions' bad input blocked become ready with them.
    Jobs(Vec<JobId>),
    /// All that fit and failed or are blocked; cancelled ones too if the filter names states.
    Where(Filter),
}

/// How an experiment is to be served from now on; `None` leaves a part as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Adjust {
    pub experiment: String,
    /// Whether its jobs stay where they are; those that run go on.
    pub paused: Option<bool>,
    pub priority: Option<i32>,
    /// Above 0.
    pub share: Option<f64>,
}

impl Adjust {
    /// Changes nothing of the experiment.
    pub fn nothing(experiment: String) -> Self {
        Self { experiment, paused: None, priority: None, share: None }
    }
}

/// How an experiment is served.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Served {
    pub experiment: String,
    pub paused: bool,
    pub priority: i32,
    pub share: f64,
}

/// Which stored files to remove: those that no result names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collect {
    /// Only files that were stored longer ago.
    pub older_than_ms: u64,
    /// Count them, and remove none.
    pub dry_run: bool,
}

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    pub images: u64,
    pub bytes: u64,
}

/// What a cancel or retry changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    pub jobs: u64,
    /// Jobs that were named one by one and left as they are, because their state does not allow it.
    pub unchanged: Vec<(JobId, State)>,
}
