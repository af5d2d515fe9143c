//! Under whose names a folder holds an image tower: those of OpenCLIP, timm, `transformers` or torchvision.

use super::error::{Error, Problem};
use super::files::Names;
use super::mapped::Checkpoint;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Whose names the tensors have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `open_clip_config.json`; `visual.*`.
    OpenClip,
    /// `config.json` with `architecture`; `patch_embed`, `blocks.N`, `head`.
    Timm,
    /// `config.json` with `model_type` clip or clip_vision_model; `vision_model.*`, `visual_projection`.
    Transformers,
    /// `config.json` with `model_type` torchvision_vit; `conv_proj`, `encoder.*`, and `readout` from all blocks to the features.
    Torchvision,
}

/// An image tower in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backbone {
    pub layout: Layout,
    pub config: PathBuf,
}

impl Backbone {
    /// Looks at a folder. Published folders may hold a model under several names: OpenCLIP's count first, if both its
    /// configuration and its weights are there, else `config.json` says which.
    ///
    /// # Errors
    /// No configuration, or none that is known.
    pub fn find(folder: &Path) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Config {
            architecture: Option<String>,
            model_type: Option<String>,
        }
        let (open_clip, config) = (folder.join("open_clip_config.json"), folder.join("config.json"));
        if open_clip.is_file() && (Names::OPEN_CLIP.find(folder).is_ok() || !config.is_file()) {
            return Ok(Self { layout: Layout::OpenClip, config: open_clip });
        }
        if !config.is_file() {
            return Err(Problem::NoLayout.of(folder));
        }
        let text = std::fs::read(&config).map_err(|error| Problem::Read(error).of(&config))?;
        let said: Config = serde_json::from_slice(&text).map_err(|error| Problem::Config(error).of(&config))?;
        let layout = match (said.architecture, said.model_type.as_deref()) {
            (Some(_), _) => Layout::Timm,
            (None, Some("torchvision_vit")) => Layout::Torchvision,
            (None, Some("clip" | "clip_vision_model")) => Layout::Transformers,
            _ => return Err(Problem::NoLayout.of(&config)),
        };
        Ok(Self { layout, config })
    }
}

impl Layout {
    /// The names of the weights.
    pub fn names(self) -> Names {
        match self {
            Self::OpenClip => Names::OPEN_CLIP,
            Self::Timm | Self::Transformers | Self::Torchvision => Names::TRANSFORMERS,
        }
    }

    /// Features per image, as the matrix that makes them has them; `None` if it is missing.
    pub fn features(self, checkpoint: &Checkpoint) -> Option<usize> {
        let (key, axis) = match self {
            Self::OpenClip => ("visual.proj", 1),
            Self::Timm => ("head.weight", 0),
            Self::Transformers => ("visual_projection.weight", 0),
            Self::Torchvision => ("readout.0.weight", 0),
        };
        match checkpoint.tensors().get(key)?.shape[..] {
            [outputs, inputs] => Some([outputs, inputs][axis]),
            _ => None,
        }
    }
}
