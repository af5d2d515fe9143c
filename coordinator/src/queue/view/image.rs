//! Counted images, newest or best first.

use super::{Axes, Snapshot, ViewError, parse, reading};
use protocol::ids::{ConditionId, Digest, ExperimentId, JobId, Seed};
use serde::Serialize;
use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, Row};

/// A finished image that counts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Image {
    pub job: JobId,
    pub condition: ConditionId,
    pub subject: String,
    pub region: String,
    pub axes: Axes,
    pub seed: Seed,
    /// Predicted activation, z-scored beta units; `None` if it is no guided sample.
    pub activation: Option<f64>,
    /// `None` if it is no guided sample.
    pub probe_class: Option<String>,
    pub sha256: Digest,
    pub created_at: i64,
}

impl FromRow<'_, SqliteRow> for Image {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            job: JobId(row.try_get("job_id")?),
            condition: ConditionId(row.try_get("condition_id")?),
            subject: row.try_get("subject")?,
            region: row.try_get("region")?,
            axes: Axes::from_column(row)?,
            seed: Seed(row.try_get::<i64, _>("seed")?.cast_unsigned()),
            activation: row.try_get("activation")?,
            probe_class: row.try_get("probe_class")?,
            sha256: parse("image_sha256", row.try_get("image_sha256")?)?,
            created_at: row.try_get("created_at")?,
        })
    }
}

/// An `Image`'s columns from `result`, by the order and limit that follow.
macro_rules! images {
    ($rest:literal) => {
        concat!(
            "SELECT result.job_id, result.condition_id, condition.subject, condition.region, condition.axes, job.seed,
                    result.activation, result.probe_class, result.image_sha256, result.created_at
             FROM result JOIN condition ON condition.id = result.condition_id JOIN job ON job.id = result.job_id ",
            $rest
        )
    };
}

impl Snapshot {
    /// The newest images of all experiments.
    pub async fn newest_images(&mut self, limit: u32) -> Result<Vec<Image>, ViewError> {
        sqlx::query_as(images!("WHERE result.counted = 1 ORDER BY result.created_at DESC LIMIT ?1"))
            .bind(limit)
            .fetch_all(&mut *self.tx)
            .await
            .map_err(reading("the newest images"))
    }

    /// The newest images of a condition.
    pub async fn newest_of(&mut self, condition: ConditionId, limit: u32) -> Result<Vec<Image>, ViewError> {
        sqlx::query_as(images!(
            "WHERE result.condition_id = ?1 AND result.counted = 1 ORDER BY result.created_at DESC LIMIT ?2"
        ))
        .bind(condition.0)
        .bind(limit)
        .fetch_all(&mut *self.tx)
        .await
        .map_err(reading("the newest images of a condition"))
    }

    /// The images of a condition with the highest predicted activation, highest first.
    pub async fn top_of(&mut self, condition: ConditionId, limit: u32) -> Result<Vec<Image>, ViewError> {
        sqlx::query_as(images!(
            "WHERE result.condition_id = ?1 AND result.counted = 1 ORDER BY result.activation DESC LIMIT ?2"
        ))
        .bind(condition.0)
        .bind(limit)
        .fetch_all(&mut *self.tx)
        .await
        .map_err(reading("the best images of a condition"))
    }

    /// The images of a condition with the lowest predicted activation, lowest first.
    pub async fn bottom_of(&mut self, condition: ConditionId, limit: u32) -> Result<Vec<Image>, ViewError> {
        sqlx::query_as(images!(
            "WHERE result.condition_id = ?1 AND result.counted = 1 ORDER BY result.activation ASC LIMIT ?2"
        ))
        .bind(condition.0)
        .bind(limit)
        .fetch_all(&mut *self.tx)
        .await
        .map_err(reading("the lowest images of a condition"))
    }

    /// The image with the highest predicted activation of each condition of an experiment, in the order of the conditions.
    pub async fn best_of_each(&mut self, experiment: ExperimentId) -> Result<Vec<Image>, ViewError> {
        sqlx::query_as(images!(
            "WHERE condition.experiment_id = ?1 AND result.id = (
                 SELECT best.id FROM result AS best WHERE best.condition_id = condition.id AND best.counted = 1
                 ORDER BY best.activation DESC LIMIT 1)
             ORDER BY condition.id"
        ))
        .bind(experiment.0)
        .fetch_all(&mut *self.tx)
        .await
        .map_err(reading("the best image of each condition"))
    }

    /// Images per hour since the first one of the last `window` milliseconds; `None` if fewer than two came in.
    pub async fn images_per_hour(&mut self, window: i64) -> Result<Option<f64>, ViewError> {
        let (images, first): (i64, Option<i64>) =
            sqlx::query_as("SELECT count(*), min(created_at) FROM result WHERE counted = 1 AND created_at > ?1")
                .bind(self.now - window)
                .fetch_one(&mut *self.tx)
                .await
                .map_err(reading("the rate of images"))?;
        // The first image only starts the clock: a campaign that has just begun is not slow.
        let since = first.map_or(0, |first| self.now - first).max(1);
        Ok((images > 1).then(|| (images - 1) as f64 * 3_600_000.0 / since as f64))
    }
}
