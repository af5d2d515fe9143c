//! Experiments and conditions with their exact counts and scores.

use super::{Snapshot, State, ViewError, parse, reading, undecodable};
use crate::plan::PlannedCondition;
use crate::spec::known::Needed;
use protocol::ids::{ConditionId, ExperimentId, Seed};
use protocol::probe::ProbeClass;
use serde::Serialize;
use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, Row};
use std::collections::BTreeMap;
use std::fmt;

/// Jobs by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    pub blocked: u64,
    pub ready: u64,
    pub running: u64,
    pub done: u64,
    pub failed: u64,
    pub cancelled: u64,
}

impl Counts {
    pub fn of(&self, state: State) -> u64 {
        match state {
            State::Blocked => self.blocked,
            State::Ready => self.ready,
            State::Running => self.running,
            State::Done => self.done,
            State::Failed => self.failed,
            State::Cancelled => self.cancelled,
        }
    }

    pub fn total(&self) -> u64 {
        State::ALL.into_iter().map(|state| self.of(state)).sum()
    }

    /// Jobs that may still give a result without anybody's help.
    pub fn open(&self) -> u64 {
        self.ready + self.running
    }

    fn add(&mut self, state: State, jobs: u64) {
        let slot = match state {
            State::Blocked => &mut self.blocked,
            State::Ready => &mut self.ready,
            State::Running => &mut self.running,
            State::Done => &mut self.done,
            State::Failed => &mut self.failed,
            State::Cancelled => &mut self.cancelled,
        };
        *slot += jobs;
    }
}

/// Device time by what became of it, seconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct GpuSeconds {
    /// Of attempts that gave a result that counts.
    pub useful: f64,
    /// Of attempts that failed, were lost, or were cancelled.
    pub wasted: f64,
    /// Of attempts that run now, so far.
    pub running: f64,
}

impl GpuSeconds {
    pub fn total(&self) -> f64 {
        self.useful + self.wasted + self.running
    }

    fn add(&mut self, outcome: &str, seconds: f64) {
        match outcome {
            "done" => self.useful += seconds,
            "running" => self.running += seconds,
            _ => self.wasted += seconds,
        }
    }
}

/// An experiment and where it stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Experiment {
    pub id: ExperimentId,
    pub name: String,
    pub description: String,
    pub priority: i32,
    /// Weight among experiments of its priority.
    pub share: f64,
    /// Its jobs are not handed out.
    pub paused: bool,
    pub budget_gpu_seconds: Option<f64>,
    pub created_at: i64,
    pub submitted_at: i64,
    pub counts: Counts,
    pub gpu_seconds: GpuSeconds,
}

impl FromRow<'_, SqliteRow> for Experiment {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: ExperimentId(row.try_get("id")?),
            name: row.try_get("name")?,
            description: row.try_get("description")?,
            priority: row.try_get("priority")?,
            share: row.try_get("share")?,
            paused: row.try_get("paused")?,
            budget_gpu_seconds: row.try_get("budget_gpu_seconds")?,
            created_at: row.try_get("created_at")?,
            submitted_at: row.try_get("submitted_at")?,
            counts: Counts::default(),
            gpu_seconds: GpuSeconds::default(),
        })
    }
}

/// A condition's values on the axes other than subject and region.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(transparent)]
pub struct Axes(pub BTreeMap<String, serde_json::Value>);

impl Axes {
    pub(super) fn from_column(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        let text: &str = row.try_get("axes")?;
        serde_json::from_str(text).map(Self).map_err(|source| undecodable("axes", source))
    }

    /// The same axes without one of them.
    pub fn without(&self, axis: &str) -> Axes {
        Axes(
            self.0
                .iter()
                .filter(|(name, _)| *name != axis)
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
        )
    }
}

impl fmt::Display for Axes {
    /// For example `γ 14, steps 50`; empty without axes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (name, value) in &self.0 {
            let name = if name == "gamma" { "γ" } else { name };
            match value {
                serde_json::Value::String(text) => write!(f, "{separator}{name} {text}")?,
                serde_json::Value::Number(number) => match number.as_f64() {
                    Some(number) => write!(f, "{separator}{name} {number}")?,
                    None => write!(f, "{separator}{name} {number}")?,
                },
                other => write!(f, "{separator}{name} {other}")?,
            }
            separator = ", ";
        }
        Ok(())
    }
}

/// A cell of an experiment's grid and where it stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Condition {
    pub id: ConditionId,
    pub experiment: String,
    pub subject: String,
    pub region: String,
    pub axes: Axes,
    pub counts: Counts,
}

impl FromRow<'_, SqliteRow> for Condition {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: ConditionId(row.try_get("id")?),
            experiment: row.try_get("experiment")?,
            subject: row.try_get("subject")?,
            region: row.try_get("region")?,
            axes: Axes::from_column(row)?,
            counts: Counts::default(),
        })
    }
}

/// What a condition's spec says about reading its scores.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Science {
    pub condition: ConditionId,
    /// The probe class that the region is known to prefer.
    pub prefers: Option<String>,
    /// Guidance scale γ; 0 is unguided.
    pub gamma: f64,
    /// Names of the probe's classes, in the spec's order.
    pub classes: Vec<String>,
}

impl FromRow<'_, SqliteRow> for Science {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        let probes: Vec<ProbeClass> =
            serde_json::from_str(row.try_get("probes")?).map_err(|source| undecodable("probes", source))?;
        Ok(Self {
            condition: ConditionId(row.try_get("id")?),
            prefers: row.try_get("prefers")?,
            gamma: row.try_get("gamma")?,
            classes: probes.into_iter().map(|class| class.name).collect(),
        })
    }
}

/// A condition's counted images that the probe put into one class.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Score {
    pub condition: ConditionId,
    pub class: String,
    pub images: u64,
    /// Sum of the images' predicted activation, z-scored beta units.
    pub activation_sum: f64,
}

impl FromRow<'_, SqliteRow> for Score {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            condition: ConditionId(row.try_get("condition_id")?),
            class: row.try_get("probe_class")?,
            images: row.try_get("images")?,
            activation_sum: row.try_get("activation_sum")?,
        })
    }
}

impl Snapshot {
    /// All experiments, the one submitted last first.
    pub async fn experiments(&mut self) -> Result<Vec<Experiment>, ViewError> {
        let mut experiments: Vec<Experiment> = sqlx::query_as(
            "SELECT id, name, description, priority, share, paused, budget_gpu_seconds, created_at, submitted_at
             FROM experiment ORDER BY submitted_at DESC, id DESC",
        )
        .fetch_all(&mut *self.tx)
        .await
        .map_err(reading("the experiments"))?;
        let position: BTreeMap<i64, usize> = experiments.iter().enumerate().map(|(at, e)| (e.id.0, at)).collect();

        let counts: Vec<(i64, String, u64)> = sqlx::query_as(
            "SELECT condition.experiment_id, counter.state, sum(counter.jobs)
             FROM counter JOIN condition ON condition.id = counter.condition_id GROUP BY 1, 2",
        )
        .fetch_all(&mut *self.tx)
        .await
        .map_err(reading("the job counts"))?;
        for (experiment, state, jobs) in counts {
            if let Some(&at) = position.get(&experiment) {
                experiments[at].counts.add(parse("state", &state).map_err(reading("the job counts"))?, jobs);
            }
        }

        let spent: Vec<(i64, String, f64)> = sqlx::query_as(
            "SELECT condition.experiment_id, spent.outcome, sum(spent.gpu_seconds)
             FROM spent JOIN condition ON condition.id = spent.condition_id GROUP BY 1, 2
             UNION ALL
             SELECT condition.experiment_id, 'running',
                    sum(job.computing_ms / 1000.0 / worker.slots)
             FROM job JOIN worker ON worker.id = job.worker_id JOIN condition ON condition.id = job.condition_id
             WHERE job.state = 'running' GROUP BY 1",
        )
        .fetch_all(&mut *self.tx)
        .await
        .map_err(reading("the GPU time"))?;
        for (experiment, outcome, seconds) in spent {
            if let Some(&at) = position.get(&experiment) {
                experiments[at].gpu_seconds.add(&outcome, seconds);
            }
        }
        Ok(experiments)
    }

    /// The names of all experiments.
    pub async fn experiment_names(&mut self) -> Result<Vec<String>, ViewError> {
        sqlx::query_scalar("SELECT name FROM experiment")
            .fetch_all(&mut *self.tx)
            .await
            .map_err(reading("the experiments' names"))
    }

    /// What an experiment's jobs are, as they were planned; `None` if there is none of that name.
    pub async fn planned(&mut self, name: &str) -> Result<Option<Needed>, ViewError> {
        let what = "what an experiment makes";
        let experiment: Option<(i64, String)> = sqlx::query_as("SELECT id, kind FROM experiment WHERE name = ?")
            .bind(name)
            .fetch_optional(&mut *self.tx)
            .await
            .map_err(reading(what))?;
        let Some((id, kind)) = experiment else { return Ok(None) };
        let rows =
            sqlx::query("SELECT key, subject, region, axes, spec FROM condition WHERE experiment_id = ? ORDER BY id")
                .bind(id)
                .fetch_all(&mut *self.tx)
                .await
                .map_err(reading(what))?;
        let condition = |row: &SqliteRow| {
            Ok(PlannedCondition {
                key: parse("key", row.try_get("key")?)?,
                subject: row.try_get("subject")?,
                region: row.try_get("region")?,
                axes: Axes::from_column(row)?.0,
                spec: serde_json::from_str(row.try_get("spec")?).map_err(|source| undecodable("spec", source))?,
            })
        };
        let conditions = rows.iter().map(condition).collect::<Result<_, sqlx::Error>>().map_err(reading(what))?;
        let seeds: Vec<i64> = sqlx::query_scalar("SELECT DISTINCT seed FROM job WHERE experiment_id = ? ORDER BY seed")
            .bind(id)
            .fetch_all(&mut *self.tx)
            .await
            .map_err(reading(what))?;
        let kind = parse("kind", &kind).map_err(reading(what))?;
        let seeds = seeds.into_iter().map(|seed| Seed(seed.cast_unsigned())).collect();
        Ok(Some(Needed { kind, conditions, seeds }))
    }

    /// The conditions of one experiment, or of all, in the order in which they were planned.
    pub async fn conditions(&mut self, experiment: Option<ExperimentId>) -> Result<Vec<Condition>, ViewError> {
        let experiment = experiment.map(|id| id.0);
        let mut conditions: Vec<Condition> = sqlx::query_as(
            "SELECT condition.id, experiment.name AS experiment, subject, region, axes
             FROM condition JOIN experiment ON experiment.id = condition.experiment_id
             WHERE ?1 IS NULL OR condition.experiment_id = ?1 ORDER BY condition.id",
        )
        .bind(experiment)
        .fetch_all(&mut *self.tx)
        .await
        .map_err(reading("the conditions"))?;

        let counts: Vec<(i64, String, u64)> = sqlx::query_as(
            "SELECT counter.condition_id, counter.state, counter.jobs
             FROM counter JOIN condition ON condition.id = counter.condition_id
             WHERE ?1 IS NULL OR condition.experiment_id = ?1",
        )
        .bind(experiment)
        .fetch_all(&mut *self.tx)
        .await
        .map_err(reading("the job counts"))?;
        for (condition, state, jobs) in counts {
            if let Ok(at) = conditions.binary_search_by_key(&condition, |c| c.id.0) {
                conditions[at].counts.add(parse("state", &state).map_err(reading("the job counts"))?, jobs);
            }
        }
        Ok(conditions)
    }

    /// One condition; `None` if there is none with that number.
    pub async fn condition(&mut self, id: ConditionId) -> Result<Option<Condition>, ViewError> {
        let condition: Option<Condition> = sqlx::query_as(
            "SELECT condition.id, experiment.name AS experiment, subject, region, axes
             FROM condition JOIN experiment ON experiment.id = condition.experiment_id WHERE condition.id = ?1",
        )
        .bind(id.0)
        .fetch_optional(&mut *self.tx)
        .await
        .map_err(reading("a condition"))?;
        let Some(mut condition) = condition else { return Ok(None) };
        let counts: Vec<(String, u64)> = sqlx::query_as("SELECT state, jobs FROM counter WHERE condition_id = ?1")
            .bind(id.0)
            .fetch_all(&mut *self.tx)
            .await
            .map_err(reading("the job counts"))?;
        for (state, jobs) in counts {
            condition.counts.add(parse("state", &state).map_err(reading("the job counts"))?, jobs);
        }
        Ok(Some(condition))
    }

    /// What the specs of an experiment's conditions say about reading their scores, in the order of the conditions.
    pub async fn science(&mut self, experiment: ExperimentId) -> Result<Vec<Science>, ViewError> {
        sqlx::query_as(
            "SELECT id, json_extract(spec, '$.prefers') AS prefers,
                    CAST(json_extract(spec, '$.sampling.gamma') AS REAL) AS gamma, json_extract(spec, '$.probes') AS probes
             FROM condition INDEXED BY condition_science
             WHERE experiment_id = ?1 AND json_extract(spec, '$.probes') IS NOT NULL ORDER BY id",
        )
        .bind(experiment.0)
        .fetch_all(&mut *self.tx)
        .await
        .map_err(reading("the conditions' specs"))
    }

    /// Scores of an experiment's conditions, by condition and class.
    pub async fn scores(&mut self, experiment: ExperimentId) -> Result<Vec<Score>, ViewError> {
        sqlx::query_as(
            "SELECT score.condition_id, probe_class, images, activation_sum
             FROM condition JOIN score ON score.condition_id = condition.id
             WHERE condition.experiment_id = ?1 ORDER BY score.condition_id, probe_class",
        )
        .bind(experiment.0)
        .fetch_all(&mut *self.tx)
        .await
        .map_err(reading("the scores"))
    }
}
