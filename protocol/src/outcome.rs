//! How an attempt ends: a result, or a failure of a named class.

use crate::ids::{Digest, Fence, JobId, WorkerId};
use crate::job::ModelFile;
use crate::named;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// `POST /api/v1/result`: the job is done. The image must have been uploaded before, by this job or another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Completed {
    pub worker: WorkerId,
    pub job: JobId,
    pub fence: Fence,
    pub result: JobResult,
}

/// What a job gave, by its kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum JobResult {
    Prepare(Box<FolderResult>),
    Fit(Box<FolderResult>),
    Cluster(Box<FolderResult>),
    Sample(Box<SampleResult>),
    /// Of the image that was scored.
    Score(Box<SampleResult>),
    Simulate(SimulateResult),
}

impl JobResult {
    /// Digest of the image, under which it was uploaded.
    pub fn image(&self) -> &Digest {
        match self {
            Self::Prepare(result) | Self::Fit(result) | Self::Cluster(result) => &result.image_sha256,
            Self::Sample(result) | Self::Score(result) => &result.image_sha256,
            Self::Simulate(result) => &result.image_sha256,
        }
    }

    /// Whether the job made the image; if not, it is stored already.
    pub fn brings_image(&self) -> bool {
        !matches!(self, Self::Score(_))
    }

    pub fn seconds(&self) -> &PhaseSeconds {
        match self {
            Self::Prepare(result) | Self::Fit(result) | Self::Cluster(result) => &result.seconds,
            Self::Sample(result) | Self::Score(result) => &result.seconds,
            Self::Simulate(result) => &result.seconds,
        }
    }

    pub fn seconds_mut(&mut self) -> &mut PhaseSeconds {
        match self {
            Self::Prepare(result) | Self::Fit(result) | Self::Cluster(result) => &mut result.seconds,
            Self::Sample(result) | Self::Score(result) => &mut result.seconds,
            Self::Simulate(result) => &mut result.seconds,
        }
    }

    /// What encoder and probe say of the image, if it is a guided sample.
    pub fn scores(&self) -> Option<&SampleResult> {
        match self {
            Self::Sample(result) | Self::Score(result) => Some(result),
            Self::Prepare(_) | Self::Fit(_) | Self::Cluster(_) | Self::Simulate(_) => None,
        }
    }

    /// What was made, if it is a folder.
    pub fn folder(&self) -> Option<&FolderResult> {
        match self {
            Self::Prepare(result) | Self::Fit(result) | Self::Cluster(result) => Some(result),
            Self::Sample(_) | Self::Score(_) | Self::Simulate(_) => None,
        }
    }
}

/// What a job gave that makes a folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FolderResult {
    /// Digest of a picture of what was made (PNG), under which it was uploaded.
    pub image_sha256: Digest,
    /// The folder: an absolute path as the worker sees it.
    pub out: PathBuf,
    /// All that it holds, as its `manifest.json` says.
    pub files: Vec<ModelFile>,
    /// sha256 of what was read, by role, for example `backbone`.
    pub inputs: BTreeMap<String, Digest>,
    /// Numbers for people, for example `images` or `median_r2`.
    pub summary: BTreeMap<String, f64>,
    /// The work itself stands under `sampling`.
    pub seconds: PhaseSeconds,
    /// `cpu` or `cuda:N`.
    pub device: String,
    pub software: String,
}

/// What a simulated job gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SimulateResult {
    /// Digest of the PNG, under which it was uploaded.
    pub image_sha256: Digest,
    /// The time slept stands under `sampling`.
    pub seconds: PhaseSeconds,
    /// `cpu` or `cuda:N`.
    pub device: String,
    pub software: String,
}

/// What one guided sample gave, or what was said of one later.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SampleResult {
    /// Digest of the PNG, under which it was uploaded.
    pub image_sha256: Digest,
    /// The objective's predicted activation of the saved 8-bit image, z-scored beta units.
    pub activation: f64,
    /// Predicted activation of every named ROI of the subject's encoder, mean over its voxels.
    pub roi_activation: BTreeMap<String, f64>,
    pub probe: ProbeResult,
    /// Digest of every model folder that took part, by role: diffusion, backbone, encoder, probe.
    pub models: BTreeMap<String, Digest>,
    /// γ times (voxels predicted / mask's denominator): what the gradient was really scaled by.
    pub effective_gamma: f64,
    pub seconds: PhaseSeconds,
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// What the run did otherwise than the recipe of the paper, in words; empty for the exact recipe.
    pub deviations: Vec<String>,
    pub software: String,
}

/// Zero-shot classification of the saved image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProbeResult {
    /// The class of the single prompt with the highest cosine.
    pub class: String,
    /// Best cosine per class, in the condition's order.
    pub class_similarity: Vec<f64>,
    /// Cosine of every prompt, in the condition's order.
    pub similarity: Vec<f64>,
}

/// Wall seconds by phase, for the GPU-second ledger. Jobs of one batch each have their share of the phases that they went
/// through together.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct PhaseSeconds {
    /// How long the slot stood idle before this job, after the one before it.
    #[serde(default)]
    pub waiting: f64,
    pub loading: f64,
    pub sampling: f64,
    pub scoring: f64,
    /// Beside the next job: the slot is free meanwhile.
    pub uploading: f64,
}

impl PhaseSeconds {
    /// Seconds for which the job had its slot to itself.
    pub fn computing(&self) -> f64 {
        self.loading + self.sampling + self.scoring
    }
}

/// `POST /api/v1/fail`: the attempt failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failed {
    pub worker: WorkerId,
    pub job: JobId,
    pub fence: Fence,
    pub class: FailureClass,
    /// What was being done, to which file, what was found, what to do.
    pub message: String,
    pub seconds: PhaseSeconds,
}

/// Why an attempt failed. The worker names the class, the coordinator's policy table decides what happens next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    OutOfMemory,
    DeviceFault,
    /// The lease ran out.
    Lost,
    Preempted,
    /// Given back by a worker that was asked to stop.
    Drained,
    /// The inputs are wrong; a retry cannot mend that.
    BadInput,
    /// NaN or infinity in latents or scores.
    NonFinite,
    Io,
    Timeout,
    Bug,
}

named!(FailureClass, "a failure class", {
    OutOfMemory: "out_of_memory",
    DeviceFault: "device_fault",
    Lost: "lost",
    Preempted: "preempted",
    Drained: "drained",
    BadInput: "bad_input",
    NonFinite: "non_finite",
    Io: "io",
    Timeout: "timeout",
    Bug: "bug",
});

/// What the coordinator did with a result or a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Disposition {
    /// It counts.
    Accepted,
    /// The same message had been accepted before; nothing changed.
    Duplicate,
    /// Its fence is old: a result is kept for audit and never counted, a failure is ignored.
    Superseded,
}

/// The answer to [`Completed`] and [`Failed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    pub disposition: Disposition,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_class_reads_back_from_its_name_and_from_json() {
        for class in FailureClass::ALL {
            assert_eq!(class.as_str().parse(), Ok(class));
            assert_eq!(serde_json::to_string(&class).ok(), Some(format!("\"{class}\"")));
        }
        assert!("lots".parse::<FailureClass>().is_err());
    }
}
