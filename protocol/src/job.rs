//! What a job is: the parameters that decide its result, as the coordinator planned them.
//!
//! Everything that all seeds of a condition share stands in a [`Condition`], which travels once per claim; a job adds its seed.

use crate::ids::Digest;
use crate::probe::ProbeClass;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The kinds of work a worker can do. Every kind has its own file under `worker/src/tasks/`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Condition {
    /// Guided sampling of one image per seed, and its scores.
    Sample(Box<SampleCondition>),
}

/// One cell of the grid without its seeds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SampleCondition {
    /// The grid's name of the subject, for example `subj01`.
    pub subject: String,
    /// The experiment's name of the region, for example `FFA`.
    pub region: String,
    pub models: Models,
    /// What guidance maximises.
    pub objective: Objective,
    pub sampling: Sampling,
    /// Prompt classes of the zero-shot probe, in the order in which similarities are reported.
    pub probes: Vec<ProbeClass>,
    /// The probe class that the region is known to prefer, if the experiment says so.
    pub prefers: Option<String>,
}

/// The model folders of a condition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Models {
    /// Stable Diffusion in the layout of `diffusers`: `unet/`, `vae/`, `text_encoder/`, `tokenizer/`, `scheduler/`.
    pub diffusion: ModelFolder,
    /// OpenCLIP model whose image tower is the encoder's backbone.
    pub backbone: ModelFolder,
    /// The subject's voxel head: `head.safetensors` and `config.json`.
    pub encoder: ModelFolder,
    /// OpenCLIP CoCa model that classifies the images.
    pub probe: ModelFolder,
}

impl Models {
    /// Each folder with its role's name, in a fixed order.
    pub fn folders(&self) -> [(&'static str, &ModelFolder); 4] {
        [
            ("diffusion", &self.diffusion),
            ("backbone", &self.backbone),
            ("encoder", &self.encoder),
            ("probe", &self.probe),
        ]
    }
}

/// A model folder, the files in it that decide results, and their digests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFolder {
    /// Absolute path as the coordinator sees it; workers see the same file system.
    pub path: PathBuf,
    /// sha256 over the manifest's lines `<sha256>  <name>\n`, in the manifest's order.
    pub digest: Digest,
    /// Sorted by name.
    pub files: Vec<ModelFile>,
}

/// One file of a model folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFile {
    /// Path below the folder, with `/`.
    pub name: String,
    pub bytes: u64,
    pub sha256: Digest,
}

/// A weighted sum of region means: `Σ_k weight_k · sum_{v ∈ S_k}(W_v·f + b_v) / denominator_k`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Objective {
    pub terms: Vec<Term>,
}

/// One region of an objective.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Term {
    /// Positive to maximise, negative to suppress.
    pub weight: f64,
    pub voxels: VoxelSet,
}

/// Which of the head's voxels a term averages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum VoxelSet {
    /// Row numbers of the head, resolved when the experiment was submitted.
    Rows {
        rows: Vec<u32>,
        /// The mean's denominator. Larger than the number of rows where the mask holds voxels that the head does not
        /// predict and the mean is taken over the whole mask (preset `paper`).
        denominator: u32,
    },
    /// Voxels of the subject's volumes, resolved by the worker through the head's `voxel_ijk`.
    Volume(VolumeMask),
}

/// A mask in the subject's functional volume: label volume, threshold map, or mask file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VolumeMask {
    /// A NIfTI volume; voxels whose value is one of `labels`, or any positive value where `labels` is empty.
    pub mask: PathBuf,
    pub mask_sha256: Digest,
    pub labels: Vec<i32>,
    /// Further restricts the mask to voxels whose value in this NIfTI map is larger than the threshold.
    pub t_map: Option<PathBuf>,
    pub t_map_sha256: Option<Digest>,
    pub t_above: Option<f64>,
    /// Whether the mean is over the whole mask (true: preset `paper`) or over the voxels that the head predicts.
    pub whole_mask_mean: bool,
}

/// Parameters of the guided sampler (science: Luo et al. 2023, section 3.2 and supplement).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    pub preset: Preset,
    pub steps: u32,
    /// Guidance scale γ; 0 samples without guidance.
    pub gamma: f64,
    /// Self-attention guidance scale; 0 turns it off.
    pub sag_scale: f64,
    /// Image width and height in pixels.
    pub size: [u32; 2],
    pub prompt: String,
    pub final_sigma: FinalSigma,
}

/// Which of the choices that paper and code leave open are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// As the authors' code ran: mean over the whole mask, last σ = sigma_min.
    Paper,
    /// The clean objective: mean over the voxels that the head predicts, last σ = 0.
    Default,
}

/// The noise level of the solver's last target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinalSigma {
    Zero,
    SigmaMin,
}
