//! Guided sampling of one image per seed, and its scores.

use super::input::{Input, ModelFolder};
use super::objective::{Objective, VoxelSet};
use super::sampling::Sampling;
use crate::ids::Digest;
use crate::probe::ProbeClass;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

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

impl SampleCondition {
    /// Keys of the conditions whose products it reads.
    pub fn reads(&self) -> impl Iterator<Item = &Digest> {
        let clusters = self.objective.terms.iter().filter_map(|term| match &term.voxels {
            VoxelSet::Cluster { clusters, .. } => clusters.maker(),
            VoxelSet::Rows { .. } | VoxelSet::Roi { .. } | VoxelSet::Volume(_) => None,
        });
        self.models.encoder.maker().into_iter().chain(clusters)
    }
}

/// The model folders of a condition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Models {
    /// Stable Diffusion in the layout of `diffusers`: `unet/`, `vae/`, `text_encoder/`, `tokenizer/`, `scheduler/`.
    pub diffusion: ModelFolder,
    /// OpenCLIP model whose image tower is the encoder's backbone.
    pub backbone: ModelFolder,
    /// The subject's voxel head: `head.safetensors` and `config.json`.
    pub encoder: Input,
    /// OpenCLIP CoCa model that classifies the images.
    pub probe: ModelFolder,
}
