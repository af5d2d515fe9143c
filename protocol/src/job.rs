//! What a job is: the parameters that decide its result, as the coordinator planned them.
//!
//! Everything that all seeds of a condition share stands in a [`Condition`], which travels once per claim; a job adds its seed.

use crate::ids::Digest;
use crate::outcome::FailureClass;
use crate::probe::ProbeClass;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// What all seeds of a condition share. Every kind of work has its own file under `worker/src/tasks/`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Condition {
    /// Guided sampling of one image per seed, and its scores.
    Sample(Box<SampleCondition>),
    /// Nothing but time: for load tests and rehearsals of failures.
    Simulate(SimulateCondition),
}

impl Condition {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Sample(_) => Kind::Sample,
            Self::Simulate(_) => Kind::Simulate,
        }
    }
}

/// A kind of work. A worker says which kinds it can do, and is given no others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Sample,
    Simulate,
}

impl Kind {
    pub const ALL: [Kind; 2] = [Self::Sample, Self::Simulate];

    /// The name used in the database, on the wire and in experiment files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sample => "sample",
            Self::Simulate => "simulate",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A text that names no kind of work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a kind of work: expected sample or simulate")]
pub struct UnknownKind(String);

impl FromStr for Kind {
    type Err = UnknownKind;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| UnknownKind(text.to_owned()))
    }
}

/// One cell of a grid of simulated jobs: each waits, then fails or gives a small picture of noise. No model is needed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimulateCondition {
    pub subject: String,
    pub region: String,
    /// How long a job takes, seconds.
    pub seconds: f64,
    /// Share of `seconds` by which a job takes longer or shorter, drawn from its seed: 0 takes the same time always, 0.5
    /// between half and one and a half.
    #[serde(default)]
    pub spread: f64,
    /// Probability that an attempt fails in a class, drawn anew for every attempt; what is left is success.
    #[serde(default)]
    pub fail: BTreeMap<FailureClass, f64>,
    /// Least size of the picture, bytes.
    #[serde(default)]
    pub bytes: u32,
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
    /// Where the image of `sampling.start` lies: an absolute path as the coordinator sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_image: Option<PathBuf>,
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
///
/// The optional ones are written only where they are not at their defaults: a parameter that is added leaves the keys of all
/// earlier conditions as they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    pub preset: Preset,
    /// Of the whole schedule, from pure noise.
    pub steps: u32,
    /// Guidance scale γ; 0 samples without guidance.
    pub gamma: f64,
    /// Self-attention guidance scale; 0 turns it off.
    pub sag_scale: f64,
    /// Image width and height in pixels.
    pub size: [u32; 2],
    pub prompt: String,
    pub final_sigma: FinalSigma,
    #[serde(default, skip_serializing_if = "is_default")]
    pub solver: Solver,
    #[serde(default, skip_serializing_if = "is_default")]
    pub noise: NoiseLayout,
    /// Classifier-free guidance scale s: ε_∅ + s (ε_prompt − ε_∅). `None` (s = 1): the prompt's own prediction.
    #[serde(default, skip_serializing_if = "is_default")]
    pub text_guidance: Option<f64>,
    /// `None`: from pure noise.
    #[serde(default, skip_serializing_if = "is_default")]
    pub start: Option<Start>,
    /// Brain guidance acts in step i of n if from ≤ i/n < to. `None`: in every step.
    #[serde(default, skip_serializing_if = "is_default")]
    pub guidance_interval: Option<[f64; 2]>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub gradient: Gradient,
    #[serde(default, skip_serializing_if = "is_default")]
    pub precision: Precision,
}

impl Default for Sampling {
    /// Preset `default`.
    fn default() -> Self {
        Self {
            preset: Preset::Default,
            steps: 50,
            gamma: 130.0,
            sag_scale: 0.75,
            size: [512, 512],
            prompt: String::new(),
            final_sigma: FinalSigma::Zero,
            solver: Solver::default(),
            noise: NoiseLayout::default(),
            text_guidance: None,
            start: None,
            guidance_interval: None,
            gradient: Gradient::default(),
            precision: Precision::default(),
        }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// An image to start from (SDEdit, Meng et al. 2022): its latents, noised to where the last `strength` of the schedule begins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// sha256 of the PNG file, whose size is the sample's.
    pub image: Digest,
    /// Share of the schedule that is run: above 0, at most 1.
    pub strength: f64,
}

/// Which of the choices that paper and code leave open are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// As the authors' code ran: mean over the whole mask, last σ = sigma_min, half precision.
    Paper,
    /// The clean objective: mean over the voxels that the head predicts, last σ = 0, single precision.
    Default,
}

/// The noise level of the solver's last target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinalSigma {
    Zero,
    SigmaMin,
}

/// How latents get from one noise level to the next. All solvers walk the same timesteps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Solver {
    /// DPM-Solver++(2M), of second order.
    #[default]
    #[serde(rename = "dpm_solver_pp_2m")]
    DpmSolverPp2m,
    #[serde(rename = "ddim")]
    Ddim,
    #[serde(rename = "euler")]
    Euler,
}

/// Whose sequence of normal numbers a seed names: that of PyTorch's generator on a GPU, or on the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoiseLayout {
    #[default]
    TorchCuda,
    TorchCpu,
}

/// What the gradient of brain guidance flows through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gradient {
    /// Encoder, decoder and UNet.
    #[default]
    Full,
    /// Encoder and decoder: the noise prediction counts as a constant.
    PredX0,
}

/// What UNet and VAE compute in; the encoder always computes in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// f32
    #[default]
    Single,
    /// f16, as the authors' code.
    Half,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The text that was hashed into the keys of conditions before there were optional parameters.
    #[test]
    fn parameters_at_their_defaults_are_not_written() {
        let before = r#"{"preset":"default","steps":50,"gamma":130.0,"sag_scale":0.75,"size":[512,512],"prompt":"","final_sigma":"zero"}"#;
        assert_eq!(serde_json::to_string(&Sampling::default()).unwrap(), before);
        assert_eq!(serde_json::from_str::<Sampling>(before).unwrap(), Sampling::default());
    }

    #[test]
    fn every_parameter_reads_back_and_an_unknown_one_is_refused() {
        let sampling = Sampling {
            solver: Solver::DpmSolverPp2m,
            noise: NoiseLayout::TorchCpu,
            text_guidance: Some(7.5),
            start: Some(Start { image: Digest::from_bytes(&[7; 32]), strength: 0.6 }),
            guidance_interval: Some([0.0, 0.5]),
            gradient: Gradient::PredX0,
            precision: Precision::Half,
            ..Sampling::default()
        };
        for solver in [Solver::DpmSolverPp2m, Solver::Ddim, Solver::Euler] {
            let sampling = Sampling { solver, ..sampling.clone() };
            let text = serde_json::to_string(&sampling).unwrap();
            assert_eq!(serde_json::from_str::<Sampling>(&text).unwrap(), sampling, "{text}");
            let error = serde_json::from_str::<Sampling>(&text.replace("noise", "nose")).unwrap_err().to_string();
            assert!(error.contains("unknown field `nose`"), "{error}");
        }
    }
}
