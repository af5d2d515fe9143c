//! OpenCLIP's vision transformer (Dosovitskiy et al. 2021; Radford et al. 2021), differentiable in its pixels.
//!
//! Keys below `visual.`: conv1, class_embedding, positional_embedding, ln_pre, transformer.resblocks.N, ln_post, proj.

use super::open_clip::{LAYER_NORM_EPS, OpenClipConfig, VisionConfig};
use super::residual_block::ResidualBlock;
use crate::error;
use crate::gradient::Tracked;
use crate::layers::{Activation, Attention, Conv2d, LayerNorm, Linear, resize_bilinear};
use crate::weights::Weights;
use candle_core::{DType, Device, Result, Tensor};
use std::path::Path;

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
    /// Reads the tower below `weights`, usually `visual`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load(config: &VisionConfig, activation: Activation, weights: &Weights) -> error::Result<Self> {
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
    pub fn forward(&self, pixels: &Tracked) -> Result<Tracked> {
        let patches = self.conv1.forward(pixels)?.to_tokens()?;
        let (batch, _, width) = patches.value().dims3()?;
        let class = self.class_embedding.expand((batch, 1, width))?.into();
        let tokens = Tracked::cat(&class, &patches, 1)?.broadcast_add(&self.positional_embedding)?;
        let tokens = self.ln_pre.forward(&tokens)?;
        self.blocks.iter().try_fold(tokens, |tokens, block| block.forward(&tokens, &self.attention))
    }
}

/// The image tower of an OpenCLIP model: image → features.
#[derive(Debug)]
pub struct VisionTransformer {
    pub config: OpenClipConfig,
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
        let config = OpenClipConfig::read(folder.as_ref())?;
        let visual = Weights::open(folder.as_ref().join("open_clip_model.safetensors"), dtype, device)?.at("visual");
        let (vision, features) = (&config.model_cfg.vision_cfg, config.model_cfg.embed_dim);
        let trunk = Trunk::load(vision, config.model_cfg.activation(), &visual)?;
        let ln_post = LayerNorm::load(vision.width, LAYER_NORM_EPS, &visual.at("ln_post"))?;
        let proj = Linear::new(&visual.get(&[vision.width, features], "proj")?.t()?, None)?;
        Ok(Self { config, trunk, ln_post, proj })
    }

    /// Resizes [batch, 3, height, width] in 0..1 to the tower's input (bilinear, not antialiased) and normalises it.
    ///
    /// # Errors
    /// `image` is no batch of RGB images.
    pub fn preprocess(&self, image: &Tracked) -> Result<Tracked> {
        let size = self.config.model_cfg.vision_cfg.image_size;
        self.config.preprocess_cfg.normalise(&resize_bilinear(image, size, size)?)
    }

    /// `pixels`: as [`VisionTransformer::preprocess`] returns them; returns [batch, embed_dim], not normalised.
    ///
    /// # Errors
    /// `pixels` has another size.
    pub fn forward(&self, pixels: &Tracked) -> Result<Tracked> {
        let tokens = self.trunk.forward(pixels)?;
        let (batch, _, width) = tokens.value().dims3()?;
        let class = tokens.narrow(1, 0, 1)?.reshape(&[batch, width])?;
        self.proj.forward(&self.ln_post.forward(&class)?)
    }
}
