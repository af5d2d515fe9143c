//! A small experiment, and what a worker would say about it.
#![allow(dead_code, clippy::unwrap_used)]

use coordinator::plan::{Experiment, Plan, PlannedCondition};
use coordinator::queue::{Clock, Queue, Settings};
use protocol::claim::{Claim, ClaimedJob, Register};
use protocol::heartbeat::{Activity, Heartbeat, Held, Progress};
use protocol::ids::{ConditionId, Digest, Seed, WorkerId};
use protocol::job::{
    Condition, Input, Kind, ModelFolder, Models, Objective, Precision, SampleCondition, Sampling, Term, VoxelSet,
};
use protocol::outcome::{Completed, Failed, FailureClass, JobResult, PhaseSeconds, ProbeResult, SampleResult};
use protocol::version::{API_VERSION, SOFTWARE};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

pub const LEASE: Duration = Duration::from_secs(60);

/// The image that every result names unless a test says otherwise: its digest must be recorded first.
pub fn image() -> Digest {
    Digest::from_bytes(&[7; 32])
}

/// Settings with a clock that stands still at a known time.
pub fn settings() -> Settings {
    Settings { lease: LEASE, heartbeat: Duration::from_secs(15), clock: Clock::manual(1_000_000) }
}

pub async fn open(folder: &Path, settings: &Settings) -> Queue {
    Queue::open(&folder.join("queue.db"), settings.clone()).await.unwrap()
}

/// An experiment with `conditions` conditions and the seeds `0..seeds`.
pub fn plan(name: &str, conditions: u8, seeds: u64) -> Plan {
    Plan {
        experiment: Experiment {
            name: name.to_owned(),
            description: String::new(),
            kind: Kind::Sample,
            priority: 0,
            share: 1.0,
            max_losses: 5,
            needs: Vec::new(),
            max_attempts: 3,
            budget_gpu_hours: Some(1.0),
            yaml: "name: example".to_owned(),
        },
        conditions: (0..conditions).map(|number| condition(name, number)).collect(),
        seeds: (0..seeds).map(Seed).collect(),
    }
}

fn condition(experiment: &str, number: u8) -> PlannedCondition {
    let mut key = [number; 32];
    key[..experiment.len().min(16)].copy_from_slice(&experiment.as_bytes()[..experiment.len().min(16)]);
    let region = format!("region{number}");
    PlannedCondition {
        key: Digest::from_bytes(&key),
        subject: "subj01".to_owned(),
        region: region.clone(),
        axes: BTreeMap::new(),
        spec: Condition::Sample(Box::new(SampleCondition {
            subject: "subj01".to_owned(),
            region,
            models: Models {
                diffusion: folder("sd"),
                backbone: folder("clip"),
                encoder: Input::Content(folder("encoder")),
                probe: folder("coca"),
            },
            objective: Objective {
                terms: vec![Term { weight: 1.0, voxels: VoxelSet::Rows { rows: vec![0, 2], denominator: 2 } }],
            },
            sampling: Sampling { steps: 10, gamma: 14.0, sag_scale: 0.0, size: [64, 64], ..Sampling::default() },
            probes: Vec::new(),
            prefers: None,
            init_image: None,
        })),
    }
}

fn folder(name: &str) -> ModelFolder {
    ModelFolder { path: format!("/models/{name}").into(), digest: Digest::from_bytes(&[1; 32]), files: Vec::new() }
}

pub fn register(name: &str) -> Register {
    Register {
        api_version: API_VERSION,
        name: name.to_owned(),
        host: "node01".to_owned(),
        pid: 1,
        device: "cpu".to_owned(),
        device_name: "test".to_owned(),
        device_uuid: None,
        slots: 1,
        batch: 1,
        kinds: Kind::ALL.to_vec(),
        precisions: Precision::ALL.to_vec(),
        remaining_ms: None,
        software: SOFTWARE.to_owned(),
    }
}

/// A claim that does not wait.
pub fn claim(worker: WorkerId, max: u32) -> Claim {
    Claim { worker, max, wait_ms: 0, loaded: Vec::new(), ahead: false, batch: None, remaining_ms: None }
}

pub fn claim_loaded(worker: WorkerId, max: u32, loaded: &[ConditionId]) -> Claim {
    Claim { loaded: loaded.to_vec(), ..claim(worker, max) }
}

pub async fn worker(queue: &Queue) -> WorkerId {
    queue.register(register("node01/cpu")).await.unwrap().worker
}

/// Claims exactly one job.
pub async fn claim_one(queue: &Queue, worker: WorkerId) -> ClaimedJob {
    let mut claimed = queue.claim(claim(worker, 1)).await.unwrap();
    claimed.jobs.pop().expect("a ready job")
}

pub fn completed(worker: WorkerId, job: &ClaimedJob) -> Completed {
    Completed {
        worker,
        job: job.job,
        fence: job.fence,
        result: JobResult::Sample(Box::new(result(image(), job.seed.0 as f64))),
    }
}

pub fn result(image_sha256: Digest, activation: f64) -> SampleResult {
    SampleResult {
        image_sha256,
        activation,
        roi_activation: BTreeMap::from([("FFA".to_owned(), activation)]),
        probe: ProbeResult { class: "face".to_owned(), class_similarity: vec![0.5], similarity: vec![0.5] },
        models: Default::default(),
        effective_gamma: 14.0,
        seconds: PhaseSeconds { waiting: 0.0, loading: 1.0, sampling: 2.0, scoring: 3.0, uploading: 4.0 },
        device: "cpu".to_owned(),
        deviations: Vec::new(),
        software: SOFTWARE.to_owned(),
    }
}

pub fn failed(worker: WorkerId, job: &ClaimedJob, class: FailureClass, message: &str) -> Failed {
    let (job, fence, message) = (job.job, job.fence, message.to_owned());
    Failed { worker, job, fence, class, message, seconds: PhaseSeconds::default() }
}

pub fn heartbeat(worker: WorkerId, held: &[&ClaimedJob]) -> Heartbeat {
    let held = held.iter().map(|job| Held {
        job: job.job,
        fence: job.fence,
        progress: Progress { step: 3, steps: 10 },
        computing_ms: 2_000,
    });
    Heartbeat { worker, activity: Activity::Working, held: held.collect() }
}

/// The scores of a guided sample, to be changed.
pub fn scores(done: &mut Completed) -> &mut SampleResult {
    let JobResult::Sample(result) = &mut done.result else { panic!("a guided sample") };
    result
}
