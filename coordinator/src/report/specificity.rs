//! How often images fall into the class that their region prefers, guided against unguided (Luo et al. 2023, Table 1).

use super::proportion::Proportion;
use crate::queue::view::{Axes, Condition, Science, Score, Snapshot, ViewError};
use protocol::ids::ExperimentId;
use serde::Serialize;
use std::collections::BTreeMap;

/// One condition's scores.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Specificity {
    pub condition: Condition,
    /// Guidance scale γ; 0 is unguided.
    pub gamma: f64,
    pub prefers: Option<String>,
    /// Counted images by probe class, in the order of the probe's classes.
    pub classes: Vec<(String, u64)>,
    pub images: u64,
    /// Sum of predicted activation, z-scored beta units.
    pub activation_sum: f64,
}

impl Specificity {
    /// Mean predicted activation, z-scored beta units; `None` without images.
    pub fn mean_activation(&self) -> Option<f64> {
        (self.images > 0).then(|| self.activation_sum / self.images as f64)
    }

    /// Images in the preferred class; `None` without images or without a preferred class.
    pub fn in_preferred(&self) -> Option<Proportion> {
        let prefers = self.prefers.as_ref()?;
        let hits = self.classes.iter().filter(|(class, _)| class == prefers).map(|(_, images)| images).sum();
        Proportion::new(hits, self.images)
    }
}

/// A guided condition and the unguided one that differs from it only in γ.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Pair<'a> {
    pub guided: &'a Specificity,
    pub unguided: &'a Specificity,
}

/// Conditions taken together.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Pool {
    pub images: u64,
    pub activation_sum: f64,
    /// Over the conditions that have a preferred class.
    pub in_preferred: Option<Proportion>,
}

impl Pool {
    pub fn of<'a>(rows: impl IntoIterator<Item = &'a Specificity>) -> Self {
        let mut pool = Self::default();
        for row in rows {
            pool.images += row.images;
            pool.activation_sum += row.activation_sum;
            pool.in_preferred = match (pool.in_preferred, row.in_preferred()) {
                (Some(sum), Some(more)) => Some(sum.pooled(more)),
                (sum, more) => sum.or(more),
            };
        }
        pool
    }

    /// Mean predicted activation over all images; `None` without images.
    pub fn mean_activation(&self) -> Option<f64> {
        (self.images > 0).then(|| self.activation_sum / self.images as f64)
    }
}

/// The table of an experiment, a row per condition in the order of the conditions.
pub async fn read(snapshot: &mut Snapshot, experiment: ExperimentId) -> Result<Vec<Specificity>, ViewError> {
    let conditions = snapshot.conditions(Some(experiment)).await?;
    let science = snapshot.science(experiment).await?;
    let scores = snapshot.scores(experiment).await?;
    Ok(table(conditions, &science, &scores))
}

/// Joins conditions with what their specs say and with their scores.
pub fn table(conditions: Vec<Condition>, science: &[Science], scores: &[Score]) -> Vec<Specificity> {
    let science: BTreeMap<_, _> = science.iter().map(|science| (science.condition, science)).collect();
    let mut by_condition: BTreeMap<_, Vec<&Score>> = BTreeMap::new();
    for score in scores {
        by_condition.entry(score.condition).or_default().push(score);
    }
    conditions
        .into_iter()
        .filter_map(|condition| {
            let science = science.get(&condition.id)?;
            let scores = by_condition.get(&condition.id).map_or(&[][..], Vec::as_slice);
            let images_of = |class: &str| scores.iter().filter(|s| s.class == class).map(|s| s.images).sum();
            let mut classes: Vec<(String, u64)> =
                science.classes.iter().map(|class| (class.clone(), images_of(class))).collect();
            for score in scores.iter().filter(|s| !science.classes.contains(&s.class)) {
                classes.push((score.class.clone(), score.images));
            }
            Some(Specificity {
                gamma: science.gamma,
                prefers: science.prefers.clone(),
                classes,
                images: scores.iter().map(|s| s.images).sum(),
                activation_sum: scores.iter().map(|s| s.activation_sum).sum(),
                condition,
            })
        })
        .collect()
}

/// Every guided condition beside its unguided one; empty where γ is not an axis with 0 on it.
pub fn pairs(rows: &[Specificity]) -> Vec<Pair<'_>> {
    let cell = |row: &Specificity| -> (String, String, Axes) {
        (row.condition.subject.clone(), row.condition.region.clone(), row.condition.axes.without("gamma"))
    };
    let unguided: Vec<_> = rows.iter().filter(|row| row.gamma == 0.0).map(|row| (cell(row), row)).collect();
    rows.iter()
        .filter(|row| row.gamma != 0.0)
        .filter_map(|guided| {
            let wanted = cell(guided);
            unguided.iter().find(|(cell, _)| *cell == wanted).map(|(_, unguided)| Pair { guided, unguided })
        })
        .collect()
}
