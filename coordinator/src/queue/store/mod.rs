//! Every write to the job table, on one connection. A state changes only by [`apply`](crate::queue::state::apply), or, many
//! jobs at once, from the [`sources`](crate::queue::state::sources) that the table of transitions has for the event.
//!
//! [`submit`] adds jobs, [`lease`] hands them out and keeps them, [`close`] ends attempts, [`operate`] does what people ask.

mod close;
mod lease;
mod operate;
mod submit;

use crate::queue::clock::{Clock, Millis};
use crate::queue::error::QueueError;
use crate::queue::state::{Job, State, Step};
use protocol::ids::{Fence, JobId, WorkerId};
use protocol::outcome::{FailureClass, PhaseSeconds};
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Row};

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
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy)]
enum Ending<'a> {
    Done,
    Failed { class: FailureClass, message: &'a str },
}

impl Store {
    async fn job(&mut self, id: JobId) -> Result<Job> {
        let row = sqlx::query("SELECT state, fence, attempts, max_attempts FROM job WHERE id = ?")
            .bind(id.0)
            .fetch_optional(&mut self.connection)
            .await?
            .ok_or(QueueError::NoSuchJob(id))?;
        Ok(Job {
            state: parse_state(id, &row)?,
            fence: Fence(row.try_get("fence")?),
            attempts: row.try_get("attempts")?,
            max_attempts: row.try_get("max_attempts")?,
        })
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
    async fn write(&mut self, id: JobId, from: &Job, step: &Step, holder: Option<WorkerId>) -> Result<()> {
        let now = self.clock.now();
        let changed = sqlx::query(
            "UPDATE job SET state = ?1, fence = ?2, attempts = ?3, max_attempts = ?4, not_before = ?5, worker_id = ?6,
                    lease_until = ?7, step = 0, steps = 0, updated_at = ?8
             WHERE id = ?9 AND state = ?10 AND fence = ?11",
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

    async fn close_attempt(
        &mut self,
        job: JobId,
        fence: Fence,
        ending: Ending<'_>,
        counted: bool,
        seconds: &PhaseSeconds,
    ) -> Result<()> {
        let (outcome, class, message) = match ending {
            Ending::Done => ("done", None, None),
            Ending::Failed { class, message } => ("failed", Some(class.as_str()), Some(message)),
        };
        let closed = sqlx::query(
            "UPDATE attempt SET ended_at = max(started_at, ?1), outcome = ?2, class = ?3, message = ?4, counted = ?5,
                    loading_s = ?6, sampling_s = ?7, scoring_s = ?8, uploading_s = ?9
             WHERE job_id = ?10 AND fence = ?11 AND outcome = 'running'",
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
        .bind(job.0)
        .bind(fence.0)
        .execute(&mut self.connection)
        .await?
        .rows_affected();
        if closed == 1 { Ok(()) } else { Err(corrupt(format!("job {job}"), "its running attempt is not there")) }
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
