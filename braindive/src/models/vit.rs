//! OpenCLIP's vision transformer (Dosovitskiy et al. 2021; Radford et al. 2021), differentiable in its pixels.
//!
//! Keys below `visual.`: conv1, class_embedding, positional_embedding, ln_pre, transformer.resblocks.N, ln_post, proj.

use super::residual_block::ResidualBlock;
use crate::error::{self, Error};
use crate::layers::{Activation, Attention, Conv2d, LayerNorm, Linear, resize_bilinear};
use crate::weights::{Weights, read_config};
use candle_core::{DType, Device, IndexOp, Result, Tensor};
use serde::Deserialize;
use std::path::Path;

/// Layer norms of OpenCLIP add this to the variance.
pub(crate) const LAYER_NORM_EPS: f64 = 1e-5;

/// What `open_clip_config.json` says about the image tower.
#[derive(Debug, Clone, Deserialize)]
pub struct ClipConfig {
    pub model_cfg: ModelConfig,
    pub preprocess_cfg: Preprocess,
}

#[derive(Debug, Clone, Deserialize)]
pub struct ModelConfig {
    /// Features of an image.
    pub embed_dim: usize,
    #[serde(default)]
    pub quick_gelu: bool,
    pub vision_cfg: VisionConfig,
}

impl ModelConfig {
    /// The activation of both towers.
    pub fn activation(&self) -> Activation {
        if self.quick_gelu { Activation::QuickGelu } else { Activation::Gelu }
    }
}

/// Size of the image tower; the defaults are OpenCLIP's.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct VisionConfig {
    /// Side of the square input, pixels.
    pub image_size: usize,
    pub patch_size: usize,
    pub width: usize,
    pub layers: usize,
    /// Features per attention head.
    pub head_width: usize,
    /// Hidden width of the feed-forward layers, in units of `width`.
    pub mlp_ratio: f64,
    /// Heads of CoCa's attentional pooler.
    pub attn_pooler_heads: usize,
    /// Set where the tower is a timm model, which has other keys.
    pub timm_model_name: Option<String>,
}

impl Default for VisionConfig {
    fn default() -> Self {
        Self {
            image_size: 224,
            patch_size: 16,
            width: 768,
            layers: 12,
            head_width: 64,
            mlp_ratio: 4.0,
            attn_pooler_heads: 8,
            timm_model_name: None,
        }
    }
}

/// Statistics that the pixels are normalised with.
#[derive(Debug, Clone, Deserialize)]
pub struct Preprocess {
    /// Per channel, of images in 0..1.
    pub mean: [f32; 3],
    pub std: [f32; 3],
}

impl Preprocess {
    /// (pixels − mean)/std. `pixels`: [batch, 3, height, width] in 0..1.
    ///
    /// # Errors
    /// `pixels` has another number of channels.
    pub fn normalise(&self, pixels: &Tensor) -> Result<Tensor> {
        let constant =
            |values: [f32; 3]| Tensor::new(&values, pixels.device())?.to_dtype(pixels.dtype())?.reshape((1, 3, 1, 1));
        pixels.broadcast_sub(&constant(self.mean)?)?.broadcast_div(&constant(self.std)?)
    }
}

/// The transformer up to its last block, shared by class-token pooling here and attentional pooling in CoCa.
#[derive(Debug)]
pub struct Trunk {
    conv1: Conv2d,
    /// [1, 1, width]
    class_embedding: Tensor,
    /// [1 + patches, width]
    positional_embedding: Tensor,
    ln_pre: LayerNorm,
    blocks: Vec<ResidualBlock>,
    attention: Attention,
}

impl Trunk {
    /// Reads the tower below `weights`, usually `visual`. `config_path` is for messages.
    ///
    /// # Errors
    /// A tensor is missing or misshapen, or the configuration asks for something else than OpenCLIP's transformer.
    pub fn load(
        config: &VisionConfig,
        activation: Activation,
        weights: &Weights,
        config_path: &Path,
    ) -> error::Result<Self> {
        let unsupported = |key: &str, found: String, expected: &str| {
            let (path, key, expected) = (config_path.to_owned(), format!("vision_cfg.{key}"), expected.to_owned());
            Err(Error::Unsupported { path, key, found, expected })
        };
        if let Some(name) = &config.timm_model_name {
            return unsupported("timm_model_name", name.clone(), "OpenCLIP's own vision transformer");
        }
        if config.patch_size == 0 || !config.image_size.is_multiple_of(config.patch_size) {
            return unsupported("patch_size", config.patch_size.to_string(), "a divisor of image_size");
        }
        if config.head_width == 0 || !config.width.is_multiple_of(config.head_width) {
            return unsupported("head_width", config.head_width.to_string(), "a divisor of width");
        }
        let width = config.width;
        let patches = (config.image_size / config.patch_size).pow(2);
        let hidden = (width as f64 * config.mlp_ratio) as usize;
        let blocks = weights.at("transformer.resblocks");
        Ok(Self {
            conv1: Conv2d::load_patches(3, width, config.patch_size, &weights.at("conv1"))?,
            class_embedding: weights.get(&[width], "class_embedding")?.reshape((1, 1, width))?,
            positional_embedding: weights.get(&[1 + patches, width], "positional_embedding")?,
            ln_pre: LayerNorm::load(width, LAYER_NORM_EPS, &weights.at("ln_pre"))?,
            blocks: (0..config.layers)
                .map(|i| ResidualBlock::load(width, hidden, activation, &blocks.at(i)))
                .collect::<error::Result<_>>()?,
            attention: Attention::new(width / config.head_width),
        })
    }

    /// `pixels`: [batch, 3, image_size, image_size], normalised; returns [batch, 1 + patches, width], the class token first.
    ///
    /// # Errors
    /// `pixels` has another size.
    pub fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        let patches = self.conv1.forward(pixels)?.flatten_from(2)?.transpose(1, 2)?;
        let (batch, _, width) = patches.dims3()?;
        let class = self.class_embedding.expand((batch, 1, width))?;
        let tokens = Tensor::cat(&[&class, &patches], 1)?.broadcast_add(&self.positional_embedding)?;
        let tokens = self.ln_pre.forward(&tokens)?;
        self.blocks.iter().try_fold(tokens, |tokens, block| block.forward(&tokens, &self.attention))
    }
}

/// The image tower of an OpenCLIP model: image → features.
#[derive(Debug)]
pub struct VisionTransformer {
    pub config: ClipConfig,
    trunk: Trunk,
    ln_post: LayerNorm,
    proj: Linear,
}

impl VisionTransformer {
    /// Reads `open_clip_config.json` and `open_clip_model.safetensors` in `folder`.
    ///
    /// # Errors
    /// A file or tensor is missing or not what the configuration says.
    pub fn load(folder: impl AsRef<Path>, dtype: DType, device: &Device) -> error::Result<Self> {
        let config_path = folder.as_ref().join("open_clip_config.json");
        let config: ClipConfig = read_config(&config_path)?;
        let visual = Weights::open(folder.as_ref().join("open_clip_model.safetensors"), dtype, device)?.at("visual");
        let (vision, features) = (&config.model_cfg.vision_cfg, config.model_cfg.embed_dim);
        let trunk = Trunk::load(vision, config.model_cfg.activation(), &visual, &config_path)?;
        let ln_post = LayerNorm::load(vision.width, LAYER_NORM_EPS, &visual.at("ln_post"))?;
        let proj = Linear::new(&visual.get(&[vision.width, features], "proj")?.t()?, None)?;
        Ok(Self { config, trunk, ln_post, proj })
    }

    /// Resizes [batch, 3, height, width] in 0..1 to the tower's input (bilinear, not antialiased) and normalises it.
    ///
    /// # Errors
    /// `image` is no batch of RGB images.
    pub fn preprocess(&self, image: &Tensor) -> Result<Tensor> {
        let size = self.config.model_cfg.vision_cfg.image_size;
        self.config.preprocess_cfg.normalise(&resize_bilinear(image, size, size)?)
    }

    /// `pixels`: as [`VisionTransformer::preprocess`] returns them; returns [batch, embed_dim], not normalised.
    ///
    /// # Errors
    /// `pixels` has another size.
    pub fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        let class = self.trunk.forward(pixels)?.i((.., 0))?;
        self.proj.forward(&self.ln_post.forward(&class)?)
    }
}
