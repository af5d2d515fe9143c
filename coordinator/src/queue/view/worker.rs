//! Workers and what they run now.

use super::{Snapshot, ViewError, reading};
use protocol::ids::{ConditionId, JobId, Seed, WorkerId};
use serde::Serialize;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

/// A worker that was not heard of for this long is history, milliseconds.
pub const WORKER_HISTORY: i64 = 24 * 3_600_000;

/// A worker process.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Worker {
    pub id: WorkerId,
    pub name: String,
    pub host: String,
    pub pid: u32,
    pub device: String,
    pub device_name: String,
    /// The device wherever workers run on it.
    pub device_key: String,
    /// Why the device gets no jobs, if it is quarantined.
    pub quarantine: Option<String>,
    pub slots: u32,
    pub software: String,
    /// `working`, `draining`, `gone` (said goodbye) or `silent` (its heartbeat stopped).
    pub activity: String,
    pub registered_at: i64,
    pub heartbeat_at: i64,
    /// The jobs that it holds, oldest number first.
    pub running: Vec<Running>,
}

impl Worker {
    /// Whether it can be counted on to take or finish jobs.
    pub fn is_present(&self) -> bool {
        matches!(self.activity.as_str(), "working" | "draining")
    }
}

/// A job that a worker holds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Running {
    pub job: JobId,
    pub condition: ConditionId,
    pub subject: String,
    pub region: String,
    pub seed: Seed,
    pub step: u32,
    pub steps: u32,
    pub started_at: i64,
}

impl Running {
    fn from_row(row: &SqliteRow) -> Result<Option<Self>, sqlx::Error> {
        let Some(job) = row.try_get::<Option<i64>, _>("job_id")? else { return Ok(None) };
        Ok(Some(Self {
            job: JobId(job),
            condition: ConditionId(row.try_get("condition_id")?),
            subject: row.try_get("subject")?,
            region: row.try_get("region")?,
            seed: Seed(row.try_get::<i64, _>("seed")?.cast_unsigned()),
            step: row.try_get("step")?,
            steps: row.try_get("steps")?,
            started_at: row.try_get("started_at")?,
        }))
    }
}

impl Worker {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: WorkerId(row.try_get("id")?),
            name: row.try_get("name")?,
            host: row.try_get("host")?,
            pid: row.try_get("pid")?,
            device: row.try_get("device")?,
            device_name: row.try_get("device_name")?,
            device_key: row.try_get("device_key")?,
            quarantine: row.try_get("quarantine")?,
            slots: row.try_get("slots")?,
            software: row.try_get("software")?,
            activity: row.try_get("activity")?,
            registered_at: row.try_get("registered_at")?,
            heartbeat_at: row.try_get("heartbeat_at")?,
            running: Vec::new(),
        })
    }
}

impl Snapshot {
    /// Workers heard of since `since` (milliseconds since 1970), holding a job, or to blame for a quarantine: present ones first, then by name.
    pub async fn workers(&mut self, since: i64) -> Result<Vec<Worker>, ViewError> {
        let rows = sqlx::query(
            "SELECT worker.id, worker.name, worker.host, worker.pid, worker.device, worker.device_name,
                    worker.device_key, quarantine.reason AS quarantine, worker.slots,
                    worker.software, worker.activity, worker.registered_at, worker.heartbeat_at,
                    job.id AS job_id, job.condition_id, condition.subject, condition.region, job.seed, job.step, job.steps,
                    attempt.started_at
             FROM worker
             LEFT JOIN job ON job.worker_id = worker.id AND job.state = 'running'
             LEFT JOIN condition ON condition.id = job.condition_id
             LEFT JOIN attempt ON attempt.job_id = job.id AND attempt.fence = job.fence
             LEFT JOIN quarantine ON quarantine.device_key = worker.device_key
             WHERE worker.heartbeat_at >= ?1 OR job.id IS NOT NULL OR worker.id = quarantine.worker_id
             ORDER BY worker.activity NOT IN ('working', 'draining'), worker.name, worker.id, job.id",
        )
        .bind(since)
        .fetch_all(&mut *self.tx)
        .await
        .map_err(reading("the workers"))?;

        let mut workers: Vec<Worker> = Vec::new();
        for row in &rows {
            let worker = Worker::from_row(row).map_err(reading("the workers"))?;
            if workers.last().is_none_or(|last| last.id != worker.id) {
                workers.push(worker);
            }
            if let (Some(last), Some(running)) =
                (workers.last_mut(), Running::from_row(row).map_err(reading("the workers"))?)
            {
                last.running.push(running);
            }
        }
        Ok(workers)
    }
}
