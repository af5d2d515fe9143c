//! Workers come, take jobs under a lease, keep them by heartbeats, and lose them by silence.

use super::{Ending, Result, Store, corrupt};
use crate::queue::clock::Millis;
use crate::queue::state::{Event, apply};
use protocol::claim::{Claim, Claimed, ClaimedJob, Register};
use protocol::heartbeat::{Activity, Heartbeat, HeartbeatReply};
use protocol::ids::{ConditionId, Fence, JobId, Seed, WorkerId};
use protocol::outcome::{FailureClass, PhaseSeconds};
use sqlx::Row;
use std::collections::{BTreeSet, HashSet};

/// Jobs that one claim can get at most.
const MAX_CLAIM: u32 = 256;
/// Loaded conditions that a claim looks at.
const MAX_LOADED: usize = 64;

/// The answer to a claim, and when a back-off ends if there was nothing to claim.
#[derive(Debug)]
pub struct Handed {
    pub claimed: Claimed,
    pub next_ready: Option<Millis>,
}

impl Store {
    /// The first number of a database is drawn at random: a worker of a database that was replaced must not pass for one of
    /// its successor, where its results would count for other jobs.
    pub async fn register(&mut self, worker: &Register) -> Result<WorkerId> {
        let first = 1_000 * rand::random_range(1..=1_000_000_i64);
        let id = sqlx::query_scalar(
            "INSERT INTO worker (id, name, host, pid, device, device_name, slots, software, activity, registered_at, heartbeat_at)
             VALUES (coalesce((SELECT max(id) + 1 FROM worker), ?9), ?1, ?2, ?3, ?4, ?5, ?6, ?7, 'working', ?8, ?8)
             RETURNING id",
        )
        .bind(&worker.name)
        .bind(&worker.host)
        .bind(worker.pid)
        .bind(&worker.device)
        .bind(&worker.device_name)
        .bind(worker.slots.max(1))
        .bind(&worker.software)
        .bind(self.clock.now())
        .bind(first)
        .fetch_one(&mut self.connection)
        .await?;
        Ok(WorkerId(id))
    }

    /// Hands out ready jobs: highest priority first, then conditions that the worker has loaded, then the oldest job. A claim
    /// that still waits when its worker drains gets nothing: nobody would read the answer.
    pub async fn claim(&mut self, claim: &Claim) -> Result<Handed> {
        self.require_worker(claim.worker).await?;
        let (device, leaves): (String, bool) =
            sqlx::query_as("SELECT device, activity IN ('draining', 'gone') FROM worker WHERE id = ?")
                .bind(claim.worker.0)
                .fetch_one(&mut self.connection)
                .await?;
        if leaves {
            return Ok(Handed { claimed: Claimed::default(), next_ready: None });
        }
        let mut claimed = Claimed::default();
        let mut conditions = BTreeSet::new();
        for id in self.choose(claim).await? {
            let job = self.hand_out(id, claim.worker, &device).await?;
            conditions.insert(job.condition);
            claimed.jobs.push(job);
        }
        for id in conditions {
            let spec: String = sqlx::query_scalar("SELECT spec FROM condition WHERE id = ?")
                .bind(id.0)
                .fetch_one(&mut self.connection)
                .await?;
            let condition = serde_json::from_str(&spec).map_err(|error| corrupt(format!("condition {id}"), error))?;
            claimed.conditions.push((id, condition));
        }
        let next_ready = if claimed.jobs.is_empty() { self.next_backoff_end().await? } else { None };
        Ok(Handed { claimed, next_ready })
    }

    /// Walks down the priorities; each query is answered from an index.
    async fn choose(&mut self, claim: &Claim) -> Result<Vec<JobId>> {
        let now = self.clock.now();
        let max = claim.max.min(MAX_CLAIM) as usize;
        let (mut chosen, mut seen) = (Vec::new(), HashSet::new());
        let mut below = i64::MAX;
        while chosen.len() < max {
            let highest: Option<i64> = sqlx::query_scalar(
                "SELECT priority FROM job WHERE state = 'ready' AND priority < ? AND not_before <= ?
                 ORDER BY priority DESC, id LIMIT 1",
            )
            .bind(below)
            .bind(now)
            .fetch_optional(&mut self.connection)
            .await?;
            let Some(priority) = highest else { break };
            below = priority;
            for condition in claim.loaded.iter().take(MAX_LOADED) {
                let same: Vec<i64> = sqlx::query_scalar(
                    "SELECT id FROM job INDEXED BY job_by_state
                     WHERE condition_id = ? AND state = 'ready' AND priority = ? AND not_before <= ? ORDER BY id LIMIT ?",
                )
                .bind(condition.0)
                .bind(priority)
                .bind(now)
                .bind(max as i64)
                .fetch_all(&mut self.connection)
                .await?;
                chosen.extend(same.into_iter().filter(|id| seen.insert(*id)).map(JobId));
            }
            let oldest: Vec<i64> = sqlx::query_scalar(
                "SELECT id FROM job WHERE state = 'ready' AND priority = ? AND not_before <= ? ORDER BY id LIMIT ?",
            )
            .bind(priority)
            .bind(now)
            .bind(max as i64)
            .fetch_all(&mut self.connection)
            .await?;
            chosen.extend(oldest.into_iter().filter(|id| seen.insert(*id)).map(JobId));
        }
        chosen.truncate(max);
        Ok(chosen)
    }

    async fn hand_out(&mut self, id: JobId, worker: WorkerId, device: &str) -> Result<ClaimedJob> {
        let job = self.job(id).await?;
        let step =
            apply(job, Event::Claim).map_err(|_| corrupt(format!("job {id}"), "it is not ready to be claimed"))?;
        self.write(id, &job, &step, Some(worker)).await?;
        let fence = step.job.fence;
        sqlx::query(
            "INSERT INTO attempt (job_id, fence, worker_id, device, started_at, outcome) VALUES (?, ?, ?, ?, ?, 'running')",
        )
        .bind(id.0)
        .bind(fence.0)
        .bind(worker.0)
        .bind(device)
        .bind(self.clock.now())
        .execute(&mut self.connection)
        .await?;
        let row = sqlx::query("SELECT condition_id, seed FROM job WHERE id = ?")
            .bind(id.0)
            .fetch_one(&mut self.connection)
            .await?;
        Ok(ClaimedJob {
            job: id,
            fence,
            // Every claim is one attempt and one step of the fence.
            attempt: u32::try_from(fence.0).unwrap_or(u32::MAX),
            condition: ConditionId(row.try_get("condition_id")?),
            seed: Seed(row.try_get::<i64, _>("seed")?.cast_unsigned()),
        })
    }

    async fn next_backoff_end(&mut self) -> Result<Option<Millis>> {
        let next = sqlx::query_scalar(
            "SELECT min(not_before) FROM job WHERE state = 'ready' AND not_before > 0 AND not_before > ?",
        )
        .bind(self.clock.now())
        .fetch_one(&mut self.connection)
        .await?;
        Ok(next)
    }

    /// Renews what the worker lists and still holds. A worker that is gone gives back whatever the table thinks it holds:
    /// the answer to a claim may have been lost on its way.
    pub async fn heartbeat(&mut self, beat: &Heartbeat) -> Result<HeartbeatReply> {
        self.require_worker(beat.worker).await?;
        let activity = match beat.activity {
            Activity::Working => "working",
            Activity::Draining => "draining",
            Activity::Gone => "gone",
        };
        let now = self.clock.now();
        sqlx::query("UPDATE worker SET activity = ?, heartbeat_at = ? WHERE id = ?")
            .bind(activity)
            .bind(now)
            .bind(beat.worker.0)
            .execute(&mut self.connection)
            .await?;
        let mut reply = HeartbeatReply::default();
        for held in &beat.held {
            let renewed = sqlx::query(
                "UPDATE job SET lease_until = ?, step = ?, steps = ?
                 WHERE id = ? AND fence = ? AND worker_id = ? AND state = 'running'",
            )
            .bind(now + self.lease)
            .bind(held.progress.step)
            .bind(held.progress.steps)
            .bind(held.job.0)
            .bind(held.fence.0)
            .bind(beat.worker.0)
            .execute(&mut self.connection)
            .await?
            .rows_affected();
            if renewed == 0 {
                let ended: Option<(String, Option<String>)> = sqlx::query_as(
                    "SELECT outcome, class FROM attempt WHERE job_id = ? AND fence = ? AND worker_id = ?",
                )
                .bind(held.job.0)
                .bind(held.fence.0)
                .bind(beat.worker.0)
                .fetch_optional(&mut self.connection)
                .await?;
                match ended.as_ref().map(|(outcome, class)| (outcome.as_str(), class.as_deref())) {
                    Some(("cancelled", _)) => reply.cancelled.push(held.job),
                    // The worker's own message closed the attempt while this heartbeat was on its way.
                    Some(("done", _)) => {}
                    Some(("failed", Some(class))) if class != FailureClass::Lost.as_str() => {}
                    _ => reply.lost.push(held.job),
                }
            }
        }
        if beat.activity == Activity::Gone {
            let held = sqlx::query_as("SELECT id, fence FROM job WHERE state = 'running' AND worker_id = ?")
                .bind(beat.worker.0)
                .fetch_all(&mut self.connection)
                .await?;
            self.lose(held, "the worker left without giving the job back").await?;
        }
        Ok(reply)
    }

    /// Closes the attempts whose lease has run out as `lost`, and marks workers that went silent. Returns the jobs given back.
    pub async fn expire(&mut self) -> Result<Vec<JobId>> {
        let now = self.clock.now();
        let expired = sqlx::query_as(
            "SELECT id, fence FROM job WHERE state = 'running' AND lease_until <= ? ORDER BY lease_until, id",
        )
        .bind(now)
        .fetch_all(&mut self.connection)
        .await?;
        let lost = self.lose(expired, "the worker did not renew its lease").await?;
        sqlx::query(
            "UPDATE worker SET activity = 'silent' WHERE activity IN ('working', 'draining') AND heartbeat_at <= ?",
        )
        .bind(now - self.lease)
        .execute(&mut self.connection)
        .await?;
        Ok(lost)
    }

    async fn lose(&mut self, held: Vec<(i64, i64)>, message: &str) -> Result<Vec<JobId>> {
        let mut lost = Vec::with_capacity(held.len());
        for (job, fence) in held {
            let (job, fence) = (JobId(job), Fence(fence));
            let from = self.job(job).await?;
            let event = Event::Fail { fence, class: FailureClass::Lost, repeated: false, jitter: 0.0 };
            let Ok(step) = apply(from, event) else { continue };
            self.write(job, &from, &step, None).await?;
            let ending = Ending::Failed { class: FailureClass::Lost, message };
            self.close_attempt(job, fence, ending, step.counts(), &PhaseSeconds::default()).await?;
            lost.push(job);
        }
        Ok(lost)
    }

    /// Gives every running job exactly one full lease: while nobody served, no worker could renew, and its silence proves
    /// nothing; and a lease that another setting or another clock wrote may end in years.
    pub async fn renew_all_leases(&mut self) -> Result<()> {
        sqlx::query("UPDATE job SET lease_until = ?1 WHERE state = 'running'")
            .bind(self.clock.now() + self.lease)
            .execute(&mut self.connection)
            .await?;
        Ok(())
    }
}
