//! Sixty-four workers that claim and finish over HTTP and do nothing in between.

use crate::figure::quantile;
use crate::grid;
use crate::server::{Server, cpu_seconds};
use anyhow::Context;
use protocol::claim::{Claim, Claimed, Register, Registered};
use protocol::endpoint::Endpoint;
use protocol::ids::{ConditionId, WorkerId};
use protocol::job::{Kind, Precision};
use protocol::outcome::{Closed, Completed, Disposition, JobResult, PhaseSeconds, SimulateResult};
use protocol::version::{API_VERSION, SOFTWARE};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

pub const WORKERS: u32 = 64;

/// A coordinator's API.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    endpoint: Endpoint,
}

impl Client {
    pub fn new(endpoint: &Endpoint) -> anyhow::Result<Self> {
        let http = tls::client(endpoint.fingerprint.clone())?.pool_max_idle_per_host(WORKERS as usize).build()?;
        Ok(Self { http, endpoint: endpoint.clone() })
    }

    async fn post<T: DeserializeOwned>(&self, verb: &str, body: &impl Serialize) -> anyhow::Result<T> {
        let url = format!("{}/api/v1/{verb}", self.endpoint.url);
        let answer = self.http.post(url).bearer_auth(&self.endpoint.token).json(body).send().await?;
        let (status, bytes) = (answer.status(), answer.bytes().await?);
        anyhow::ensure!(status.is_success(), "{verb}: {status} {}", String::from_utf8_lossy(&bytes));
        Ok(serde_json::from_slice(&bytes)?)
    }

    /// Seconds until a page had come whole, and its bytes.
    pub async fn page(&self, path: &str) -> anyhow::Result<(f64, usize)> {
        let start = Instant::now();
        let answer =
            self.http.get(format!("{}{path}", self.endpoint.url)).bearer_auth(&self.endpoint.token).send().await?;
        anyhow::ensure!(answer.status().is_success(), "{path}: {}", answer.status());
        let bytes = answer.bytes().await?.len();
        Ok((start.elapsed().as_secs_f64(), bytes))
    }

    /// Seconds until the live feed said its first word.
    pub async fn first_event(&self) -> anyhow::Result<f64> {
        let start = Instant::now();
        let url = format!("{}/events", self.endpoint.url);
        let mut answer = self.http.get(url).bearer_auth(&self.endpoint.token).send().await?;
        answer.chunk().await?.context("an event")?;
        Ok(start.elapsed().as_secs_f64())
    }

    /// Stores the image that all results name.
    pub async fn upload(&self) -> anyhow::Result<()> {
        let url = format!("{}/api/v1/artifacts/{}", self.endpoint.url, grid::image());
        self.http.put(url).bearer_auth(&self.endpoint.token).body(grid::IMAGE).send().await?.error_for_status()?;
        Ok(())
    }

    pub async fn register(&self, number: u32) -> anyhow::Result<WorkerId> {
        let worker = Register {
            api_version: API_VERSION,
            name: format!("node{number:02}/cpu"),
            host: format!("node{number:02}"),
            pid: std::process::id(),
            device: "cpu".to_owned(),
            device_name: "none".to_owned(),
            device_uuid: None,
            slots: 1,
            batch: 1,
            kinds: Kind::ALL.to_vec(),
            precisions: Precision::ALL.to_vec(),
            remaining_ms: None,
            software: SOFTWARE.to_owned(),
        };
        Ok(self.post::<Registered>("register", &worker).await?.worker)
    }

    pub async fn claim(&self, worker: WorkerId, loaded: Vec<ConditionId>) -> anyhow::Result<Claimed> {
        let claim = Claim { worker, max: 1, wait_ms: 0, loaded, ahead: false, batch: None, remaining_ms: None };
        self.post("claim", &claim).await
    }
}

/// A worker that has registered.
struct Worker {
    client: Client,
    id: WorkerId,
    /// The condition of its last job, as a worker with a model in memory tells it.
    loaded: Vec<ConditionId>,
    claims: Vec<f64>,
    finishes: Vec<f64>,
}

impl Worker {
    /// One job; seconds are counted from `due`.
    async fn work(&mut self, due: Instant) -> anyhow::Result<()> {
        let mut claimed = self.client.claim(self.id, self.loaded.clone()).await?;
        self.claims.push(due.elapsed().as_secs_f64());
        let job = claimed.jobs.pop().context("the table has run out of jobs")?;
        self.loaded = vec![job.condition];
        let result = SimulateResult {
            image_sha256: grid::image(),
            seconds: PhaseSeconds { sampling: 20.0, ..PhaseSeconds::default() },
            device: "cpu".to_owned(),
            software: SOFTWARE.to_owned(),
        };
        let done = Completed { worker: self.id, job: job.job, fence: job.fence, result: JobResult::Simulate(result) };
        let start = Instant::now();
        let closed: Closed = self.client.post("result", &done).await?;
        self.finishes.push(start.elapsed().as_secs_f64());
        anyhow::ensure!(closed.disposition == Disposition::Accepted, "job {} was not accepted", job.job);
        Ok(())
    }
}

/// What a stretch of load gave.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Load {
    /// Jobs claimed and finished.
    pub jobs: usize,
    pub per_second: f64,
    pub claim_p50_ms: f64,
    pub claim_p99_ms: f64,
    pub finish_p50_ms: f64,
    pub finish_p99_ms: f64,
    /// Of the coordinator, per claim and finish, milliseconds.
    pub server_cpu_ms: f64,
    /// Of these workers, per claim and finish, milliseconds: the same cores serve both.
    pub workers_cpu_ms: f64,
}

/// How fast the workers go.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// Each begins the next job as soon as the last is done.
    Saturated,
    /// Together so many jobs a second, evenly; a claim's time counts from the moment at which it was due.
    PerSecond(f64),
}

/// Sixty-four new workers for `duration`.
pub async fn run(server: &Server, pace: Pace, duration: Duration) -> anyhow::Result<Load> {
    let client = Client::new(&server.endpoint)?;
    client.upload().await?;
    let mut ids = Vec::new();
    for number in 0..WORKERS {
        ids.push(client.register(number).await?);
    }
    let cpu = (server.cpu_seconds()?, cpu_seconds("self")?);
    let begin = Instant::now();
    let mut workers = JoinSet::new();
    for (number, id) in ids.into_iter().enumerate() {
        let worker =
            Worker { client: client.clone(), id, loaded: Vec::new(), claims: Vec::new(), finishes: Vec::new() };
        workers.spawn(work(worker, number as u32, pace, begin, duration));
    }
    let (mut claims, mut finishes) = (Vec::new(), Vec::new());
    while let Some(worker) = workers.join_next().await {
        let worker = worker??;
        claims.extend(worker.claims);
        finishes.extend(worker.finishes);
    }
    let wall = begin.elapsed().as_secs_f64();
    let each = |seconds: f64| 1e3 * seconds / finishes.len().max(1) as f64;
    let (server_cpu_ms, workers_cpu_ms) = (each(server.cpu_seconds()? - cpu.0), each(cpu_seconds("self")? - cpu.1));
    Ok(Load {
        jobs: finishes.len(),
        per_second: finishes.len() as f64 / wall,
        claim_p50_ms: 1e3 * quantile(&mut claims, 0.5),
        claim_p99_ms: 1e3 * quantile(&mut claims, 0.99),
        finish_p50_ms: 1e3 * quantile(&mut finishes, 0.5),
        finish_p99_ms: 1e3 * quantile(&mut finishes, 0.99),
        server_cpu_ms,
        workers_cpu_ms,
    })
}

async fn work(
    mut worker: Worker,
    number: u32,
    pace: Pace,
    begin: Instant,
    duration: Duration,
) -> anyhow::Result<Worker> {
    match pace {
        Pace::Saturated => {
            while begin.elapsed() < duration {
                worker.work(Instant::now()).await?;
            }
        }
        Pace::PerSecond(rate) => {
            let period = Duration::from_secs_f64(f64::from(WORKERS) / rate);
            let first = begin + period.mul_f64(f64::from(number) / f64::from(WORKERS));
            let mut ticks = tokio::time::interval_at(first.into(), period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            while begin.elapsed() < duration {
                let due = ticks.tick().await;
                worker.work(due.into_std()).await?;
            }
        }
    }
    Ok(worker)
}
