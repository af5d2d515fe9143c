//! What a model folder must hold for its role, looked at without loading a model: the layout of diffusers (Stable Diffusion),
//! image towers and CoCa as OpenCLIP, timm and `transformers` publish them, image towers of torchvision, and voxel heads. Weights are whatever file workers would
//! read, found and opened by the same [`checkpoint`]; of it, names and shapes are checked.

use super::diagnose::{Diagnostics, Place};
use checkpoint::{Backbone, Checkpoint, Layout, Names, Problem};
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

/// A CLIP model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clip {
    pub bundle: Bundle,
    /// Features per image.
    pub features: u64,
}

/// A subject's voxel head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub bundle: Bundle,
    /// The file of the weights.
    pub path: PathBuf,
    /// `config.json`; a checkpoint of the trainer may come without.
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
    let tokens = "embeddings.token_embedding.weight";
    look.weights("text_encoder", Names::TRANSFORMERS, &[&format!("text_model.{tokens}"), tokens]);
    look.need("unet/config.json");
    look.weights("unet", Names::DIFFUSERS, &["time_embedding.linear_1.weight"]);
    let vae: Option<Vae> = look.json("vae/config.json");
    let autoencoder = look.weights("vae", Names::DIFFUSERS, &["post_quant_conv.weight"]);
    let has_vae_encoder = autoencoder.is_some_and(|checkpoint| {
        ["encoder.conv_in.weight", "quant_conv.weight"].iter().all(|name| checkpoint.tensors().contains_key(*name))
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

/// Looks at a folder with an image tower, as OpenCLIP, timm or `transformers` publish it.
pub fn backbone(folder: &Path, place: Place, diagnostics: &mut Diagnostics) -> Option<Clip> {
    let mut look = Look::new("backbone", folder);
    let layout = match Backbone::find(folder) {
        Ok(found) => found.layout,
        // Nothing is there: told as for OpenCLIP, the layout of this project's own folders.
        Err(error) if error.path == folder => Layout::OpenClip,
        Err(error) => {
            look.blame(&error);
            look.tell(place, diagnostics);
            return None;
        }
    };
    let features = look.image_tower(layout);
    let bundle = look.tell(place, diagnostics)?;
    Some(Clip { bundle, features: features? })
}

/// Looks at a folder with a CoCa model, which only OpenCLIP publishes.
pub fn probe(folder: &Path, place: Place, diagnostics: &mut Diagnostics) -> Option<Clip> {
    let mut look = Look::new("probe", folder);
    let features = look.image_tower(Layout::OpenClip);
    let bundle = look.tell(place, diagnostics)?;
    Some(Clip { bundle, features: features? })
}

/// Looks at a subject's encoder folder.
pub fn head(folder: &Path, place: Place, diagnostics: &mut Diagnostics) -> Option<Head> {
    #[derive(Default, Deserialize)]
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
    const WHOLE: &str = "head.safetensors";
    let mut look = Look::new("encoder", folder);
    let found = checkpoint::Head::find(folder).ok().filter(|path| path.is_file());
    // A checkpoint of the trainer knows no regions and comes without a configuration.
    let trainers = found.as_ref().is_some_and(|path| !path.ends_with(WHOLE));
    let config: Option<Config> = match trainers && !folder.join("config.json").is_file() {
        true => Some(Config::default()),
        false => look.json("config.json"),
    };
    let head = match checkpoint::Head::open(folder) {
        Ok(head) => Some(head),
        Err(error) => {
            match error.problem {
                Problem::NoHead(_) => look.missing.push(WHOLE.to_owned()),
                _ if !folder.is_dir() => look.missing.push(WHOLE.to_owned()),
                // Told with the configuration itself.
                Problem::Config(_) => {}
                _ => look.blame(&error),
            }
            None
        }
    };
    let voxel_ijk = head.as_ref().and_then(|head| look.voxel_ijk(head));
    if let (Some(config), Some(head)) = (&config, &head) {
        look.took(&head.checkpoint);
        for (name, said, has) in
            [("voxels", config.voxels, head.voxels as u64), ("features", config.features, head.features as u64)]
        {
            if let Some(said) = said.filter(|said| *said != has) {
                let file = look.name(head.checkpoint.path());
                look.damaged.push(format!("config.json says {said} {name}, the weight in {file} has {has}"));
            }
        }
    }
    let bundle = look.tell(place, diagnostics)?;
    let (config, head) = (config?, head?);
    Some(Head {
        bundle,
        path: head.checkpoint.path().to_owned(),
        config: folder.join("config.json"),
        voxels: head.voxels as u64,
        features: head.features as u64,
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

    /// Opens the weights in the folder `below`, which must have one of the tensors `telling`: without them they are those of
    /// another network.
    fn weights(&mut self, below: &str, names: Names, telling: &[&str]) -> Option<Checkpoint> {
        match names.open(&self.folder.join(below)) {
            Ok(checkpoint) => {
                self.took(&checkpoint);
                if !telling.iter().any(|key| checkpoint.tensors().contains_key(*key)) {
                    let name = self.name(checkpoint.path());
                    let key = telling.first().copied().unwrap_or_default();
                    self.damaged.push(format!("{name} has no tensor `{key}`: it is of another network"));
                }
                Some(checkpoint)
            }
            Err(error) => {
                match &error.problem {
                    // Told by its usual name.
                    Problem::NoWeights(candidates) => {
                        let usual = candidates.first().map(|name| self.name(&error.path.join(name)));
                        self.missing.extend(usual);
                    }
                    _ => self.blame(&error),
                }
                None
            }
        }
    }

    /// Features per image of the tower in the folder.
    fn image_tower(&mut self, layout: Layout) -> Option<u64> {
        #[derive(Deserialize)]
        struct OpenClip {
            model_cfg: Model,
        }
        #[derive(Deserialize)]
        struct Model {
            embed_dim: u64,
        }
        let (said, telling) = match layout {
            Layout::OpenClip => {
                let config: Option<OpenClip> = self.json("open_clip_config.json");
                (config.map(|config| config.model_cfg.embed_dim), "visual.proj")
            }
            Layout::Timm => {
                self.need("config.json");
                (None, "head.weight")
            }
            Layout::Transformers => {
                self.need("config.json");
                // It says how pixels are normalised.
                if self.folder.join("preprocessor_config.json").is_file() {
                    self.need("preprocessor_config.json");
                }
                (None, "visual_projection.weight")
            }
            Layout::Torchvision => {
                self.need("config.json");
                (None, "readout.0.weight")
            }
        };
        let checkpoint = self.weights("", layout.names(), &[telling])?;
        let has = layout.features(&checkpoint)? as u64;
        if let Some(said) = said.filter(|said| *said != has) {
            let name = self.name(checkpoint.path());
            self.damaged
                .push(format!("open_clip_config.json says embed_dim {said}, `{telling}` in {name} makes {has}"));
        }
        Some(has)
    }

    /// Where the voxels of a head lie: integers [voxels, 3].
    fn voxel_ijk(&mut self, head: &checkpoint::Head) -> Option<Vec<[i64; 3]>> {
        let tensor = head.checkpoint.tensors().get("voxel_ijk")?;
        let integers = head.checkpoint.integers(tensor).filter(|_| tensor.shape == [head.voxels, 3]);
        if integers.is_none() {
            self.damaged.push(format!(
                "`voxel_ijk` in {} is {:?} {:?}, expected integers [{}, 3]",
                self.name(head.checkpoint.path()),
                tensor.dtype,
                tensor.shape,
                head.voxels
            ));
        }
        Some(integers?.as_chunks::<3>().0.to_vec())
    }

    /// Notes the files of weights as the folder's.
    fn took(&mut self, checkpoint: &Checkpoint) {
        let names: Vec<String> = checkpoint.files().map(|path| self.name(path)).collect();
        self.names.extend(names);
    }

    fn blame(&mut self, error: &checkpoint::Error) {
        self.damaged.push(format!("{} {}", self.name(&error.path), error.problem));
    }

    /// A file's name below the folder.
    fn name(&self, path: &Path) -> String {
        match path.strip_prefix(&self.folder) {
            Ok(name) if name != Path::new("") => name.display().to_string(),
            _ => path.display().to_string(),
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
