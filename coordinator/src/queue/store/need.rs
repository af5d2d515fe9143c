//! What waits for what: conditions that need every job of other conditions to be done.

use super::{Result, Store};
use crate::queue::error::QueueError;
use crate::queue::state::{EventKind, State, sources};
use protocol::ids::{ConditionId, ExperimentId, JobId};

/// True of a condition `?1` all of whose needs are met: every job of every condition that it needs is done, and there is one.
macro_rules! met {
    ($condition:literal) => {
        concat!(
            "NOT EXISTS (SELECT 1 FROM need WHERE need.condition_id = ",
            $condition,
            " AND (SELECT count(*) = 0 OR sum(state <> 'done') > 0 FROM counter
                   WHERE counter.condition_id = need.needs_condition_id AND jobs > 0))"
        )
    };
}
pub(super) use met;

impl Store {
    /// Ties an experiment's new condition to the conditions of `needs` that agree with it on every axis that both have.
    pub(super) async fn tie(&mut self, condition: ConditionId, needs: &[(String, ExperimentId)]) -> Result<()> {
        for (name, experiment) in needs {
            let tied = sqlx::query(
                "INSERT INTO need (condition_id, needs_condition_id)
                 SELECT mine.id, theirs.id FROM condition AS mine, condition AS theirs
                 WHERE mine.id = ?1 AND theirs.experiment_id = ?2
                   AND (theirs.subject = '' OR mine.subject = '' OR theirs.subject = mine.subject)
                   AND (theirs.region = '' OR mine.region = '' OR theirs.region = mine.region)
                   AND NOT EXISTS (SELECT 1 FROM json_each(theirs.axes) AS b JOIN json_each(mine.axes) AS a ON a.key = b.key
                                   WHERE a.value <> b.value)
                 ON CONFLICT DO NOTHING",
            )
            .bind(condition.0)
            .bind(experiment.0)
            .execute(&mut self.connection)
            .await?
            .rows_affected();
            if tied == 0 {
                let (subject, region) = sqlx::query_as("SELECT subject, region FROM condition WHERE id = ?")
                    .bind(condition.0)
                    .fetch_one(&mut self.connection)
                    .await?;
                return Err(QueueError::NothingToNeed { needs: name.clone(), subject, region });
            }
        }
        Ok(())
    }

    /// After `job` was done: if it was the last of its condition, conditions that waited for it go on.
    pub(super) async fn unblock_dependents_of(&mut self, job: JobId) -> Result<()> {
        let dependents: Vec<i64> = sqlx::query_scalar(concat!(
            "SELECT condition.id FROM job JOIN need ON need.needs_condition_id = job.condition_id
                                          JOIN condition ON condition.id = need.condition_id
             WHERE job.id = ?1 AND condition.breaker = 'closed' AND ",
            met!("condition.id")
        ))
        .bind(job.0)
        .fetch_all(&mut self.connection)
        .await?;
        for condition in dependents {
            self.wake_experiment_of(ConditionId(condition)).await?;
            for from in sources(EventKind::Unblock) {
                let moved =
                    sqlx::query("UPDATE job SET state = ?1, updated_at = ?2 WHERE condition_id = ?3 AND state = ?4")
                        .bind(State::Ready.as_str())
                        .bind(self.clock.now())
                        .bind(condition)
                        .bind(from.as_str())
                        .execute(&mut self.connection)
                        .await?
                        .rows_affected();
                self.readied |= moved > 0;
            }
        }
        Ok(())
    }

    async fn wake_experiment_of(&mut self, condition: ConditionId) -> Result<()> {
        let experiment = sqlx::query_scalar("SELECT experiment_id FROM condition WHERE id = ?")
            .bind(condition.0)
            .fetch_one(&mut self.connection)
            .await?;
        self.wake(ExperimentId(experiment)).await
    }
}
