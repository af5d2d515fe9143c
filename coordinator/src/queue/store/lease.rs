//! Workers come, take jobs under a lease, keep them by heartbeats, and lose them by silence.

use super::{Ending, Result, Store, corrupt, json_list};
use crate::queue::clock::Millis;
use crate::queue::error::QueueError;
use crate::queue::pace;
#[cfg(doc)]
use crate::queue::share;
use crate::queue::state::{Event, Job, State, apply};
use protocol::claim::{Claim, Claimed, ClaimedCondition, ClaimedJob, Never, Register};
use protocol::heartbeat::{Activity, Heartbeat, HeartbeatReply};
use protocol::ids::{ConditionId, Fence, JobId, Seed, WorkerId};
use protocol::job::{Condition, Precision};
use protocol::outcome::FailureClass;
use sqlx::Row;
use std::collections::HashSet;

/// Jobs that one claim can get at most.
const MAX_CLAIM: u32 = 256;
/// Specs that are kept in memory.
const MAX_SPECS: usize = 256;
/// Loaded conditions that a claim looks at.
const MAX_LOADED: usize = 64;

/// The answer to a claim, and when a back-off ends if there was nothing to claim.
#[derive(Debug, Default)]
pub struct Handed {
    pub claimed: Claimed,
    pub next_ready: Option<Millis>,
}

impl Handed {
    fn never(why: Never) -> Self {
        Self { claimed: Claimed { never: Some(why), ..Claimed::default() }, next_ready: None }
    }
}

/// Who claims.
#[derive(Debug)]
struct Claimant {
    device: String,
    device_name: String,
    /// A JSON list.
    kinds: String,
    precisions: Vec<Precision>,
    /// Why its device gets nothing.
    quarantine: Option<String>,
}

/// An experiment that may be served.
#[derive(Debug, sqlx::FromRow)]
struct Turn {
    id: i64,
    share: f64,
    cost_s: f64,
}

/// A job that can be claimed.
#[derive(Debug, sqlx::FromRow)]
struct Ready {
    id: i64,
    condition_id: i64,
    seed: i64,
    fence: i64,
    attempts: u32,
    max_attempts: u32,
    losses: u32,
}

impl Store {
    /// The first number of a database is drawn at random: a worker of a database that was replaced must not pass for one of
    /// its successor, where its results would count for other jobs.
    pub async fn register(&mut self, worker: &Register) -> Result<WorkerId> {
        let first = 1_000 * rand::random_range(1..=1_000_000_i64);
        let now = self.clock.now();
        let key = worker.device_uuid.clone().unwrap_or_else(|| format!("{}/{}", worker.host, worker.device));
        let kinds = serde_json::to_string(&worker.kinds).map_err(|error| corrupt("a worker's kinds", error))?;
        let precisions =
            serde_json::to_string(&worker.precisions).map_err(|error| corrupt("a worker's precisions", error))?;
        let id = sqlx::query_scalar(
            "INSERT INTO worker (id, name, host, pid, device, device_name, device_key, slots, batch, kinds, deadline_at, software,
                                 activity, registered_at, heartbeat_at, precisions)
             VALUES (coalesce((SELECT max(id) + 1 FROM worker), ?13), ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, 'working', ?12, ?12, ?14)
             RETURNING id",
        )
        .bind(&worker.name)
        .bind(&worker.host)
        .bind(worker.pid)
        .bind(&worker.device)
        .bind(&worker.device_name)
        .bind(key)
        .bind(worker.slots.max(1))
        .bind(worker.batch.max(1))
        .bind(kinds)
        .bind(worker.remaining_ms.map(|left| now.saturating_add_unsigned(left)))
        .bind(&worker.software)
        .bind(now)
        .bind(first)
        .bind(precisions)
        .fetch_one(&mut self.connection)
        .await?;
        Ok(WorkerId(id))
    }

    /// Hands out ready jobs of kinds and in precisions that the worker can do: highest priority first, then the experiment whose turn it is (see
    /// [`share`]), then conditions that the worker has loaded, then the oldest job. A claim that still waits when its worker
    /// drains gets nothing: nobody would read the answer.
    pub async fn claim(&mut self, claim: &Claim) -> Result<Handed> {
        let Some(claimant) = self.claimant(claim.worker).await? else { return Ok(Handed::default()) };
        if let Some(reason) = claimant.quarantine {
            return Ok(Handed::never(Never::Quarantined(reason)));
        }
        if let Some(batch) = claim.batch {
            sqlx::query("UPDATE worker SET batch = ?1 WHERE id = ?2 AND batch <> ?1")
                .bind(batch.max(1))
                .bind(claim.worker.0)
                .execute(&mut self.connection)
                .await?;
        }
        if claim.ahead && !self.plenty().await? {
            return Ok(Handed { next_ready: self.next_backoff_end().await?, ..Handed::default() });
        }
        let max = claim.max.min(MAX_CLAIM) as usize;
        let mut handed = Handed::default();
        let mut too_late = false;
        for turn in self.turns(&claimant.kinds).await? {
            if handed.claimed.jobs.len() == max {
                break;
            }
            let ready = self.ready(&turn, &claim.loaded, &claimant.precisions, max - handed.claimed.jobs.len()).await?;
            if ready.is_empty() {
                continue;
            }
            if !self.fits(&turn, &claimant.device_name, claim).await? {
                too_late = true;
                continue;
            }
            self.hand_out(&turn, ready, claim.worker, &claimant.device, &mut handed.claimed).await?;
        }
        if handed.claimed.jobs.is_empty() {
            if too_late && !claim.ahead {
                return Ok(Handed::never(Never::Deadline));
            }
            handed.next_ready = self.next_backoff_end().await?;
        }
        Ok(handed)
    }

    /// What of a worker decides what it gets; `None` if it leaves.
    async fn claimant(&mut self, worker: WorkerId) -> Result<Option<Claimant>> {
        let row = sqlx::query(
            "SELECT device, device_name, kinds, precisions, activity IN ('draining', 'gone') AS leaves,
                    (SELECT reason FROM quarantine WHERE quarantine.device_key = worker.device_key) AS quarantine
             FROM worker WHERE id = ?",
        )
        .bind(worker.0)
        .fetch_optional(&mut self.connection)
        .await?
        .ok_or(QueueError::UnknownWorker(worker))?;
        if row.try_get("leaves")? {
            return Ok(None);
        }
        Ok(Some(Claimant {
            device: row.try_get("device")?,
            device_name: row.try_get("device_name")?,
            kinds: row.try_get("kinds")?,
            precisions: serde_json::from_str(row.try_get("precisions")?)
                .map_err(|error| corrupt("a worker's precisions", error))?,
            quarantine: row.try_get("quarantine")?,
        }))
    }

    /// Whether there are more jobs than workers could begin at once.
    async fn plenty(&mut self) -> Result<bool> {
        let at_once: i64 =
            sqlx::query_scalar("SELECT coalesce(sum(slots * batch), 0) FROM worker WHERE activity = 'working'")
                .fetch_one(&mut self.connection)
                .await?;
        let ready: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM (
                 SELECT 1 FROM experiment CROSS JOIN job INDEXED BY job_ready
                     ON job.experiment_id = experiment.id AND job.state = 'ready' AND job.not_before <= ?1
                 WHERE experiment.paused = 0 LIMIT ?2)",
        )
        .bind(self.clock.now())
        .bind(at_once + 1)
        .fetch_one(&mut self.connection)
        .await?;
        Ok(ready > at_once)
    }

    /// The experiments of these kinds (a JSON list) in the order in which they are served.
    async fn turns(&mut self, kinds: &str) -> Result<Vec<Turn>> {
        Ok(sqlx::query_as(
            "SELECT id, share, cost_s FROM experiment
             WHERE paused = 0 AND kind IN (SELECT value FROM json_each(?1)) ORDER BY priority DESC, virtual_time, id",
        )
        .bind(kinds)
        .fetch_all(&mut self.connection)
        .await?)
    }

    /// Whether some of the experiment's conditions are in one of these precisions.
    async fn has_conditions_in(&mut self, turn: &Turn, precisions: &[Precision]) -> Result<bool> {
        if precisions.is_empty() {
            return Ok(false);
        }
        Ok(sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM condition INDEXED BY condition_by_precision
                            WHERE experiment_id = ?1 AND precision IN (SELECT value FROM json_each(?2)))",
        )
        .bind(turn.id)
        .bind(json_list(precisions)?)
        .fetch_one(&mut self.connection)
        .await?)
    }

    /// Up to `max` jobs of an experiment that can be claimed now, of conditions in these precisions. Each part of the query is answered
    /// from an index, without looking at jobs that it leaves.
    async fn ready(
        &mut self,
        turn: &Turn,
        loaded: &[ConditionId],
        precisions: &[Precision],
        max: usize,
    ) -> Result<Vec<Ready>> {
        let lacking: Vec<_> = Precision::ALL.into_iter().filter(|precision| !precisions.contains(precision)).collect();
        let every_condition = !self.has_conditions_in(turn, &lacking).await?;
        let mut chosen: Vec<Ready> = sqlx::query_as(
            "SELECT id, condition_id, seed, fence, attempts, max_attempts, losses FROM (
                 -- Conditions whose models are in memory, best first.
                 SELECT * FROM (
                     SELECT job.*, 1 AS part, loaded.key AS place
                     FROM json_each(?4) AS loaded CROSS JOIN job INDEXED BY job_by_state
                         ON job.condition_id = loaded.value AND job.state = 'ready'
                     WHERE job.experiment_id = ?1 AND job.not_before <= ?2 ORDER BY loaded.key, job.id LIMIT ?3)
                 UNION ALL
                 -- What comes back from a back-off, so that people see soon whether it fails again.
                 SELECT * FROM (
                     SELECT job.*, 2 AS part, not_before AS place FROM job INDEXED BY job_ready
                     WHERE ?5 AND experiment_id = ?1 AND state = 'ready' AND not_before > 0 AND not_before <= ?2
                     ORDER BY not_before, id LIMIT ?3)
                 UNION ALL
                 SELECT * FROM (
                     SELECT job.*, 3 AS part, 0 AS place FROM job INDEXED BY job_ready
                     WHERE ?5 AND experiment_id = ?1 AND state = 'ready' AND not_before = 0 ORDER BY id LIMIT ?3)
                 UNION ALL
                 -- Where the device does not compute every condition: any jobs of those that it does, so that nothing is sorted.
                 SELECT * FROM (
                     SELECT job.*, 2 AS part, job.not_before AS place
                     FROM json_each(?6) AS computed CROSS JOIN condition INDEXED BY condition_by_precision
                         ON condition.experiment_id = ?1 AND condition.precision = computed.value
                     CROSS JOIN job INDEXED BY job_by_state ON job.condition_id = condition.id AND job.state = 'ready'
                     WHERE NOT ?5 AND job.not_before <= ?2 LIMIT ?3)
             ) ORDER BY part, place, id",
        )
        .bind(turn.id)
        .bind(self.clock.now())
        .bind(max as i64)
        .bind(json_list(loaded.iter().take(MAX_LOADED))?)
        .bind(every_condition)
        .bind(json_list(precisions)?)
        .fetch_all(&mut self.connection)
        .await?;
        let mut known = HashSet::new();
        chosen.retain(|job| known.insert(job.id));
        chosen.truncate(max);
        Ok(chosen)
    }

    /// Whether a job of the experiment would be done before the worker's allocation ends. Nobody knows before the first is. What is
    /// claimed ahead begins only after what runs now.
    async fn fits(&mut self, turn: &Turn, device_name: &str, claim: &Claim) -> Result<bool> {
        let Some(remaining) = claim.remaining_ms else { return Ok(true) };
        let jobs = if claim.ahead { 2.0 } else { 1.0 };
        let histogram: Vec<(i64, i64)> = sqlx::query_as(
            "SELECT bucket, attempts FROM pace WHERE experiment_id = ? AND device_name = ? ORDER BY bucket",
        )
        .bind(turn.id)
        .bind(device_name)
        .fetch_all(&mut self.connection)
        .await?;
        Ok(pace::p95(&histogram).is_none_or(|seconds| jobs * seconds * 1000.0 <= remaining as f64))
    }

    /// Claims `ready` jobs of one experiment. Jobs of a condition that cannot be read are blocked instead, so that they stand in
    /// nobody's way.
    async fn hand_out(
        &mut self,
        turn: &Turn,
        ready: Vec<Ready>,
        worker: WorkerId,
        device: &str,
        claimed: &mut Claimed,
    ) -> Result<()> {
        let now = self.clock.now();
        let before = claimed.jobs.len();
        for job in ready {
            let (id, condition) = (JobId(job.id), ConditionId(job.condition_id));
            let known = claimed.conditions.iter().position(|known| known.id == condition);
            let place = match known {
                Some(place) => place,
                None => {
                    let Some(spec) = self.spec(condition).await? else {
                        self.open_breaker(condition).await?;
                        continue;
                    };
                    claimed.conditions.push(spec);
                    claimed.conditions.len() - 1
                }
            };
            let image = match &claimed.conditions[place].spec {
                Condition::Score(_) => match self.image_to_score(condition, job.seed).await? {
                    Some(image) => Some(image),
                    None => {
                        tracing::error!(job = %id, "there is no image that the job could score; its condition's jobs are blocked");
                        self.open_breaker(condition).await?;
                        continue;
                    }
                },
                _ => None,
            };
            // A claim asks nothing of the losses' limit.
            let from = Job {
                state: State::Ready,
                fence: Fence(job.fence),
                attempts: job.attempts,
                max_attempts: job.max_attempts,
                losses: job.losses,
                max_losses: u32::MAX,
            };
            let step =
                apply(from, Event::Claim).map_err(|_| corrupt(format!("job {id}"), "it is not ready to be claimed"))?;
            self.write(id, &from, &step, Some(worker)).await?;
            let fence = step.job.fence;
            sqlx::query(
                "INSERT INTO attempt (job_id, fence, worker_id, device, started_at, expected_s, outcome)
                 VALUES (?, ?, ?, ?, ?, ?, 'running')",
            )
            .bind(id.0)
            .bind(fence.0)
            .bind(worker.0)
            .bind(device)
            .bind(now)
            .bind(turn.cost_s)
            .execute(&mut self.connection)
            .await?;
            claimed.jobs.push(ClaimedJob {
                job: id,
                fence,
                // Every claim is one attempt and one step of the fence.
                attempt: u32::try_from(fence.0).unwrap_or(u32::MAX),
                condition,
                seed: Seed(job.seed.cast_unsigned()),
                image,
            });
        }
        let jobs = claimed.jobs.len() - before;
        sqlx::query(
            "UPDATE worker SET heartbeat_at = max(heartbeat_at, ?1) WHERE id = ?2;
             UPDATE experiment SET virtual_time = virtual_time + ?3 WHERE id = ?4",
        )
        .bind(now)
        .bind(worker.0)
        .bind(turn.cost_s * jobs as f64 / turn.share)
        .bind(turn.id)
        .execute(&mut self.connection)
        .await?;
        Ok(())
    }

    /// A condition with its spec; `None` if that is not one of this version's.
    async fn spec(&mut self, id: ConditionId) -> Result<Option<ClaimedCondition>> {
        if let Some(condition) = self.specs.get(&id) {
            return Ok(Some(condition.clone()));
        }
        let (key, spec): (String, String) = sqlx::query_as("SELECT key, spec FROM condition WHERE id = ?")
            .bind(id.0)
            .fetch_one(&mut self.connection)
            .await?;
        let key = key.parse().map_err(|error| corrupt(format!("condition {id}"), error))?;
        match serde_json::from_str::<Condition>(&spec) {
            Ok(spec) => {
                if self.specs.len() == MAX_SPECS {
                    self.specs.clear();
                }
                let condition = ClaimedCondition { id, key, spec };
                self.specs.insert(id, condition.clone());
                Ok(Some(condition))
            }
            Err(error) => {
                tracing::error!(condition = %id, %error, "a condition's spec cannot be read; its jobs are blocked");
                Ok(None)
            }
        }
    }

    async fn next_backoff_end(&mut self) -> Result<Option<Millis>> {
        let next = sqlx::query_scalar(
            "SELECT min((SELECT min(not_before) FROM job INDEXED BY job_ready
                         WHERE experiment_id = experiment.id AND state = 'ready' AND not_before > ?))
             FROM experiment WHERE paused = 0",
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
        sqlx::query("UPDATE worker SET activity = ?, heartbeat_at = max(heartbeat_at, ?) WHERE id = ?")
            .bind(activity)
            .bind(now)
            .bind(beat.worker.0)
            .execute(&mut self.connection)
            .await?;
        let mut reply = HeartbeatReply::default();
        for held in &beat.held {
            let renewed = sqlx::query(
                "UPDATE job SET lease_until = ?, step = ?, steps = ?, computing_ms = ?
                 WHERE id = ? AND fence = ? AND worker_id = ? AND state = 'running'",
            )
            .bind(now + self.lease)
            .bind(held.progress.step)
            .bind(held.progress.steps)
            .bind(held.computing_ms.cast_signed().max(0))
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
            self.close_attempt(job, fence, Ending::Lost { message }, step.counts()).await?;
            self.write(job, &from, &step, None).await?;
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
