//! Plans become rows, idempotently.

use super::need::{met, met_by_seed};
use super::{Result, Store, corrupt, json_list};
use crate::plan::{Plan, PlannedCondition};
use crate::queue::request::{Preview, Submitted};
use protocol::ids::{ConditionId, ExperimentId};
use sqlx::Row;

impl Store {
    /// Adds what is new in `plan`. Jobs that are there keep their state; priority and share follow the plan.
    pub async fn submit(&mut self, plan: &Plan) -> Result<Submitted> {
        let existed = self.experiment_id(&plan.experiment.name).await?;
        let needs = self.needed(plan).await?;
        let experiment = self.upsert_experiment(plan).await?;
        self.wake(experiment).await?;
        self.specs.clear();
        let seeds = seeds(plan)?;
        let (mut new_conditions, mut new_jobs) = (0, 0);
        for planned in &plan.conditions {
            let (condition, new) = self.upsert_condition(experiment, planned).await?;
            if new {
                self.tie(condition, planned, &needs).await?;
            }
            new_conditions += u64::from(new);
            new_jobs += self.insert_jobs(experiment, condition, plan, &seeds).await?;
        }
        self.readied = true;
        Ok(Submitted {
            experiment,
            created: existed.is_none(),
            new_conditions,
            new_jobs,
            existing_jobs: plan.jobs() - new_jobs,
            unlisted_conditions: self.unlisted_conditions(experiment, plan).await?,
        })
    }

    /// What [`Store::submit`] would do; writes nothing.
    pub async fn preview(&mut self, plan: &Plan) -> Result<Preview> {
        let Some(experiment) = self.experiment_id(&plan.experiment.name).await? else {
            return Ok(Preview::all_new(plan));
        };
        let (listed, existing_jobs): (i64, i64) = sqlx::query_as(
            "SELECT count(*), coalesce(sum((SELECT count(*) FROM job WHERE condition_id = condition.id
                                            AND seed IN (SELECT value FROM json_each(?3)))), 0)
             FROM condition WHERE experiment_id = ?1 AND key IN (SELECT value FROM json_each(?2))",
        )
        .bind(experiment.0)
        .bind(keys(plan)?)
        .bind(seeds(plan)?)
        .fetch_one(&mut self.connection)
        .await?;
        let measured = sqlx::query_scalar(
            "SELECT avg(seconds) FROM (
                 SELECT loading_s + sampling_s + scoring_s + uploading_s AS seconds
                 FROM result JOIN attempt USING (job_id, fence)
                 WHERE result.counted = 1 AND condition_id IN (SELECT id FROM condition WHERE experiment_id = ?1)
                 LIMIT 1000)",
        )
        .bind(experiment.0)
        .fetch_one(&mut self.connection)
        .await?;
        Ok(Preview {
            exists: Some(experiment),
            new_conditions: plan.conditions.len() as u64 - listed as u64,
            existing_jobs: existing_jobs as u64,
            new_jobs: plan.jobs() - existing_jobs as u64,
            unlisted_conditions: self.unlisted_conditions(experiment, plan).await?,
            measured_seconds_per_image: measured,
        })
    }

    pub(super) async fn experiment_id(&mut self, name: &str) -> Result<Option<ExperimentId>> {
        let id = sqlx::query_scalar("SELECT id FROM experiment WHERE name = ?")
            .bind(name)
            .fetch_optional(&mut self.connection)
            .await?;
        Ok(id.map(ExperimentId))
    }

    async fn upsert_experiment(&mut self, plan: &Plan) -> Result<ExperimentId> {
        let experiment = &plan.experiment;
        let id = sqlx::query_scalar(
            "INSERT INTO experiment (name, description, kind, priority, max_attempts, budget_gpu_seconds, yaml,
                                     created_at, submitted_at, share, max_losses)
             VALUES (?1, ?2, ?8, ?3, ?4, ?5, ?6, ?7, ?7, ?9, ?10)
             ON CONFLICT (name) DO UPDATE SET
                 description = excluded.description, priority = excluded.priority, max_attempts = excluded.max_attempts,
                 share = excluded.share, max_losses = excluded.max_losses, budget_gpu_seconds = excluded.budget_gpu_seconds, yaml = excluded.yaml, submitted_at = excluded.submitted_at
             RETURNING id",
        )
        .bind(&experiment.name)
        .bind(&experiment.description)
        .bind(experiment.priority)
        .bind(experiment.max_attempts)
        .bind(experiment.budget_gpu_hours.map(|hours| hours * 3600.0))
        .bind(&experiment.yaml)
        .bind(self.clock.now())
        .bind(experiment.kind.as_str())
        .bind(experiment.share)
        .bind(experiment.max_losses)
        .fetch_one(&mut self.connection)
        .await?;
        Ok(ExperimentId(id))
    }

    /// A condition that is there takes over the plan's paths: a key says what the models are, not where they lie.
    async fn upsert_condition(
        &mut self,
        experiment: ExperimentId,
        planned: &PlannedCondition,
    ) -> Result<(ConditionId, bool)> {
        let spec = serde_json::to_string(&planned.spec).map_err(|error| corrupt("a condition", error))?;
        let axes = serde_json::to_string(&planned.axes).map_err(|error| corrupt("a condition's axes", error))?;
        let before = sqlx::query("SELECT id, spec FROM condition WHERE experiment_id = ? AND key = ?")
            .bind(experiment.0)
            .bind(planned.key.as_str())
            .fetch_optional(&mut self.connection)
            .await?;
        if let Some(row) = before {
            let id: i64 = row.try_get("id")?;
            if row.try_get::<&str, _>("spec")? != spec {
                sqlx::query("UPDATE condition SET spec = ? WHERE id = ?")
                    .bind(spec)
                    .bind(id)
                    .execute(&mut self.connection)
                    .await?;
            }
            return Ok((ConditionId(id), false));
        }
        let id = sqlx::query_scalar(
            "INSERT INTO condition (experiment_id, key, subject, region, axes, spec, precision, created_at)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
        )
        .bind(experiment.0)
        .bind(planned.key.as_str())
        .bind(&planned.subject)
        .bind(&planned.region)
        .bind(axes)
        .bind(spec)
        .bind(planned.spec.precision().as_str())
        .bind(self.clock.now())
        .fetch_one(&mut self.connection)
        .await?;
        Ok((ConditionId(id), true))
    }

    /// New jobs wait for what their condition needs, and for its bad input to be mended.
    async fn insert_jobs(
        &mut self,
        experiment: ExperimentId,
        condition: ConditionId,
        plan: &Plan,
        seeds: &str,
    ) -> Result<u64> {
        let inserted = sqlx::query(concat!(
            "INSERT INTO job (experiment_id, condition_id, seed, state, max_attempts, updated_at)
             SELECT ?2, ?1, seed.value, iif(start.may AND ",
            met_by_seed!("?1", "seed.value"),
            ", 'ready', 'blocked'), ?3, ?4
             FROM (SELECT breaker = 'closed' AND ",
            met!("?1"),
            " AS may FROM condition WHERE id = ?1) AS start, json_each(?5) AS seed
             WHERE NOT EXISTS (SELECT 1 FROM job WHERE job.condition_id = ?1 AND job.seed = seed.value)
               -- Seeds that a needed condition does not have would wait for ever.
               AND NOT EXISTS (SELECT 1 FROM need WHERE need.condition_id = ?1 AND by_seed = 1 AND NOT EXISTS (
                   SELECT 1 FROM job AS theirs WHERE theirs.condition_id = needs_condition_id AND theirs.seed = seed.value))"
        ))
        .bind(condition.0)
        .bind(experiment.0)
        .bind(plan.experiment.max_attempts)
        .bind(self.clock.now())
        .bind(seeds)
        .execute(&mut self.connection)
        .await?;
        Ok(inserted.rows_affected())
    }

    async fn unlisted_conditions(&mut self, experiment: ExperimentId, plan: &Plan) -> Result<u64> {
        let unlisted: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM condition WHERE experiment_id = ? AND key NOT IN (SELECT value FROM json_each(?))",
        )
        .bind(experiment.0)
        .bind(keys(plan)?)
        .fetch_one(&mut self.connection)
        .await?;
        Ok(unlisted as u64)
    }
}

/// The seeds as the `seed` column has them: 64 bits as a signed number.
fn seeds(plan: &Plan) -> Result<String> {
    json_list(plan.seeds.iter().map(|seed| seed.0.cast_signed()))
}

fn keys(plan: &Plan) -> Result<String> {
    json_list(plan.conditions.iter().map(|condition| condition.key.as_str()))
}
