//! Every write to the job table, on one connection. A state changes only by [`apply`](crate::queue::state::apply), or, many
//! jobs at once, from the [`sources`](crate::queue::state::sources) that the table of transitions has for the event.
//!
//! [`submit`] adds jobs, [`need`] says which wait for others, [`lease`] hands them out and keeps them, [`close`] ends attempts,
//! [`operate`] does what people ask.

mod close;
mod lease;
mod need;
mod operate;
mod submit;

use crate::queue::clock::{Clock, Millis};
use crate::queue::error::QueueError;
use crate::queue::state::{Job, State, Step};
use crate::queue::{pace, share};
use protocol::claim::ClaimedCondition;
use protocol::ids::{ConditionId, Fence, JobId, WorkerId};
use protocol::outcome::{FailureClass, PhaseSeconds};
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Row};
use std::collections::HashMap;

pub(super) type Result<T> = std::result::Result<T, QueueError>;

/// The write connection and what goes with it.
#[derive(Debug)]
pub(super) struct Store {
    pub connection: SqliteConnection,
    pub clock: Clock,
    /// How long a claim or heartbeat keeps a job, milliseconds.
    pub lease: Millis,
    /// Whether a job may have become ready since this was last reset: wakes waiting claims after the commit.
    pub readied: bool,
    /// Specs that claims read lately.
    pub specs: HashMap<ConditionId, ClaimedCondition>,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy)]
enum Ending<'a> {
    Done {
        seconds: &'a PhaseSeconds,
    },
    Failed {
        class: FailureClass,
        message: &'a str,
        seconds: &'a PhaseSeconds,
    },
    /// Its worker did not say how; it took what the last heartbeat told.
    Lost {
        message: &'a str,
    },
}

impl Store {
    async fn job(&mut self, id: JobId) -> Result<Job> {
        let row = sqlx::query(
            "SELECT job.state, job.fence, job.attempts, job.max_attempts, job.losses, experiment.max_losses
             FROM job JOIN experiment ON experiment.id = job.experiment_id WHERE job.id = ?",
        )
        .bind(id.0)
        .fetch_optional(&mut self.connection)
        .await?
        .ok_or(QueueError::NoSuchJob(id))?;
        job_from(id, &row)
    }

    async fn require_worker(&mut self, worker: WorkerId) -> Result<()> {
        sqlx::query("SELECT 1 FROM worker WHERE id = ?")
            .bind(worker.0)
            .fetch_optional(&mut self.connection)
            .await?
            .map(|_| ())
            .ok_or(QueueError::UnknownWorker(worker))
    }

    /// Writes a step: compare-and-set on the state and fence that it started from.
    ///
    /// The `+` hides the state's parameter from the planner. It would look whether its value chooses a partial index, and so prepare the
    /// statement and all its triggers anew at every execution.
    async fn write(&mut self, id: JobId, from: &Job, step: &Step, holder: Option<WorkerId>) -> Result<()> {
        let now = self.clock.now();
        let changed = sqlx::query(
            "UPDATE job SET state = ?1, fence = ?2, attempts = ?3, max_attempts = ?4, not_before = ?5, worker_id = ?6,
                    lease_until = ?7, step = 0, steps = 0, computing_ms = 0, updated_at = ?8, losses = ?12
             WHERE id = ?9 AND state = +?10 AND fence = ?11",
        )
        .bind(step.job.state.as_str())
        .bind(step.job.fence.0)
        .bind(step.job.attempts)
        .bind(step.job.max_attempts)
        .bind(if step.wait > 0 { now + step.wait } else { 0 })
        .bind(holder.map(|worker| worker.0))
        .bind(holder.map(|_| now + self.lease))
        .bind(now)
        .bind(id.0)
        .bind(from.state.as_str())
        .bind(from.fence.0)
        .bind(step.job.losses)
        .execute(&mut self.connection)
        .await?
        .rows_affected();
        self.readied |= step.job.state == State::Ready;
        if changed == 1 {
            Ok(())
        } else {
            Err(corrupt(format!("job {id}"), "its state changed while it was being moved"))
        }
    }

    /// Ends a running attempt and puts right what its experiment was charged for it. Its job must still be running: the last
    /// heartbeat stands there.
    async fn close_attempt(&mut self, job: JobId, fence: Fence, ending: Ending<'_>, counted: bool) -> Result<()> {
        let nothing = PhaseSeconds::default();
        let (outcome, class, message, seconds) = match ending {
            Ending::Done { seconds } => ("done", None, None, seconds),
            Ending::Failed { class, message, seconds } => ("failed", Some(class.as_str()), Some(message), seconds),
            Ending::Lost { message } => ("failed", Some(FailureClass::Lost.as_str()), Some(message), &nothing),
        };
        let computing = match ending {
            Ending::Lost { .. } => None,
            _ => Some(seconds.computing()),
        };
        let closed = sqlx::query(
            "UPDATE attempt SET ended_at = max(started_at, ?1), outcome = ?2, class = ?3, message = ?4, counted = ?5,
                    loading_s = ?6, sampling_s = ?7, scoring_s = ?8, uploading_s = ?9, waiting_s = ?10,
                    device_s = max(coalesce(?11, (SELECT computing_ms / 1000.0 FROM job WHERE id = job_id)), 0)
                               / (SELECT slots FROM worker WHERE id = worker_id)
             WHERE job_id = ?12 AND fence = ?13 AND outcome = 'running'
             RETURNING worker_id, device_s, expected_s, (ended_at - started_at) / 1000.0 AS wall_s,
                 (SELECT experiment_id FROM job WHERE id = job_id) AS experiment,
                 (SELECT cost_s FROM job JOIN experiment ON experiment.id = experiment_id WHERE job.id = job_id) AS cost_s,
                 (SELECT device_name FROM worker WHERE id = worker_id) AS device_name,
                 (SELECT batch FROM worker WHERE id = worker_id) AS batch",
        )
        .bind(self.clock.now())
        .bind(outcome)
        .bind(class)
        .bind(message)
        .bind(counted)
        .bind(seconds.loading)
        .bind(seconds.sampling)
        .bind(seconds.scoring)
        .bind(seconds.uploading)
        .bind(seconds.waiting)
        .bind(computing)
        .bind(job.0)
        .bind(fence.0)
        .fetch_optional(&mut self.connection)
        .await?
        .ok_or_else(|| corrupt(format!("job {job}"), "its running attempt is not there"))?;
        let (device_s, wall_s): (f64, f64) = (closed.try_get("device_s")?, closed.try_get("wall_s")?);
        let surprise = device_s - closed.try_get::<f64, _>("expected_s")?;
        let (experiment, cost_s): (i64, f64) = (closed.try_get("experiment")?, closed.try_get("cost_s")?);
        let (device_name, batch): (String, u32) = (closed.try_get("device_name")?, closed.try_get("batch")?);
        let done = matches!(ending, Ending::Done { .. });
        // Any word of a worker shows that it is there; silence does not.
        let heard = if matches!(ending, Ending::Lost { .. }) { 0 } else { self.clock.now() };
        // A job may have been claimed ahead of its turn; from its beginning it takes at most a full batch's time.
        let took = wall_s.min(seconds.computing() * f64::from(batch) + seconds.uploading);
        sqlx::query(
            "UPDATE experiment SET virtual_time = virtual_time + ?2 / share, cost_s = ?3 WHERE id = ?1;
             UPDATE worker SET heartbeat_at = max(heartbeat_at, ?6) WHERE id = ?7;
             INSERT INTO pace (experiment_id, device_name, bucket, attempts) SELECT ?1, ?4, ?5, 1 WHERE ?5 IS NOT NULL
                 ON CONFLICT (experiment_id, device_name, bucket) DO UPDATE SET attempts = attempts + 1",
        )
        .bind(experiment)
        .bind(surprise)
        .bind(if done { share::expect(cost_s, device_s) } else { cost_s })
        .bind(device_name)
        .bind(done.then(|| pace::bucket(took)))
        .bind(heard)
        .bind(closed.try_get::<i64, _>("worker_id")?)
        .execute(&mut self.connection)
        .await?;
        Ok(())
    }

    /// Begins a transaction and a savepoint named `command` in it; returns [`Store::total_changes`].
    pub async fn begin(&mut self) -> Result<i64> {
        let begin = "BEGIN IMMEDIATE; SAVEPOINT command; SELECT total_changes()";
        Ok(sqlx::query_scalar(begin).fetch_one(&mut self.connection).await?)
    }

    /// Rows that this connection has changed since it was opened.
    pub async fn total_changes(&mut self) -> Result<i64> {
        Ok(sqlx::query_scalar("SELECT total_changes()").fetch_one(&mut self.connection).await?)
    }

    pub async fn execute(&mut self, sql: &'static str) -> Result<()> {
        sqlx::query(sql).execute(&mut self.connection).await?;
        Ok(())
    }
}

/// The columns of [`Store::job`].
fn job_from(id: JobId, row: &SqliteRow) -> Result<Job> {
    Ok(Job {
        state: parse_state(id, row)?,
        fence: Fence(row.try_get("fence")?),
        attempts: row.try_get("attempts")?,
        max_attempts: row.try_get("max_attempts")?,
        losses: row.try_get("losses")?,
        max_losses: row.try_get("max_losses")?,
    })
}

fn parse_state(id: JobId, row: &SqliteRow) -> Result<State> {
    let text: &str = row.try_get("state")?;
    text.parse().map_err(|error| corrupt(format!("job {id}"), error))
}

fn corrupt(what: impl Into<String>, problem: impl ToString) -> QueueError {
    QueueError::Corrupt { what: what.into(), problem: problem.to_string() }
}

/// A JSON array for `json_each`, which is how a list becomes a parameter.
fn json_list<T: serde::Serialize>(items: impl IntoIterator<Item = T>) -> Result<String> {
    let items: Vec<T> = items.into_iter().collect();
    serde_json::to_string(&items).map_err(|error| corrupt("a list", error))
}

/// Builds a statement from constant fragments of this module.
fn fragments(sql: String) -> AssertSqlSafe<String> {
    AssertSqlSafe(sql)
}
