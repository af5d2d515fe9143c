//! What a model folder must hold for its role, looked at without loading a model: layouts of diffusers (Stable Diffusion)
//! and OpenCLIP, and the encoder's `head.safetensors` with `config.json`. Weights are the one whole file that workers read, not
//! shards or a half precision variant.

use super::diagnose::{Diagnostics, Place};
use super::files::chain;
use super::tensors::{self, Header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A model folder with all its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    pub folder: PathBuf,
    /// The files that decide results, paths below the folder.
    pub names: Vec<String>,
}

/// Stable Diffusion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diffusion {
    pub bundle: Bundle,
    /// Pixels per latent, along a side.
    pub vae_factor: u32,
    /// Whether images can be turned into latents; some copies of the weights hold a decoder only.
    pub has_vae_encoder: bool,
}

/// An OpenCLIP model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenClip {
    pub bundle: Bundle,
    /// Width of the embedding that image and text share.
    pub embed_dim: u64,
}

/// A subject's voxel head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub bundle: Bundle,
    /// `head.safetensors`.
    pub path: PathBuf,
    /// `config.json`.
    pub config: PathBuf,
    pub voxels: u64,
    /// Width of the features that the head reads.
    pub features: u64,
    pub rois: BTreeMap<String, Vec<u32>>,
    pub clusters: BTreeMap<String, Vec<u32>>,
    /// Voxels of the whole mask, for the regions where it is larger than what the head predicts.
    pub mask_voxels: BTreeMap<String, u32>,
    /// Where the head's voxels lie in the subject's volume.
    pub voxel_ijk: Option<Vec<[i64; 3]>>,
}

/// Looks at a folder in the layout of diffusers.
pub fn diffusion(folder: &Path, place: Place, diagnostics: &mut Diagnostics) -> Option<Diffusion> {
    #[derive(Deserialize)]
    struct Vae {
        block_out_channels: Vec<u32>,
    }
    let mut look = Look::new("diffusion", folder);
    for name in ["model_index.json", "scheduler/scheduler_config.json", "tokenizer/vocab.json", "tokenizer/merges.txt"]
    {
        look.need(name);
    }
    look.need("text_encoder/config.json");
    look.tensors("text_encoder/model.safetensors");
    look.need("unet/config.json");
    look.tensors("unet/diffusion_pytorch_model.safetensors");
    let vae: Option<Vae> = look.json("vae/config.json");
    let vae_header = look.tensors("vae/diffusion_pytorch_model.safetensors");
    let has_vae_encoder = vae_header.is_some_and(|header| {
        ["encoder.conv_in.weight", "quant_conv.weight"].iter().all(|name| header.tensors.contains_key(*name))
    });
    // Every block of the VAE but the last halves the resolution.
    let halvings = vae.map(|vae| vae.block_out_channels.len().saturating_sub(1) as u32);
    let vae_factor = halvings.and_then(|halvings| 2_u32.checked_pow(halvings));
    if halvings.is_some() && vae_factor.is_none() {
        look.damaged.push("vae/config.json has too many blocks".to_owned());
    }
    let bundle = look.tell(place, diagnostics)?;
    Some(Diffusion { bundle, vae_factor: vae_factor?, has_vae_encoder })
}

/// Looks at a folder in the layout of OpenCLIP; `role` is `backbone` or `probe`.
pub fn open_clip(role: &'static str, folder: &Path, place: Place, diagnostics: &mut Diagnostics) -> Option<OpenClip> {
    #[derive(Deserialize)]
    struct Config {
        model_cfg: Model,
    }
    #[derive(Deserialize)]
    struct Model {
        embed_dim: u64,
    }
    let mut look = Look::new(role, folder);
    let config: Option<Config> = look.json("open_clip_config.json");
    look.tensors("open_clip_model.safetensors");
    let bundle = look.tell(place, diagnostics)?;
    Some(OpenClip { bundle, embed_dim: config?.model_cfg.embed_dim })
}

/// Looks at a subject's encoder folder.
pub fn head(folder: &Path, place: Place, diagnostics: &mut Diagnostics) -> Option<Head> {
    #[derive(Deserialize)]
    struct Config {
        voxels: Option<u64>,
        features: Option<u64>,
        #[serde(default)]
        rois: BTreeMap<String, Vec<u32>>,
        #[serde(default)]
        clusters: BTreeMap<String, Vec<u32>>,
        #[serde(default)]
        mask_voxels: BTreeMap<String, u32>,
    }
    let mut look = Look::new("encoder", folder);
    let config: Option<Config> = look.json("config.json");
    let header = look.tensors("head.safetensors");
    let path = folder.join("head.safetensors");
    let mut shape = None;
    let mut voxel_ijk = None;
    if let Some(header) = &header {
        shape = look.head_shape(header);
        voxel_ijk = tensors::voxel_ijk(&path, header).unwrap_or_else(|error| {
            look.damaged.push(format!("head.safetensors {}", chain(&error)));
            None
        });
    }
    if let (Some(config), Some((voxels, features))) = (&config, shape) {
        for (name, said, has) in [("voxels", config.voxels, voxels), ("features", config.features, features)] {
            if let Some(said) = said.filter(|said| *said != has) {
                look.damaged.push(format!("config.json says {said} {name}, the weight in head.safetensors has {has}"));
            }
        }
        if voxel_ijk.as_ref().is_some_and(|ijk| ijk.len() as u64 != voxels) {
            look.damaged.push(format!("`voxel_ijk` in head.safetensors does not have the weight's {voxels} voxels"));
        }
    }
    let bundle = look.tell(place, diagnostics)?;
    let (config, (voxels, features)) = (config?, shape?);
    Some(Head {
        bundle,
        path,
        config: folder.join("config.json"),
        voxels,
        features,
        rois: config.rois,
        clusters: config.clusters,
        mask_voxels: config.mask_voxels,
        voxel_ijk,
    })
}

/// A look into a folder: what it holds of what its role needs.
struct Look {
    role: &'static str,
    folder: PathBuf,
    names: BTreeSet<String>,
    missing: Vec<String>,
    damaged: Vec<String>,
}

impl Look {
    fn new(role: &'static str, folder: &Path) -> Self {
        Self { role, folder: folder.to_owned(), names: BTreeSet::new(), missing: Vec::new(), damaged: Vec::new() }
    }

    /// The path of the file `name`, if it is there.
    fn need(&mut self, name: &str) -> Option<PathBuf> {
        let path = self.folder.join(name);
        if path.is_file() {
            self.names.insert(name.to_owned());
            Some(path)
        } else {
            self.missing.push(name.to_owned());
            None
        }
    }

    fn json<T: DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        let path = self.need(name)?;
        let text =
            fs::read(&path).map_err(|error| self.damaged.push(format!("{name} cannot be read: {error}"))).ok()?;
        serde_json::from_slice(&text)
            .map_err(|error| self.damaged.push(format!("{name} is not what it should be: {error}")))
            .ok()
    }

    fn tensors(&mut self, name: &str) -> Option<Header> {
        let path = self.need(name)?;
        tensors::header(&path).map_err(|error| self.damaged.push(format!("{name} {}", chain(&error)))).ok()
    }

    /// Voxels and features of a head: `weight` is [voxels, features], `bias` [voxels].
    fn head_shape(&mut self, header: &Header) -> Option<(u64, u64)> {
        let shape = |name: &str| header.tensors.get(name).map(|tensor| tensor.shape.as_slice());
        match (shape("weight"), shape("bias")) {
            (Some(&[voxels, features]), Some(&[biases])) if voxels == biases && voxels > 0 => Some((voxels, features)),
            (weight, bias) => {
                let word = |shape: Option<&[u64]>| shape.map_or("missing".to_owned(), |shape| format!("{shape:?}"));
                self.damaged.push(format!(
                    "head.safetensors: `weight` is {}, `bias` is {}, expected [voxels, features] and [voxels]",
                    word(weight),
                    word(bias)
                ));
                None
            }
        }
    }

    /// Tells what is missing or damaged, all of it.
    fn tell(self, place: Place, diagnostics: &mut Diagnostics) -> Option<Bundle> {
        for name in &self.missing {
            let message = format!("`{}`: files are missing", self.role);
            diagnostics.missing_file(place, &message, &self.folder.join(name));
        }
        for damage in &self.damaged {
            diagnostics
                .missing(place, format!("`{}`: {damage}", self.role))
                .note(format!("in {}", self.folder.display()));
        }
        (self.missing.is_empty() && self.damaged.is_empty())
            .then(|| Bundle { folder: self.folder, names: self.names.into_iter().collect() })
    }
}
