//! The sections of an experiment that scores another one's images, and its conditions: that one's, with other models.

use super::diagnose::{Diagnostics, Place};
use super::fields::{Fields, Located};
use super::files::Files;
use super::known::Known;
use super::model::{self, ModelNames, Whereabouts};
use super::objective::{Resolved, Subject};
use super::probes;
use super::region::{self, Region};
use super::resolve::{self, Named};
use crate::plan::{self, PlannedCondition};
use protocol::ids::Seed;
use protocol::job::{Condition, Kind, Objective, SampleCondition, ScoreCondition, VoxelSet};
use protocol::probe::ProbeClass;
use std::collections::HashMap;

/// What is scored with what.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreDraft {
    /// The experiment whose images are scored; it comes first.
    pub images: Option<Located<String>>,
    models: ModelNames,
    /// In the file's order; `None` for a region with a mistake.
    regions: Vec<(String, Option<Region>)>,
    /// `None`: those that classified the images before.
    probes: Option<Vec<ProbeClass>>,
}

/// What the voxels of a region are to the scoring encoder.
enum Voxels {
    /// The same as when the images were made: they are named by place or by name.
    AsGuided,
    Resolved(Resolved, Option<String>),
}

impl ScoreDraft {
    pub fn read(fields: &Fields<'_>, diagnostics: &mut Diagnostics) -> Self {
        let images = fields.required("images", diagnostics).and_then(|node| {
            let value = node.name("`images`, the name of an experiment", diagnostics)?;
            Some(Located { place: node.place, value })
        });
        let optional = ["probe", "volumes", "clusters"];
        let models = fields.required("models", diagnostics);
        let models = models.map(|node| model::read(node, &["backbone", "encoder"], &optional, diagnostics));
        let probes = fields.get("probes").and_then(|node| probes::read(node, diagnostics));
        let regions =
            fields.get("regions").map(|node| region::read(node, probes.as_deref(), diagnostics)).unwrap_or_default();
        Self { images, models: models.unwrap_or_default(), regions, probes }
    }

    /// Every condition of the images' experiment, with the models that score, and its seeds; `None` if anything is wrong, missing
    /// or damaged, all of which is told.
    pub fn resolve(
        &self,
        places: &Whereabouts,
        known: &Known,
        files: &mut Files<'_>,
        diagnostics: &mut Diagnostics,
    ) -> Option<(Vec<PlannedCondition>, Vec<Seed>)> {
        let images = self.images.as_ref()?;
        let Some(needed) = known.get(&images.value) else {
            if diagnostics.is_empty() {
                diagnostics
                    .missing(
                        images.place,
                        format!("there is no experiment `{}` here, whose images to score", images.value),
                    )
                    .note("submit it first, or name its file before this one");
            }
            return None;
        };
        if needed.kind != Kind::Sample {
            diagnostics
                .mistake(
                    images.place,
                    format!("`{}` makes no images: its jobs are of kind {}", images.value, needed.kind),
                )
                .note("expected an experiment of kind sample");
            return None;
        }
        let sampled: Vec<(&PlannedCondition, &SampleCondition)> = needed
            .conditions
            .iter()
            .filter_map(|condition| match &condition.spec {
                Condition::Sample(sample) => Some((condition, &**sample)),
                _ => None,
            })
            .collect();
        let mut subjects: Vec<&str> = Vec::new();
        for (condition, _) in &sampled {
            if !subjects.contains(&condition.subject.as_str()) {
                subjects.push(&condition.subject);
            }
        }
        let opened = resolve::open(&self.models, &subjects, places, known, diagnostics);
        let mut voxels = HashMap::new();
        for (name, models) in &opened {
            let subject = Subject { name, encoder: models.encoder.as_ref(), models: &self.models, places, known };
            for (condition, sample) in sampled.iter().filter(|(condition, _)| condition.subject == *name) {
                let cell = (name.as_str(), condition.region.as_str());
                voxels.entry(cell).or_insert_with(|| self.voxels(&subject, sample, images.place, files, diagnostics));
            }
        }
        if !diagnostics.is_empty() {
            return None;
        }
        let mut named: HashMap<&str, Named> = HashMap::new();
        for (name, models) in &opened {
            named.insert(name, models.hash(&self.models, files, diagnostics)?);
        }
        let conditions = sampled.into_iter().map(|(condition, sample)| {
            let (objective, prefers) =
                match voxels.get(&(condition.subject.as_str(), condition.region.as_str()))?.as_ref()? {
                    Voxels::AsGuided => (sample.objective.clone(), sample.prefers.clone()),
                    Voxels::Resolved(resolved, prefers) => {
                        (resolved.objective(sample.sampling.preset), prefers.clone().or(sample.prefers.clone()))
                    }
                };
            let scored = SampleCondition {
                models: named.get(condition.subject.as_str())?.complete(Some(&sample.models))?,
                objective,
                probes: self.probes.as_ref().unwrap_or(&sample.probes).clone(),
                prefers,
                ..sample.clone()
            };
            let spec = Condition::Score(Box::new(ScoreCondition { images: condition.key.clone(), scored }));
            Some(PlannedCondition { key: plan::key(&spec), spec, ..condition.clone() })
        });
        Some((conditions.collect::<Option<_>>()?, needed.seeds.clone()))
    }

    /// The region as this file defines it, else as it was when the images were made; rows of another head mean nothing, so that a
    /// region which was given by them is the scoring encoder's ROI of that name.
    fn voxels(
        &self,
        subject: &Subject<'_>,
        sample: &SampleCondition,
        place: Place,
        files: &mut Files<'_>,
        diagnostics: &mut Diagnostics,
    ) -> Option<Voxels> {
        let is_defined = self.regions.iter().any(|(name, _)| *name == sample.region);
        if !is_defined && !has_rows(&sample.objective) {
            return Some(Voxels::AsGuided);
        }
        let region = Located { place, value: sample.region.clone() };
        let definition = resolve::defined(&self.regions, &region, subject, diagnostics)?;
        let resolved = subject.resolve(&sample.region, &definition, files, diagnostics)?;
        Some(Voxels::Resolved(resolved, definition.prefers))
    }
}

fn has_rows(objective: &Objective) -> bool {
    objective.terms.iter().any(|term| matches!(term.voxels, VoxelSet::Rows { .. }))
}
