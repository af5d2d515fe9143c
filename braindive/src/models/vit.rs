//! CLIP's vision transformer (Dosovitskiy et al. 2021; Radford et al. 2021), differentiable in its pixels, under the key names of
//! OpenCLIP, timm and `transformers`.

use super::VitConfig;
use super::residual_block::{BlockShape, ResidualBlock};
use crate::error;
use crate::gradient::Tracked;
use crate::layers::{Attention, Conv2d, LayerNorm, Linear, resize_bilinear};
use crate::weights::Weights;
use candle_core::{DType, Device, Result, Tensor};
use checkpoint::{Backbone, Layout};
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

/// Whose names the tensors have, where they differ between publishers.
struct Keys {
    /// Above the trunk's keys.
    root: &'static str,
    patches: &'static str,
    class: &'static str,
    positions: &'static str,
    ln_pre: &'static str,
    blocks: &'static str,
    ln_post: &'static str,
}

impl Keys {
    fn of(layout: Layout) -> Self {
        match layout {
            Layout::OpenClip => Self {
                root: "visual",
                patches: "conv1",
                class: "class_embedding",
                positions: "positional_embedding",
                ln_pre: "ln_pre",
                blocks: "transformer.resblocks",
                ln_post: "ln_post",
            },
            Layout::Timm => Self {
                root: "",
                patches: "patch_embed.proj",
                class: "cls_token",
                positions: "pos_embed",
                ln_pre: "norm_pre",
                blocks: "blocks",
                ln_post: "norm",
            },
            Layout::Transformers => Self {
                root: "vision_model",
                patches: "embeddings.patch_embedding",
                class: "embeddings.class_embedding",
                positions: "embeddings.position_embedding.weight",
                ln_pre: "pre_layrnorm",
                blocks: "encoder.layers",
                ln_post: "post_layernorm",
            },
        }
    }
}

impl Trunk {
    /// Reads the tower in the whole model's `weights`, under the key names of `config.layout`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load(config: &VitConfig, weights: &Weights) -> error::Result<Self> {
        let &VitConfig { layout, width, hidden, activation, eps, .. } = config;
        let keys = Keys::of(layout);
        let weights = weights.at(keys.root);
        let positions = 1 + (config.image_size / config.patch_size).pow(2);
        // timm stores a batch of one.
        let batch: &[usize] = if layout == Layout::Timm { &[1] } else { &[] };
        let class = weights.get(&[batch, batch, &[width]].concat(), keys.class)?;
        let positional_embedding = weights.get(&[batch, &[positions, width]].concat(), keys.positions)?;
        let shape = BlockShape { width, hidden, activation, eps };
        let blocks = weights.at(keys.blocks);
        Ok(Self {
            conv1: Conv2d::load_patches(3, width, config.patch_size, &weights.at(keys.patches))?,
            class_embedding: class.reshape((1, 1, width))?,
            positional_embedding: positional_embedding.reshape((positions, width))?,
            ln_pre: LayerNorm::load(width, eps, &weights.at(keys.ln_pre))?,
            blocks: (0..config.layers)
                .map(|i| ResidualBlock::load(shape, layout, &blocks.at(i)))
                .collect::<error::Result<_>>()?,
            attention: Attention::new(config.heads),
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

/// The image tower of a CLIP model: image → features.
#[derive(Debug)]
pub struct VisionTransformer {
    pub config: VitConfig,
    trunk: Trunk,
    ln_post: LayerNorm,
    proj: Linear,
    weight_bytes: u64,
}

impl VisionTransformer {
    /// Reads the tower in `folder`, as OpenCLIP, timm or `transformers` published it; see [`Backbone::find`].
    ///
    /// # Errors
    /// A file or tensor is missing or not what the configuration says.
    pub fn load(folder: impl AsRef<Path>, dtype: DType, device: &Device) -> error::Result<Self> {
        let backbone = Backbone::find(folder.as_ref())?;
        let config = VitConfig::read(&backbone)?;
        Self::from_weights(config, &Weights::find(folder.as_ref(), backbone.layout.names(), dtype, device)?)
    }

    /// Reads the tower in the whole model's `weights`.
    ///
    /// # Errors
    /// A tensor is missing or not what the configuration says.
    pub fn from_weights(config: VitConfig, weights: &Weights) -> error::Result<Self> {
        let (width, features) = (config.width, config.features);
        let keys = Keys::of(config.layout);
        let proj = match config.layout {
            Layout::OpenClip => Linear::new(&weights.get(&[width, features], "visual.proj")?.t()?, None)?,
            Layout::Timm => Linear::load(width, features, &weights.at("head"))?,
            Layout::Transformers => Linear::load_without_bias(width, features, &weights.at("visual_projection"))?,
        };
        Ok(Self {
            trunk: Trunk::load(&config, weights)?,
            ln_post: LayerNorm::load(width, config.eps, &weights.at(keys.root).at(keys.ln_post))?,
            proj,
            weight_bytes: weights.bytes(),
            config,
        })
    }

    /// Bytes of the tower's weights.
    pub fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    /// Resizes [batch, 3, height, width] in 0..1 to the tower's input (bilinear, not antialiased) and normalises it.
    ///
    /// # Errors
    /// `image` is no batch of RGB images.
    pub fn preprocess(&self, image: &Tracked) -> Result<Tracked> {
        let size = self.config.image_size;
        self.config.preprocess.normalise(&resize_bilinear(image, size, size)?)
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
