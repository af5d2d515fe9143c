//! What an experiment file asks for, in numbers: conditions, jobs, GPU-hours.

use super::draft::{Draft, Work};
use super::fields::Located;
use super::sample::SampleDraft;
use super::sampling::{self, Setting};
use crate::plan::{Plan, PlannedCondition};
use protocol::job::Kind;
use serde::Serialize;
use std::collections::BTreeSet;

/// Seconds of one guided 512 × 512 image of 50 steps on a V100: Luo et al. 2023, supplement (compute), give 20 to 30.
const REFERENCE_SECONDS: f64 = 25.0;
const REFERENCE_STEPS: f64 = 50.0;
const REFERENCE_PIXELS: f64 = 512.0 * 512.0;

/// One pass of the image towers, generously.
const SCORE_SECONDS: f64 = 0.1;
/// Nobody knows before the first is done: data and settings differ too much.
const FOLDER_SECONDS: f64 = 3600.0;

/// The size of an experiment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    pub name: String,
    pub kind: Kind,
    /// Experiments that come first.
    pub needs: Vec<String>,
    pub subjects: u64,
    pub regions: u64,
    /// The swept parameters and how many values each has.
    pub axes: Vec<Axis>,
    pub conditions: u64,
    pub seeds: u64,
    pub jobs: u64,
    /// Of samples the mean over the conditions, scaled from the reference by steps × pixels; of simulated jobs what the file says; of
    /// others a guess.
    pub assumed_seconds_per_image: f64,
    pub budget_gpu_hours: Option<f64>,
}

/// A swept parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Axis {
    pub name: String,
    pub values: u64,
}

/// GPU time that jobs will need.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Estimate {
    pub jobs: u64,
    pub seconds_per_image: f64,
    pub gpu_hours: f64,
    /// Where `seconds_per_image` comes from, in words.
    pub basis: &'static str,
}

impl Summary {
    /// The size of `draft`, which has no mistakes. Scores are as many as `plan` says: the file has no grid.
    pub fn of(draft: &Draft, plan: Option<&Plan>) -> Self {
        let assumed_seconds_per_image = match &draft.work {
            Work::Folder(_) => FOLDER_SECONDS,
            Work::Sample(sample) => seconds_per_sample(sample),
            Work::Score(_) => SCORE_SECONDS,
            Work::Simulate(simulate) => simulate.seconds,
        };
        let distinct = |name: fn(&PlannedCondition) -> &str| {
            let names = plan.iter().flat_map(|plan| &plan.conditions).map(name);
            names.collect::<BTreeSet<_>>().len() as u64
        };
        let size = match draft.grid() {
            Some(grid) => {
                let axes =
                    grid.axes.iter().map(|axis| Axis { name: axis.name.clone(), values: axis.values.len() as u64 });
                // A grid without regions has one without a name.
                let regions = grid.regions.iter().filter(|region| !region.value.is_empty()).count() as u64;
                let subjects = grid.subjects.len() as u64;
                (subjects, regions, axes.collect(), grid.conditions(), grid.seeds.len() as u64)
            }
            None => {
                let conditions = plan.map_or(0, |plan| plan.conditions.len() as u64);
                let seeds = plan.map_or(0, |plan| plan.seeds.len() as u64);
                (
                    distinct(|condition| &condition.subject),
                    distinct(|condition| &condition.region),
                    Vec::new(),
                    conditions,
                    seeds,
                )
            }
        };
        let (subjects, regions, axes, conditions, seeds) = size;
        Self {
            name: draft.name.clone(),
            kind: draft.kind(),
            needs: draft.needs.iter().map(|need| need.value.clone()).collect(),
            subjects,
            regions,
            axes,
            conditions,
            seeds,
            jobs: conditions.saturating_mul(seeds),
            assumed_seconds_per_image,
            budget_gpu_hours: draft.budget_gpu_hours,
        }
    }

    /// What `jobs` of the experiment's jobs will need; `measured`: mean seconds of its jobs that are done, if there are any.
    pub fn estimate(&self, jobs: u64, measured: Option<f64>) -> Estimate {
        let (seconds_per_image, basis) = match measured {
            Some(seconds) => (seconds, "measured on this experiment's finished jobs"),
            None => {
                let basis = match self.kind {
                    Kind::Sample => {
                        "assumed: 25 s per guided 512 px image of 50 steps on a V100, scaled by steps × pixels"
                    }
                    Kind::Score => "assumed: 0.1 s per image",
                    Kind::Prepare | Kind::Fit | Kind::Cluster => "assumed: an hour per job, until the first is done",
                    Kind::Simulate => "as the file says; nothing is computed",
                };
                (self.assumed_seconds_per_image, basis)
            }
        };
        Estimate { jobs, seconds_per_image, gpu_hours: jobs as f64 * seconds_per_image / 3600.0, basis }
    }

    /// The conditions as a product: `2 subjects × 5 regions × 3 gamma`.
    pub fn product(&self) -> String {
        let mut factors = vec![plural(self.subjects, "subject")];
        factors.extend((self.regions > 0).then(|| plural(self.regions, "region")));
        factors.extend(self.axes.iter().map(|axis| format!("{} {}", axis.values, axis.name)));
        factors.join(" × ")
    }
}

/// Mean over the conditions.
fn seconds_per_sample(draft: &SampleDraft) -> f64 {
    let cells = draft.grid.cells();
    let seconds = |cell: &Vec<&Located<Setting>>| {
        let settings = draft.settings_at(cell);
        let sampling = sampling::resolve(settings.clone());
        let strength = sampling::start(settings).map_or(1.0, |(_, strength)| strength);
        let steps = sampling::steps_run(sampling.steps, strength);
        let pixels = f64::from(sampling.size[0]) * f64::from(sampling.size[1]);
        REFERENCE_SECONDS * f64::from(steps) / REFERENCE_STEPS * pixels / REFERENCE_PIXELS
    };
    cells.iter().map(seconds).sum::<f64>() / cells.len() as f64
}

/// `1 job`, `2 jobs`.
pub fn plural(count: u64, noun: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{s}")
}
