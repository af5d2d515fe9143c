//! What people ask: cancel, retry.

use super::{Result, Store, fragments, json_list};
use crate::queue::error::QueueError;
use crate::queue::request::{Cancel, Changed, Retry};
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
            "UPDATE job SET state = ?2, worker_id = NULL, lease_until = NULL, not_before = 0, step = 0, steps = 0, updated_at = ?3
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

    /// Gives jobs their attempts anew. Naming a job also unblocks the others of its condition.
    pub async fn retry(&mut self, retry: &Retry) -> Result<Changed> {
        match retry {
            Retry::Jobs(ids) => {
                let unchanged = self.outside(ids, EventKind::Retry).await?;
                let conditions = self.conditions_to_unblock(ids, &unchanged).await?;
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
                let conditions = Selection::conditions(self.conditions_of(experiment).await?)?;
                let stuck = sources(EventKind::Retry).filter(|state| *state != State::Cancelled);
                Ok(Changed { jobs: self.move_to_ready(&conditions, stuck).await?, unchanged: Vec::new() })
            }
        }
    }

    async fn move_to_ready(&mut self, selection: &Selection, from: impl Iterator<Item = State>) -> Result<u64> {
        let moved = sqlx::query(fragments(format!(
            "UPDATE job SET state = ?2, not_before = 0, updated_at = ?3, max_attempts = attempts + (
                 SELECT experiment.max_attempts FROM condition JOIN experiment ON experiment.id = experiment_id
                 WHERE condition.id = job.condition_id)
             WHERE {} AND state IN (SELECT value FROM json_each(?4))",
            selection.clause
        )))
        .bind(&selection.list)
        .bind(State::Ready.as_str())
        .bind(self.clock.now())
        .bind(json_list(from)?)
        .execute(&mut self.connection)
        .await?
        .rows_affected();
        self.readied |= moved > 0;
        Ok(moved)
    }

    async fn close_running_as_cancelled(&mut self, selection: &Selection) -> Result<()> {
        sqlx::query(fragments(format!(
            "UPDATE attempt SET outcome = 'cancelled', ended_at = max(started_at, ?2), counted = 0
             WHERE (job_id, fence) IN (SELECT job.id, job.fence FROM job WHERE {} AND state = 'running')",
            selection.clause
        )))
        .bind(&selection.list)
        .bind(self.clock.now())
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

    async fn require_experiment(&mut self, name: &str) -> Result<ExperimentId> {
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
