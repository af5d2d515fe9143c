//! What people ask: cancel, retry.

use super::need::met;
use super::{Result, Store, fragments, json_list};
use crate::queue::error::QueueError;
use crate::queue::request::{Cancel, Changed, Retry};
use crate::queue::share;
use crate::queue::state::{EventKind, State, sources};
use protocol::ids::{ExperimentId, JobId};

/// Which jobs a statement moves: a condition on the table `job` over the JSON list `?1`.
#[derive(Debug)]
struct Selection {
    clause: &'static str,
    list: String,
}

impl Selection {
    fn jobs<'a>(ids: impl IntoIterator<Item = &'a JobId>) -> Result<Self> {
        Ok(Self { clause: "job.id IN (SELECT value FROM json_each(?1))", list: json_list(ids)? })
    }

    fn conditions(ids: Vec<i64>) -> Result<Self> {
        Ok(Self { clause: "job.condition_id IN (SELECT value FROM json_each(?1))", list: json_list(ids)? })
    }
}

impl Store {
    pub async fn cancel(&mut self, cancel: &Cancel) -> Result<Changed> {
        let (selection, unchanged) = match cancel {
            Cancel::Jobs(ids) => (Selection::jobs(ids)?, self.outside(ids, EventKind::Cancel).await?),
            Cancel::Experiment { name, condition } => {
                let experiment = self.require_experiment(name).await?;
                let mut conditions = self.conditions_of(Some(experiment)).await?;
                if let Some(condition) = condition {
                    conditions.retain(|id| *id == condition.0);
                    if conditions.is_empty() {
                        let (experiment, condition) = (name.clone(), *condition);
                        return Err(QueueError::NoSuchCondition { experiment, condition });
                    }
                }
                (Selection::conditions(conditions)?, Vec::new())
            }
        };
        self.close_running_as_cancelled(&selection).await?;
        let states = json_list(sources(EventKind::Cancel))?;
        let moved = sqlx::query(fragments(format!(
            "UPDATE job SET state = ?2, worker_id = NULL, lease_until = NULL, not_before = 0, step = 0, steps = 0, computing_ms = 0, updated_at = ?3
             WHERE {} AND state IN (SELECT value FROM json_each(?4))",
            selection.clause
        )))
        .bind(&selection.list)
        .bind(State::Cancelled.as_str())
        .bind(self.clock.now())
        .bind(states)
        .execute(&mut self.connection)
        .await?;
        Ok(Changed { jobs: moved.rows_affected(), unchanged })
    }

    /// Gives jobs their attempts anew. Naming a job also unblocks the others of its condition; jobs whose needs are not met stay
    /// blocked.
    pub async fn retry(&mut self, retry: &Retry) -> Result<Changed> {
        match retry {
            Retry::Jobs(ids) => {
                let unchanged = self.outside(ids, EventKind::Retry).await?;
                let conditions = self.conditions_to_unblock(ids, &unchanged).await?;
                self.close_breakers(&conditions).await?;
                let named = self.move_to_ready(&Selection::jobs(ids)?, sources(EventKind::Retry)).await?;
                let blocked = sources(EventKind::Retry).filter(|state| *state == State::Blocked);
                let unblocked = self.move_to_ready(&Selection::conditions(conditions)?, blocked).await?;
                Ok(Changed { jobs: named + unblocked, unchanged })
            }
            Retry::Failed { experiment } => {
                let experiment = match experiment {
                    Some(name) => Some(self.require_experiment(name).await?),
                    None => None,
                };
                let conditions = self.conditions_of(experiment).await?;
                self.close_breakers(&conditions).await?;
                let stuck = sources(EventKind::Retry).filter(|state| *state != State::Cancelled);
                let jobs = self.move_to_ready(&Selection::conditions(conditions)?, stuck).await?;
                Ok(Changed { jobs, unchanged: Vec::new() })
            }
        }
    }

    async fn close_breakers(&mut self, conditions: &[i64]) -> Result<()> {
        sqlx::query(
            "UPDATE condition SET breaker = 'closed' WHERE breaker = 'open' AND id IN (SELECT value FROM json_each(?))",
        )
        .bind(json_list(conditions)?)
        .execute(&mut self.connection)
        .await?;
        Ok(())
    }

    async fn move_to_ready(&mut self, selection: &Selection, from: impl Iterator<Item = State>) -> Result<u64> {
        let from = json_list(from)?;
        let asleep: Vec<i64> = sqlx::query_scalar(fragments(format!(
            "SELECT DISTINCT experiment_id FROM job WHERE {} AND state IN (SELECT value FROM json_each(?2))",
            selection.clause
        )))
        .bind(&selection.list)
        .bind(&from)
        .fetch_all(&mut self.connection)
        .await?;
        for experiment in asleep {
            self.wake(ExperimentId(experiment)).await?;
        }
        let moved = sqlx::query(fragments(format!(
            "UPDATE job SET state = ?2, not_before = 0, updated_at = ?3, losses = 0, retried_at = fence, max_attempts = attempts + (
                 SELECT experiment.max_attempts FROM experiment WHERE experiment.id = job.experiment_id)
             WHERE {} AND state IN (SELECT value FROM json_each(?4)) AND (state <> 'blocked' OR {})",
            selection.clause,
            met!("job.condition_id")
        )))
        .bind(&selection.list)
        .bind(State::Ready.as_str())
        .bind(self.clock.now())
        .bind(from)
        .execute(&mut self.connection)
        .await?
        .rows_affected();
        self.readied |= moved > 0;
        Ok(moved)
    }

    /// Before an experiment gets ready jobs: if it had none, it goes on where the others of its priority stand.
    pub(super) async fn wake(&mut self, experiment: ExperimentId) -> Result<()> {
        let (virtual_time, others, asleep): (f64, Option<f64>, bool) = sqlx::query_as(
            "SELECT mine.virtual_time,
                    (SELECT min(other.virtual_time) FROM experiment AS other
                     WHERE other.id <> mine.id AND other.priority = mine.priority AND other.paused = 0
                       AND EXISTS (SELECT 1 FROM job WHERE job.experiment_id = other.id AND job.state = 'ready')),
                    mine.paused OR NOT EXISTS (SELECT 1 FROM job WHERE job.experiment_id = mine.id AND job.state = 'ready')
             FROM experiment AS mine WHERE mine.id = ?",
        )
        .bind(experiment.0)
        .fetch_one(&mut self.connection)
        .await?;
        if asleep {
            sqlx::query("UPDATE experiment SET virtual_time = ? WHERE id = ?")
                .bind(share::wake(virtual_time, others))
                .bind(experiment.0)
                .execute(&mut self.connection)
                .await?;
        }
        Ok(())
    }

    /// What the last heartbeats told is what the attempts took.
    async fn close_running_as_cancelled(&mut self, selection: &Selection) -> Result<()> {
        sqlx::query(fragments(format!(
            "UPDATE attempt SET outcome = 'cancelled', ended_at = max(started_at, ?2), counted = 0,
                    device_s = (SELECT computing_ms / 1000.0 FROM job WHERE id = job_id) / (SELECT slots FROM worker WHERE id = worker_id)
             WHERE (job_id, fence) IN (SELECT job.id, job.fence FROM job WHERE {} AND state = 'running')",
            selection.clause
        )))
        .bind(&selection.list)
        .bind(self.clock.now())
        .execute(&mut self.connection)
        .await?;
        sqlx::query(fragments(format!(
            "UPDATE experiment SET virtual_time = virtual_time + surprise / share
             FROM (SELECT job.experiment_id, sum(attempt.device_s - attempt.expected_s) AS surprise
                   FROM job JOIN attempt ON attempt.job_id = job.id AND attempt.fence = job.fence
                   WHERE {} AND job.state = 'running' GROUP BY job.experiment_id) AS cancelled
             WHERE experiment.id = cancelled.experiment_id",
            selection.clause
        )))
        .bind(&selection.list)
        .execute(&mut self.connection)
        .await?;
        Ok(())
    }

    /// The named jobs whose state `event` cannot leave. A job that does not exist refuses the whole request.
    async fn outside(&mut self, ids: &[JobId], event: EventKind) -> Result<Vec<(JobId, State)>> {
        let mut outside = Vec::new();
        for &id in ids {
            let state = self.job(id).await?.state;
            if !sources(event).any(|from| from == state) {
                outside.push((id, state));
            }
        }
        Ok(outside)
    }

    async fn conditions_to_unblock(&mut self, ids: &[JobId], unchanged: &[(JobId, State)]) -> Result<Vec<i64>> {
        let moved = ids.iter().filter(|id| !unchanged.iter().any(|(left, _)| left == *id));
        Ok(sqlx::query_scalar("SELECT DISTINCT condition_id FROM job WHERE id IN (SELECT value FROM json_each(?))")
            .bind(json_list(moved)?)
            .fetch_all(&mut self.connection)
            .await?)
    }

    async fn conditions_of(&mut self, experiment: Option<ExperimentId>) -> Result<Vec<i64>> {
        Ok(sqlx::query_scalar("SELECT id FROM condition WHERE ?1 IS NULL OR experiment_id = ?1")
            .bind(experiment.map(|id| id.0))
            .fetch_all(&mut self.connection)
            .await?)
    }

    pub(super) async fn require_experiment(&mut self, name: &str) -> Result<ExperimentId> {
        if let Some(id) = self.experiment_id(name).await? {
            return Ok(id);
        }
        let names: Vec<String> =
            sqlx::query_scalar("SELECT name FROM experiment").fetch_all(&mut self.connection).await?;
        let nearest = names
            .into_iter()
            .map(|known| (strsim::jaro_winkler(name, &known), known))
            .filter(|(similarity, _)| *similarity > 0.8)
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, known)| known);
        Err(QueueError::NoSuchExperiment { name: name.to_owned(), nearest })
    }
}
