//! What waits for what: conditions that need every job of other conditions to be done, or each of their jobs the one of its seed.

use super::{Result, Store, corrupt, json_list};
use crate::plan::{Plan, PlannedCondition};
use crate::queue::error::QueueError;
use crate::queue::state::{EventKind, State, sources};
use protocol::claim::ImageToScore;
use protocol::ids::{ConditionId, ExperimentId, JobId};
use protocol::job::Condition;

/// True of a condition if every job of every condition that it needs as a whole is done, and there is one.
macro_rules! met {
    ($condition:literal) => {
        concat!(
            "NOT EXISTS (SELECT 1 FROM need WHERE need.condition_id = ",
            $condition,
            " AND by_seed = 0 AND (SELECT count(*) = 0 OR sum(state <> 'done') > 0 FROM counter
                   WHERE counter.condition_id = need.needs_condition_id AND jobs > 0))"
        )
    };
}
pub(super) use met;

/// True of a condition and a seed if the job of that seed is done in every condition that is needed seed by seed.
macro_rules! met_by_seed {
    ($condition:literal, $seed:literal) => {
        concat!(
            "NOT EXISTS (SELECT 1 FROM need WHERE need.condition_id = ",
            $condition,
            " AND by_seed = 1 AND NOT EXISTS (
                 SELECT 1 FROM job AS theirs WHERE theirs.condition_id = need.needs_condition_id
                     AND theirs.state = 'done' AND theirs.seed = ",
            $seed,
            "))"
        )
    };
}
pub(super) use met_by_seed;

/// An experiment that a plan needs.
#[derive(Debug)]
pub(super) struct Needed {
    name: String,
    id: ExperimentId,
    /// The plan's conditions name conditions of it by their keys: those are needed, and no others.
    by_key: bool,
}

impl Store {
    /// The experiments that a plan needs.
    pub(super) async fn needed(&mut self, plan: &Plan) -> Result<Vec<Needed>> {
        let reads = json_list(plan.conditions.iter().flat_map(|condition| condition.spec.reads()))?;
        let mut needed = Vec::new();
        for name in &plan.experiment.needs {
            let id = self.require_experiment(name).await?;
            let by_key = sqlx::query_scalar(
                "SELECT EXISTS (SELECT 1 FROM condition WHERE experiment_id = ? AND key IN (SELECT value FROM json_each(?)))",
            )
            .bind(id.0)
            .bind(&reads)
            .fetch_one(&mut self.connection)
            .await?;
            needed.push(Needed { name: name.clone(), id, by_key });
        }
        Ok(needed)
    }

    /// Ties an experiment's new condition to the conditions of `needs` whose products it reads; where nothing of the plan reads
    /// any, to those that agree with it on every axis that both have.
    pub(super) async fn tie(
        &mut self,
        condition: ConditionId,
        planned: &PlannedCondition,
        needs: &[Needed],
    ) -> Result<()> {
        let images = match &planned.spec {
            Condition::Score(score) => Some(score.images.as_str()),
            _ => None,
        };
        for Needed { name, id, by_key } in needs {
            if *by_key {
                sqlx::query(
                    "INSERT INTO need (condition_id, needs_condition_id, by_seed)
                     SELECT ?1, id, key IS ?4 FROM condition
                     WHERE experiment_id = ?2 AND key IN (SELECT value FROM json_each(?3)) ON CONFLICT DO NOTHING",
                )
                .bind(condition.0)
                .bind(id.0)
                .bind(json_list(planned.spec.reads())?)
                .bind(images)
                .execute(&mut self.connection)
                .await?;
                continue;
            }
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
            .bind(id.0)
            .execute(&mut self.connection)
            .await?
            .rows_affected();
            if tied == 0 {
                let (subject, region) = (planned.subject.clone(), planned.region.clone());
                return Err(QueueError::NothingToNeed { needs: name.clone(), subject, region });
            }
        }
        Ok(())
    }

    /// The image that the job of a seed scores, if its condition is tied to one's that is there.
    pub(super) async fn image_to_score(&mut self, condition: ConditionId, seed: i64) -> Result<Option<ImageToScore>> {
        let found: Option<(String, f64)> = sqlx::query_as(
            "SELECT result.image_sha256, result.effective_gamma
             FROM need JOIN job ON job.condition_id = need.needs_condition_id AND job.seed = ?2
                  JOIN result ON result.job_id = job.id AND result.counted = 1
             WHERE need.condition_id = ?1 AND need.by_seed = 1",
        )
        .bind(condition.0)
        .bind(seed)
        .fetch_optional(&mut self.connection)
        .await?;
        found
            .map(|(sha256, effective_gamma)| {
                let sha256 = sha256.parse().map_err(|error| corrupt("an image's digest", error))?;
                Ok(ImageToScore { sha256, effective_gamma })
            })
            .transpose()
    }

    /// After `job` was done: jobs that waited for it go on, if it was the last that they needed.
    pub(super) async fn unblock_dependents_of(&mut self, job: JobId) -> Result<()> {
        let dependents: Vec<(i64, Option<i64>)> = sqlx::query_as(concat!(
            "SELECT condition.id, iif(need.by_seed, job.seed, NULL)
             FROM job JOIN need ON need.needs_condition_id = job.condition_id
                      JOIN condition ON condition.id = need.condition_id
             WHERE job.id = ?1 AND condition.breaker = 'closed' AND ",
            met!("condition.id")
        ))
        .bind(job.0)
        .fetch_all(&mut self.connection)
        .await?;
        for (condition, seed) in dependents {
            self.wake_experiment_of(ConditionId(condition)).await?;
            for from in sources(EventKind::Unblock) {
                let moved = sqlx::query(concat!(
                    "UPDATE job SET state = ?1, updated_at = ?2
                     WHERE condition_id = ?3 AND state = ?4 AND seed = coalesce(?5, seed) AND ",
                    met_by_seed!("job.condition_id", "job.seed")
                ))
                .bind(State::Ready.as_str())
                .bind(self.clock.now())
                .bind(condition)
                .bind(from.as_str())
                .bind(seed)
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
