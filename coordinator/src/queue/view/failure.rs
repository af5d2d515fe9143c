//! Failed attempts, grouped by signature.

use super::{Snapshot, ViewError, parse, reading};
use protocol::ids::JobId;
use protocol::outcome::FailureClass;
use serde::Serialize;
use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, Row};

/// Attempts that failed in the same way.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FailureGroup {
    pub class: FailureClass,
    pub message: String,
    pub attempts: u64,
    pub conditions: u64,
    pub last_at: i64,
    /// The job whose attempt failed last.
    pub last_job: JobId,
}

impl FailureGroup {
    /// Whether the cluster took the job back in good order, which asks nothing of anybody.
    pub fn is_routine(&self) -> bool {
        matches!(self.class, FailureClass::Drained | FailureClass::Preempted)
    }
}

impl FromRow<'_, SqliteRow> for FailureGroup {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            class: parse("class", row.try_get("class")?)?,
            message: row.try_get("message")?,
            attempts: row.try_get("attempts")?,
            conditions: row.try_get("conditions")?,
            last_at: row.try_get("last_at")?,
            last_job: JobId(row.try_get("last_job_id")?),
        })
    }
}

impl Snapshot {
    /// Jobs that failed for good, in all experiments.
    pub async fn failed_jobs(&mut self) -> Result<u64, ViewError> {
        sqlx::query_scalar("SELECT coalesce(sum(jobs), 0) FROM counter WHERE state = 'failed'")
            .fetch_one(&mut *self.tx)
            .await
            .map_err(reading("the number of failed jobs"))
    }

    /// Failed attempts by (class, message), the group that failed last first.
    pub async fn failures(&mut self) -> Result<Vec<FailureGroup>, ViewError> {
        // SQLite takes bare columns from the row of the only max().
        sqlx::query_as(
            "SELECT class, message, sum(attempts) AS attempts, count(*) AS conditions, max(last_at) AS last_at, last_job_id
             FROM failure GROUP BY class, message ORDER BY last_at DESC",
        )
        .fetch_all(&mut *self.tx)
        .await
        .map_err(reading("the failures"))
    }
}
