//! The job table as `submit` sees it.

use crate::plan::Plan;
use serde::{Deserialize, Serialize};
use std::future::Future;

/// Where plans go.
pub trait JobTable {
    /// Adds what is new in `plan`.
    fn submit(&self, plan: &Plan) -> impl Future<Output = anyhow::Result<Submitted>>;
    /// What submitting `plan` would add.
    fn preview(&self, plan: &Plan) -> impl Future<Output = anyhow::Result<Preview>>;
    /// Lets go of the table.
    fn close(self) -> impl Future<Output = ()>;
}

/// What submitting a plan changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submitted {
    pub experiment: protocol::ids::ExperimentId,
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
    pub exists: Option<protocol::ids::ExperimentId>,
    pub new_conditions: u64,
    pub existing_jobs: u64,
    pub new_jobs: u64,
    pub unlisted_conditions: u64,
    /// Mean over the finished jobs of the same experiment, all phases.
    pub measured_seconds_per_image: Option<f64>,
}
