//! Registering a worker, and handing jobs to it.

use crate::ids::{ConditionId, Digest, Fence, JobId, Seed, WorkerId};
use crate::job::{Condition, Kind, Precision};
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
    /// The driver's own name of the device, for example `GPU-3f2a…`, wherever it is plugged in; `None` for a CPU.
    pub device_uuid: Option<String>,
    /// How many batches the worker runs at a time.
    pub slots: u32,
    /// How many jobs a batch takes at most.
    pub batch: u32,
    /// What the worker can do.
    pub kinds: Vec<Kind>,
    /// What its device computes in.
    #[serde(default = "on_every_device")]
    pub precisions: Vec<Precision>,
    /// How long until the worker's allocation ends; `None` if it does not.
    pub remaining_ms: Option<u64>,
    pub software: String,
}

/// What workers computed in before they said so.
fn on_every_device() -> Vec<Precision> {
    vec![Precision::Single, Precision::Half]
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
    /// The jobs are for later: all slots are busy. They are given only while there are enough for other workers too.
    #[serde(default)]
    pub ahead: bool,
    /// How many jobs a batch takes now, of a worker that finds that out.
    #[serde(default)]
    pub batch: Option<u32>,
    /// How long until the worker's allocation ends; no job is given that would take longer. `None` if it does not end.
    #[serde(default)]
    pub remaining_ms: Option<u64>,
}

/// The jobs that the worker now holds; empty if there was none in time.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Claimed {
    pub jobs: Vec<ClaimedJob>,
    /// The conditions of `jobs`, each once.
    pub conditions: Vec<ClaimedCondition>,
    /// Why there will be nothing for this worker however long it waits; it drains and ends.
    #[serde(default)]
    pub never: Option<Never>,
}

/// A condition of claimed jobs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClaimedCondition {
    pub id: ConditionId,
    /// Decides what its jobs give, each with its seed: what they make is known by it.
    pub key: Digest,
    pub spec: Condition,
}

/// Why a worker gets no job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Never {
    /// Every job that waits would take longer than the worker's allocation lasts.
    Deadline,
    /// The device is quarantined, with the reason.
    Quarantined(String),
}

/// A job under a lease.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClaimedJob {
    pub job: JobId,
    pub fence: Fence,
    /// 1 for the first try.
    pub attempt: u32,
    pub condition: ConditionId,
    pub seed: Seed,
    /// The image to score, of a job that scores one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageToScore>,
}

/// An image that another job gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageToScore {
    /// `GET /api/v1/artifacts/{sha256}`
    pub sha256: Digest,
    /// What the gradient was really scaled by when it was made.
    pub effective_gamma: f64,
}
