//! What an image tower is made of, read from the configuration of whoever published it: OpenCLIP, timm, or `transformers`; or, of torchvision's
//! towers, by the import that gave them a readout.

use super::open_clip::{LAYER_NORM_EPS, OpenClipConfig, Preprocess};
use crate::error::{Error, Result};
use crate::layers::Activation;
use crate::weights::read_config;
use checkpoint::{Backbone, Layout};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::Path;

/// Sizes of a vision transformer, what it computes with, and whose names its tensors have.
#[derive(Debug, Clone)]
pub struct VitConfig {
    pub layout: Layout,
    /// Features per image.
    pub features: usize,
    /// Side of the square input, pixels.
    pub image_size: usize,
    /// Side of a square patch, pixels.
    pub patch_size: usize,
    pub width: usize,
    pub layers: usize,
    pub heads: usize,
    /// Width of the feed-forward layers.
    pub hidden: usize,
    pub activation: Activation,
    /// Added to the variance by layer norms.
    pub eps: f64,
    /// The shorter side in pixels of the antialiased image whose centre is the input; `None`: the input is the whole image.
    pub crop_from: Option<usize>,
    pub preprocess: Preprocess,
    /// Whether heads read the features brought to unit norm.
    pub unit_norm: bool,
}

impl VitConfig {
    /// Reads the configuration of the tower that was found in a folder.
    ///
    /// # Errors
    /// The file is broken, or describes another network than CLIP's vision transformer.
    pub fn read(backbone: &Backbone) -> Result<Self> {
        let path = &backbone.config;
        match backbone.layout {
            Layout::OpenClip => Ok(Self::open_clip(&OpenClipConfig::read(path)?)),
            Layout::Timm => Self::timm(path),
            Layout::Transformers => Self::transformers(path),
            Layout::Torchvision => Self::read_torchvision(path),
        }
    }

    /// Tokens of an image: its class and its patches.
    pub fn tokens(&self) -> usize {
        1 + (self.image_size / self.patch_size).pow(2)
    }

    /// The image tower of an OpenCLIP model.
    pub fn open_clip(config: &OpenClipConfig) -> Self {
        let (model, vision) = (&config.model_cfg, &config.model_cfg.vision_cfg);
        Self {
            layout: Layout::OpenClip,
            features: model.embed_dim,
            image_size: vision.image_size,
            patch_size: vision.patch_size,
            width: vision.width,
            layers: vision.layers,
            heads: vision.width / vision.head_width,
            hidden: (vision.width as f64 * vision.mlp_ratio) as usize,
            activation: model.activation(),
            eps: LAYER_NORM_EPS,
            crop_from: None,
            preprocess: config.preprocess_cfg.clone(),
            unit_norm: true,
        }
    }

    /// timm's `config.json`. The architecture's name gives the sizes, `model_args` may change them.
    fn timm(path: &Path) -> Result<Self> {
        let fixed = json!({ "global_pool": "token", "model_args": { "in_chans": 3, "global_pool": "token" } });
        let config: Timm = read_config(path, &fixed)?;
        let unknown = || Error::Unsupported {
            path: path.to_owned(),
            key: "architecture".to_owned(),
            found: config.architecture.clone(),
            expected: "vit_base, vit_large or vit_huge of CLIP, such as vit_base_patch16_clip_224".to_owned(),
        };
        let architecture = Architecture::named(&config.architecture).ok_or_else(unknown)?;
        let args = config.model_args;
        let width = args.embed_dim.unwrap_or(architecture.width);
        let this = Self {
            layout: Layout::Timm,
            features: args.num_classes.unwrap_or(config.num_classes),
            image_size: args.img_size.unwrap_or(config.pretrained_cfg.input_size[2]),
            patch_size: args.patch_size.unwrap_or(architecture.patch_size),
            width,
            layers: args.depth.unwrap_or(architecture.layers),
            heads: args.num_heads.unwrap_or(architecture.heads),
            hidden: (width as f64 * args.mlp_ratio.unwrap_or(4.0)) as usize,
            activation: architecture.activation,
            eps: LAYER_NORM_EPS,
            crop_from: None,
            preprocess: Preprocess { mean: config.pretrained_cfg.mean, std: config.pretrained_cfg.std },
            unit_norm: true,
        };
        this.checked(path, ["num_classes", "patch_size", "num_heads"])
    }

    /// `config.json` of a `CLIPModel` or a `CLIPVisionModelWithProjection`, and `preprocessor_config.json` beside it, if it is there.
    fn transformers(path: &Path) -> Result<Self> {
        let vision = json!({ "num_channels": 3 });
        let config: Transformers = match read_config::<Value>(path, &json!({}))?["vision_config"] {
            Value::Null => read_config(path, &vision)?,
            _ => read_config::<WholeClip>(path, &json!({ "vision_config": vision }))?.into(),
        };
        let beside = path.with_file_name("preprocessor_config.json");
        let preprocess = match beside.is_file() {
            true => read_config::<Preprocessor>(&beside, &json!({ "do_normalize": true }))?,
            false => Preprocessor::default(),
        };
        let this = Self {
            layout: Layout::Transformers,
            features: config.projection_dim,
            image_size: config.image_size,
            patch_size: config.patch_size,
            width: config.hidden_size,
            layers: config.num_hidden_layers,
            heads: config.num_attention_heads,
            hidden: config.intermediate_size,
            activation: config.hidden_act,
            eps: config.layer_norm_eps,
            crop_from: None,
            preprocess: Preprocess { mean: preprocess.image_mean, std: preprocess.image_std },
            unit_norm: true,
        };
        this.checked(path, ["projection_dim", "patch_size", "num_attention_heads"])
    }

    /// `config.json` of a torchvision `VisionTransformer` whose blocks are all read out.
    fn read_torchvision(path: &Path) -> Result<Self> {
        Self::torchvision(read_config(path, &json!({}))?, path)
    }

    /// A tower of torchvision; `path` is where its sizes were found.
    ///
    /// # Errors
    /// They cannot be computed with.
    pub fn torchvision(config: Torchvision, path: &Path) -> Result<Self> {
        let this = Self {
            layout: Layout::Torchvision,
            features: config.features,
            image_size: config.image_size,
            patch_size: config.patch_size,
            width: config.hidden_dim,
            layers: config.num_layers,
            heads: config.num_heads,
            hidden: config.mlp_dim,
            activation: Activation::Gelu,
            eps: 1e-6,
            crop_from: Some(config.resize_size),
            preprocess: Preprocess { mean: config.mean, std: config.std },
            unit_norm: config.unit_norm,
        };
        let this = this.checked(path, ["features", "patch_size", "num_heads"])?;
        match this.crop_from {
            Some(side) if side < this.image_size => Err(Error::Unsupported {
                path: path.to_owned(),
                key: "resize_size".to_owned(),
                found: side.to_string(),
                expected: format!("at least the image_size, {}", this.image_size),
            }),
            _ => Ok(this),
        }
    }

    /// Refuses what cannot be computed. `keys`: the file's names of features, patch size and heads.
    fn checked(self, path: &Path, keys: [&str; 3]) -> Result<Self> {
        let divides = |part: usize, whole: usize| part > 0 && whole > 0 && whole.is_multiple_of(part);
        let (image, width) = (self.image_size, self.width);
        for (fits, key, found, expected) in [
            (self.features > 0, keys[0], self.features, "the number of features per image".to_owned()),
            (divides(self.patch_size, image), keys[1], self.patch_size, format!("a divisor of {image} pixels")),
            (divides(self.heads, width), keys[2], self.heads, format!("a divisor of the width {width}")),
        ] {
            if !fits {
                let (path, key, found) = (path.to_owned(), key.to_owned(), found.to_string());
                return Err(Error::Unsupported { path, key, found, expected });
            }
        }
        Ok(self)
    }
}

/// The arguments of torchvision's `VisionTransformer` and of its `ImageClassification` transforms, by their names, and what the
/// readout makes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Torchvision {
    pub image_size: usize,
    pub patch_size: usize,
    pub hidden_dim: usize,
    pub num_layers: usize,
    pub num_heads: usize,
    pub mlp_dim: usize,
    pub resize_size: usize,
    pub mean: [f32; 3],
    pub std: [f32; 3],
    /// Features per image, and whether heads read them brought to unit norm.
    pub features: usize,
    pub unit_norm: bool,
}

#[derive(Deserialize)]
struct Timm {
    architecture: String,
    num_classes: usize,
    #[serde(default)]
    model_args: TimmArgs,
    pretrained_cfg: TimmPretrained,
}

/// Arguments of the model's constructor, as far as they are known here: any other could change what it computes.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TimmArgs {
    num_classes: Option<usize>,
    #[serde(deserialize_with = "side_of_square")]
    img_size: Option<usize>,
    patch_size: Option<usize>,
    embed_dim: Option<usize>,
    depth: Option<usize>,
    num_heads: Option<usize>,
    mlp_ratio: Option<f64>,
    #[serde(rename = "in_chans")]
    _in_chans: Option<usize>,
    #[serde(rename = "global_pool")]
    _global_pool: Option<String>,
}

/// A number, or two equal ones.
fn side_of_square<'de, D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Option<usize>, D::Error> {
    let value = Value::deserialize(from)?;
    let side = match value.as_array().map(Vec::as_slice) {
        Some([height, width]) if height == width => width.as_u64(),
        Some(_) => None,
        None => value.as_u64(),
    };
    if side.is_none() && !value.is_null() {
        return Err(serde::de::Error::custom(format!("img_size is {value}, expected the side of a square")));
    }
    Ok(side.map(|side| side as usize))
}

#[derive(Deserialize)]
struct TimmPretrained {
    /// Channels, height, width.
    input_size: [usize; 3],
    mean: [f32; 3],
    std: [f32; 3],
}

/// What the name of an architecture of timm says (timm's `vision_transformer.py`).
struct Architecture {
    width: usize,
    layers: usize,
    heads: usize,
    patch_size: usize,
    activation: Activation,
}

impl Architecture {
    /// `vit_{size}_patch{pixels}_clip_{side}` or `vit_{size}_patch{pixels}_clip_quickgelu_{side}`.
    fn named(name: &str) -> Option<Self> {
        let (size, rest) = name.strip_prefix("vit_")?.split_once("_patch")?;
        let (patch, rest) = rest.split_once("_clip_")?;
        let (activation, side) = match rest.strip_prefix("quickgelu_") {
            Some(side) => (Activation::QuickGelu, side),
            None => (Activation::Gelu, rest),
        };
        side.parse::<usize>().ok()?;
        let (width, layers, heads) = match size {
            "base" => (768, 12, 12),
            "large" => (1024, 24, 16),
            "huge" => (1280, 32, 16),
            _ => return None,
        };
        Some(Self { width, layers, heads, patch_size: patch.parse().ok()?, activation })
    }
}

/// Configuration of a `CLIPVisionModel`; the defaults are those of `transformers`, which leaves them out of its files.
#[derive(Deserialize)]
#[serde(default)]
struct Transformers {
    projection_dim: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    image_size: usize,
    patch_size: usize,
    hidden_act: Activation,
    layer_norm_eps: f64,
}

impl Default for Transformers {
    fn default() -> Self {
        Self {
            projection_dim: 512,
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            image_size: 224,
            patch_size: 32,
            hidden_act: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
        }
    }
}

/// Configuration of a `CLIPModel`: both towers share its projection.
#[derive(Deserialize)]
struct WholeClip {
    #[serde(default = "default_projection")]
    projection_dim: usize,
    vision_config: Transformers,
}

fn default_projection() -> usize {
    Transformers::default().projection_dim
}

impl From<WholeClip> for Transformers {
    fn from(clip: WholeClip) -> Self {
        Self { projection_dim: clip.projection_dim, ..clip.vision_config }
    }
}

/// `preprocessor_config.json`; the defaults are CLIP's.
#[derive(Deserialize)]
#[serde(default)]
struct Preprocessor {
    image_mean: [f32; 3],
    image_std: [f32; 3],
}

impl Default for Preprocessor {
    fn default() -> Self {
        Self { image_mean: [0.48145466, 0.4578275, 0.40821073], image_std: [0.268_629_54, 0.261_302_6, 0.275_777_1] }
    }
}
