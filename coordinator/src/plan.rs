//! What an experiment file asks for, resolved: conditions, seeds, and the keys that make submitting idempotent.

use crate::spec::resolve::Cell;
use crate::spec::sample::SampleDraft;
use crate::spec::sampling;
use crate::spec::simulate::SimulateDraft;
use protocol::ids::{Digest, Seed};
use protocol::job::{
    ClusterCondition, Condition, FitCondition, Kind, Models, Objective, PrepareCondition, SampleCondition, Sampling,
    ScoreCondition, SimulateCondition, Start, VoxelSet,
};
use protocol::outcome::FailureClass;
use protocol::probe::ProbeClass;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;

/// A validated experiment, ready to become rows: every condition × every seed is a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub experiment: Experiment,
    pub conditions: Vec<PlannedCondition>,
    /// Without duplicates, in the order of the file.
    pub seeds: Vec<Seed>,
}

impl Plan {
    /// Conditions × seeds.
    pub fn jobs(&self) -> u64 {
        self.conditions.len() as u64 * self.seeds.len() as u64
    }
}

/// What belongs to the experiment as a whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Experiment {
    pub name: String,
    pub description: String,
    pub kind: Kind,
    /// Larger is claimed first.
    pub priority: i32,
    /// Weight of the experiment among those of its priority: workers' time is shared in proportion.
    pub share: f64,
    /// `retries` + 1.
    pub max_attempts: u32,
    /// How often a job may be lost with its worker, or meet a faulty device, before it is taken for the culprit.
    pub max_losses: u32,
    /// Experiments whose conditions must be done before those of this one that agree with them on every axis that both have.
    pub needs: Vec<String>,
    pub budget_gpu_hours: Option<f64>,
    /// The file's text as it was submitted.
    pub yaml: String,
}

/// One cell of the grid.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedCondition {
    /// sha256 of everything that decides a result but the seed (see [`key`]). Paths are not part of it, so that moving a
    /// folder makes no new conditions.
    pub key: Digest,
    pub subject: String,
    pub region: String,
    /// The other axes of the grid and this cell's values on them, for example `{"gamma": 14.0}`.
    pub axes: BTreeMap<String, serde_json::Value>,
    pub spec: Condition,
}

/// Every cell × every combination of the swept parameters, the last axis running fastest.
pub fn samples(draft: &SampleDraft, cells: &[Cell]) -> Vec<PlannedCondition> {
    let points = draft.grid.cells();
    let mut conditions = Vec::with_capacity(cells.len() * points.len());
    for cell in cells {
        for point in &points {
            let settings = draft.settings_at(point);
            let start =
                sampling::start(settings.clone()).and_then(|(name, strength)| Some((cell.images.get(name)?, strength)));
            let sampling = Sampling {
                start: start.map(|(image, strength)| Start { image: image.sha256.clone(), strength }),
                ..sampling::resolve(settings)
            };
            let condition = SampleCondition {
                subject: cell.subject.clone(),
                region: cell.region.clone(),
                models: Models::clone(&cell.models),
                objective: cell.objective.objective(sampling.preset),
                sampling,
                probes: draft.probes.clone(),
                prefers: cell.prefers.clone(),
                init_image: start.map(|(image, _)| image.path.clone()),
            };
            let spec = Condition::Sample(Box::new(condition));
            conditions.push(PlannedCondition {
                key: key(&spec),
                subject: cell.subject.clone(),
                region: cell.region.clone(),
                axes: point.iter().map(|setting| (setting.value.name().to_owned(), setting.value.to_json())).collect(),
                spec,
            });
        }
    }
    conditions
}

/// Every condition of simulated jobs.
pub fn simulated(draft: &SimulateDraft) -> Vec<PlannedCondition> {
    let planned = |condition: SimulateCondition| {
        let (subject, region) = (condition.subject.clone(), condition.region.clone());
        let spec = Condition::Simulate(condition);
        PlannedCondition { key: key(&spec), subject, region, axes: BTreeMap::new(), spec }
    };
    draft.conditions().map(planned).collect()
}

/// sha256 of the canonical JSON of everything that decides a condition's results but the seed. Paths are left out, but for that of a
/// dataset, which is known by its place.
pub fn key(condition: &Condition) -> Digest {
    match condition {
        Condition::Prepare(condition) => prepared_key(condition),
        Condition::Fit(condition) => {
            let FitCondition { subject, data, backbone, settings, out: _ } = &**condition;
            folder_key(Kind::Fit, subject, "", &[data.identity(), backbone.digest.to_string()], settings)
        }
        Condition::Cluster(condition) => {
            let ClusterCondition { subject, region, encoder, settings, out: _ } = &**condition;
            folder_key(Kind::Cluster, subject, region, &[encoder.identity()], settings)
        }
        Condition::Sample(condition) => sampled_key(condition),
        Condition::Score(condition) => scored_key(condition),
        Condition::Simulate(condition) => simulated_key(condition),
    }
}

fn prepared_key(condition: &PrepareCondition) -> Digest {
    let PrepareCondition { subject, settings, files, out: _ } = condition;
    let mut settings = settings.clone();
    // Their digests stand for them.
    settings.food = None;
    if files.contains_key("split") {
        settings.split.clear();
    }
    let inputs: Vec<String> = files.iter().map(|(setting, digest)| format!("{setting} {digest}")).collect();
    folder_key(Kind::Prepare, subject, "", &inputs, &settings)
}

fn folder_key(kind: Kind, subject: &str, region: &str, inputs: &[String], settings: &impl Serialize) -> Digest {
    /// Serialised in this order; a change of it would make every condition new.
    #[derive(Serialize)]
    struct Decides<'a, S> {
        kind: Kind,
        subject: &'a str,
        region: &'a str,
        inputs: &'a [String],
        settings: &'a S,
    }
    sha256(&Decides { kind, subject, region, inputs, settings })
}

fn scored_key(condition: &ScoreCondition) -> Digest {
    /// Serialised in this order; a change of it would make every condition new.
    #[derive(Serialize)]
    struct Decides<'a> {
        kind: &'static str,
        images: &'a Digest,
        backbone: &'a Digest,
        encoder: String,
        probe: &'a Digest,
        objective: Vec<DecidesTerm<'a>>,
        probes: &'a [ProbeClass],
    }
    // What else is said of the images is in their condition's key.
    let ScoreCondition { images, scored: SampleCondition { models, objective, probes, .. } } = condition;
    sha256(&Decides {
        kind: "score",
        images,
        backbone: &models.backbone.digest,
        encoder: models.encoder.identity(),
        probe: &models.probe.digest,
        objective: terms(objective),
        probes,
    })
}

/// sha256 of the canonical JSON of everything about a condition of simulated jobs.
fn simulated_key(condition: &SimulateCondition) -> Digest {
    /// Serialised in this order; a change of it would make every condition new.
    #[derive(Serialize)]
    struct Decides<'a> {
        kind: &'static str,
        subject: &'a str,
        region: &'a str,
        seconds: f64,
        spread: f64,
        fail: &'a BTreeMap<FailureClass, f64>,
        bytes: u32,
    }
    let &SimulateCondition { ref subject, ref region, seconds, spread, ref fail, bytes } = condition;
    sha256(&Decides { kind: "simulate", subject, region, seconds, spread, fail, bytes })
}

fn sha256(decides: &impl Serialize) -> Digest {
    let canonical = serde_json::to_vec(decides).expect("texts and numbers have a JSON form");
    Digest::from_bytes(&Sha256::digest(canonical).into())
}

#[derive(Serialize)]
struct DecidesTerm<'a> {
    weight: f64,
    voxels: DecidesVoxels<'a>,
}

#[derive(Serialize)]
#[serde(tag = "by", rename_all = "snake_case")]
enum DecidesVoxels<'a> {
    Rows {
        rows: &'a [u32],
        denominator: u32,
    },
    Roi {
        name: &'a str,
        whole_mask_mean: bool,
    },
    Cluster {
        clusters: String,
        number: u32,
    },
    Volume {
        mask: &'a Digest,
        labels: &'a [i32],
        t_map: Option<&'a Digest>,
        t_above: Option<f64>,
        whole_mask_mean: bool,
    },
}

fn terms(objective: &Objective) -> Vec<DecidesTerm<'_>> {
    let voxels = |voxels| match voxels {
        &VoxelSet::Rows { ref rows, denominator } => DecidesVoxels::Rows { rows, denominator },
        &VoxelSet::Roi { ref name, whole_mask_mean } => DecidesVoxels::Roi { name, whole_mask_mean },
        &VoxelSet::Cluster { ref clusters, number } => DecidesVoxels::Cluster { clusters: clusters.identity(), number },
        VoxelSet::Volume(mask) => DecidesVoxels::Volume {
            mask: &mask.mask_sha256,
            labels: &mask.labels,
            t_map: mask.t_map_sha256.as_ref(),
            t_above: mask.t_above,
            whole_mask_mean: mask.whole_mask_mean,
        },
    };
    objective.terms.iter().map(|term| DecidesTerm { weight: term.weight, voxels: voxels(&term.voxels) }).collect()
}

/// Names, parameters, prompts of the probe, digests of models and masks; not `prefers`, which only says how results are counted.
fn sampled_key(condition: &SampleCondition) -> Digest {
    /// Serialised in this order; a change of it would make every condition new.
    #[derive(Serialize)]
    struct Decides<'a> {
        kind: &'static str,
        subject: &'a str,
        region: &'a str,
        diffusion: &'a Digest,
        backbone: &'a Digest,
        encoder: String,
        probe: &'a Digest,
        objective: Vec<DecidesTerm<'a>>,
        sampling: &'a Sampling,
        probes: &'a [ProbeClass],
    }
    let SampleCondition { subject, region, models, objective, sampling, probes, prefers: _, init_image: _ } = condition;
    sha256(&Decides {
        kind: "sample",
        subject,
        region,
        diffusion: &models.diffusion.digest,
        backbone: &models.backbone.digest,
        encoder: models.encoder.identity(),
        probe: &models.probe.digest,
        objective: terms(objective),
        sampling,
        probes,
    })
}
