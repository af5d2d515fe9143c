//! Jobs: a filtered list, and one job with its attempts and its result.

use super::{Axes, Snapshot, State, ViewError, parse, reading, undecodable};
use crate::queue::filter::{self, Filter};
use protocol::ids::{AttemptId, ConditionId, ExperimentId, Fence, JobId, Seed};
use protocol::outcome::{FailureClass, JobResult, PhaseSeconds};
use serde::Serialize;
use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, QueryBuilder, Row};

/// A job and where it stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Job {
    pub id: JobId,
    pub experiment: String,
    #[serde(skip)]
    pub experiment_id: ExperimentId,
    pub condition: ConditionId,
    pub subject: String,
    pub region: String,
    pub axes: Axes,
    pub seed: Seed,
    pub state: State,
    pub priority: i32,
    /// Attempts that count against `max_attempts`.
    pub attempts: u32,
    pub max_attempts: u32,
    /// No claim before this time.
    pub not_before: i64,
    /// Name of the worker that holds the job.
    pub worker: Option<String>,
    pub lease_until: Option<i64>,
    pub step: u32,
    pub steps: u32,
    pub updated_at: i64,
}

impl FromRow<'_, SqliteRow> for Job {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: JobId(row.try_get("id")?),
            experiment: row.try_get("experiment")?,
            experiment_id: ExperimentId(row.try_get("experiment_id")?),
            condition: ConditionId(row.try_get("condition_id")?),
            subject: row.try_get("subject")?,
            region: row.try_get("region")?,
            axes: Axes::from_column(row)?,
            seed: Seed(row.try_get::<i64, _>("seed")?.cast_unsigned()),
            state: parse("state", row.try_get("state")?)?,
            priority: row.try_get("priority")?,
            attempts: row.try_get("attempts")?,
            max_attempts: row.try_get("max_attempts")?,
            not_before: row.try_get("not_before")?,
            worker: row.try_get("worker")?,
            lease_until: row.try_get("lease_until")?,
            step: row.try_get("step")?,
            steps: row.try_get("steps")?,
            updated_at: row.try_get("updated_at")?,
        })
    }
}

/// One try at a job.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Attempt {
    pub id: AttemptId,
    pub fence: Fence,
    /// Name of the worker.
    pub worker: String,
    pub device: String,
    pub started_at: i64,
    /// `None` while it runs.
    pub ended_at: Option<i64>,
    /// `running`, `done`, `failed` or `cancelled`.
    pub outcome: String,
    pub class: Option<FailureClass>,
    pub message: Option<String>,
    /// Whether it counts against the job's attempts.
    pub counted: bool,
    pub seconds: PhaseSeconds,
}

impl FromRow<'_, SqliteRow> for Attempt {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        let class: Option<&str> = row.try_get("class")?;
        Ok(Self {
            id: AttemptId(row.try_get("id")?),
            fence: Fence(row.try_get("fence")?),
            worker: row.try_get("worker")?,
            device: row.try_get("device")?,
            started_at: row.try_get("started_at")?,
            ended_at: row.try_get("ended_at")?,
            outcome: row.try_get("outcome")?,
            class: class.map(|class| parse("class", class)).transpose()?,
            message: row.try_get("message")?,
            counted: row.try_get("counted")?,
            seconds: PhaseSeconds {
                waiting: row.try_get("waiting_s")?,
                loading: row.try_get("loading_s")?,
                sampling: row.try_get("sampling_s")?,
                scoring: row.try_get("scoring_s")?,
                uploading: row.try_get("uploading_s")?,
            },
        })
    }
}

/// A job with everything that happened to it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JobDetail {
    pub job: Job,
    /// Oldest first.
    pub attempts: Vec<Attempt>,
    /// The result that counts.
    pub result: Option<JobResult>,
    /// Results that came with an old fence and never count.
    pub superseded: u64,
    /// The condition's spec, [`protocol::job::Condition`], as JSON.
    pub spec: serde_json::Value,
}

/// A page of the list of jobs.
#[derive(Debug, Clone, Default)]
pub struct JobPage {
    pub filter: Filter,
    /// Go on after this job.
    pub after: Option<JobId>,
    pub limit: u32,
}

/// The columns of a [`Job`].
macro_rules! columns {
    () => {
        "SELECT job.id, experiment.name AS experiment, job.condition_id, condition.subject, condition.region,
                condition.axes, job.seed, job.state, job.experiment_id, experiment.priority, job.attempts,
                job.max_attempts, job.not_before, worker.name AS worker, job.lease_until, job.step, job.steps, job.updated_at "
    };
}

impl Snapshot {
    /// Jobs by condition, state and number. Each page costs its own rows and a look at every condition.
    pub async fn jobs(&mut self, page: &JobPage) -> Result<Vec<Job>, ViewError> {
        let cursor: Option<(i64, String)> = match page.after {
            Some(after) => sqlx::query_as("SELECT condition_id, state FROM job WHERE id = ?1")
                .bind(after.0)
                .fetch_optional(&mut *self.tx)
                .await
                .map_err(reading("the page's first job"))?,
            None => None,
        };
        let (cursor_condition, cursor_state) = cursor.unwrap_or_default();
        let mut statement = QueryBuilder::new(columns!());
        statement
            .push(filter::FROM)
            .push("LEFT JOIN worker ON worker.id = job.worker_id WHERE (counter.condition_id, ");
        statement.push("counter.state) >= (").push_bind(cursor_condition).push(", ").push_bind(&cursor_state);
        statement.push(") AND job.id > iif(counter.condition_id = ").push_bind(cursor_condition);
        statement.push(" AND counter.state = ").push_bind(&cursor_state).push(", ");
        statement.push_bind(page.after.map_or(0, |id| id.0)).push(", 0)");
        page.filter.push(&mut statement);
        statement.push(" ORDER BY counter.condition_id, counter.state, job.id LIMIT ").push_bind(page.limit);
        statement.build_query_as().fetch_all(&mut *self.tx).await.map_err(reading("the jobs"))
    }

    /// One job; `None` if there is none with that number.
    pub async fn job(&mut self, id: JobId) -> Result<Option<JobDetail>, ViewError> {
        let job: Option<Job> = sqlx::query_as(concat!(
            columns!(),
            "FROM job JOIN condition ON condition.id = job.condition_id
                      JOIN experiment ON experiment.id = condition.experiment_id
                      LEFT JOIN worker ON worker.id = job.worker_id
             WHERE job.id = ?1"
        ))
        .bind(id.0)
        .fetch_optional(&mut *self.tx)
        .await
        .map_err(reading("a job"))?;
        let Some(job) = job else { return Ok(None) };

        let attempts = sqlx::query_as(
            "SELECT attempt.id, attempt.fence, worker.name AS worker, attempt.device, attempt.started_at, attempt.ended_at,
                    attempt.outcome, attempt.class, attempt.message, attempt.counted,
                    attempt.waiting_s, attempt.loading_s, attempt.sampling_s, attempt.scoring_s, attempt.uploading_s
             FROM attempt JOIN worker ON worker.id = attempt.worker_id WHERE attempt.job_id = ?1 ORDER BY attempt.fence",
        )
        .bind(id.0)
        .fetch_all(&mut *self.tx)
        .await
        .map_err(reading("a job's attempts"))?;

        let results: Vec<(bool, String)> = sqlx::query_as("SELECT counted, body FROM result WHERE job_id = ?1")
            .bind(id.0)
            .fetch_all(&mut *self.tx)
            .await
            .map_err(reading("a job's result"))?;
        let result = match results.iter().find(|(counted, _)| *counted) {
            Some((_, body)) => Some(
                serde_json::from_str(body)
                    .map_err(|source| undecodable("body", source))
                    .map_err(reading("a job's result"))?,
            ),
            None => None,
        };
        let superseded = results.iter().filter(|(counted, _)| !counted).count() as u64;

        let spec: String = sqlx::query_scalar("SELECT spec FROM condition WHERE id = ?1")
            .bind(job.condition.0)
            .fetch_one(&mut *self.tx)
            .await
            .map_err(reading("a condition's spec"))?;
        let spec = serde_json::from_str(&spec)
            .map_err(|source| undecodable("spec", source))
            .map_err(reading("a condition's spec"))?;
        Ok(Some(JobDetail { job, attempts, result, superseded, spec }))
    }
}
