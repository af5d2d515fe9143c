//! Registering a worker, and handing jobs to it.

use crate::ids::{ConditionId, Fence, JobId, Seed, WorkerId};
use crate::job::Condition;
use serde::{Deserialize, Serialize};

/// `POST /api/v1/register`: a worker process introduces itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Register {
    pub api_version: u32,
    /// A name that people recognise, for example `node07/cuda:0`.
    pub name: String,
    pub host: String,
    pub pid: u32,
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// What the device calls itself, for example `Tesla V100-SXM2-16GB`.
    pub device_name: String,
    /// How many jobs the worker runs at a time.
    pub slots: u32,
    pub software: String,
}

/// The coordinator's answer to [`Register`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    pub worker: WorkerId,
    /// A claimed job that is not renewed for this long is given to somebody else.
    pub lease_ms: u64,
    /// How often to send a heartbeat.
    pub heartbeat_ms: u64,
}

/// `POST /api/v1/claim`: ask for up to `max` jobs, waiting up to `wait_ms` for the first (long poll).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    pub worker: WorkerId,
    pub max: u32,
    pub wait_ms: u64,
    /// Conditions whose models the worker holds loaded, best first.
    pub loaded: Vec<ConditionId>,
}

/// The jobs that the worker now holds; empty if there was none in time.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Claimed {
    pub jobs: Vec<ClaimedJob>,
    /// The conditions of `jobs`, each once.
    pub conditions: Vec<(ConditionId, Condition)>,
}

/// A job under a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimedJob {
    pub job: JobId,
    pub fence: Fence,
    /// 1 for the first try.
    pub attempt: u32,
    pub condition: ConditionId,
    pub seed: Seed,
}
