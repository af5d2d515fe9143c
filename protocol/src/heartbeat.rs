//! Renewing leases, reporting progress, hearing of cancellations.

use crate::ids::{Fence, JobId, WorkerId};
use serde::{Deserialize, Serialize};

/// `POST /api/v1/heartbeat`: renews the lease of every job that the worker lists.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat {
    pub worker: WorkerId,
    pub activity: Activity,
    pub held: Vec<Held>,
}

/// What a worker is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activity {
    /// Claims and runs jobs.
    Working,
    /// Finishes what it holds and claims nothing more.
    Draining,
    /// Holds nothing and exits; the last heartbeat.
    Gone,
}

/// A job that the worker holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    pub job: JobId,
    pub fence: Fence,
    pub progress: Progress,
    /// The job's share of its slot's time so far, milliseconds; 0 before it begins.
    #[serde(default)]
    pub computing_ms: u64,
}

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Sampler steps done.
    pub step: u32,
    /// Sampler steps in all.
    pub steps: u32,
}

/// The coordinator's answer: jobs that the worker should drop without a result.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HeartbeatReply {
    /// Cancelled by a person.
    pub cancelled: Vec<JobId>,
    /// The lease had run out and the job went back to the queue, or to another worker.
    pub lost: Vec<JobId>,
}

/// `POST /api/v1/release`: gives jobs back untouched; the attempt is closed as `drained` and does not count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    pub worker: WorkerId,
    pub jobs: Vec<(JobId, Fence)>,
}
