//! The vision transformer (Dosovitskiy et al. 2021), differentiable in its pixels: CLIP's (Radford et al. 2021) under the key names of
//! OpenCLIP, timm and `transformers`, and torchvision's with the outputs of all blocks read out.

use super::VitConfig;
use super::residual_block::{BlockShape, ResidualBlock};
use crate::error;
use crate::gradient::Tracked;
use crate::layers::{Attention, Conv2d, LayerNorm, Linear, resize_bilinear, resize_crop, unit_norm};
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
    /// CLIP's towers alone have it.
    ln_pre: Option<LayerNorm>,
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
    ln_pre: Option<&'static str>,
    /// Before a block's number.
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
                ln_pre: Some("ln_pre"),
                blocks: "transformer.resblocks.",
                ln_post: "ln_post",
            },
            Layout::Timm => Self {
                root: "",
                patches: "patch_embed.proj",
                class: "cls_token",
                positions: "pos_embed",
                ln_pre: Some("norm_pre"),
                blocks: "blocks.",
                ln_post: "norm",
            },
            Layout::Transformers => Self {
                root: "vision_model",
                patches: "embeddings.patch_embedding",
                class: "embeddings.class_embedding",
                positions: "embeddings.position_embedding.weight",
                ln_pre: Some("pre_layrnorm"),
                blocks: "encoder.layers.",
                ln_post: "post_layernorm",
            },
            Layout::Torchvision => Self {
                root: "",
                patches: "conv_proj",
                class: "class_token",
                positions: "encoder.pos_embedding",
                ln_pre: None,
                blocks: "encoder.layers.encoder_layer_",
                ln_post: "encoder.ln",
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
        let positions = config.tokens();
        let batch: &[usize] = match layout {
            Layout::Timm | Layout::Torchvision => &[1],
            Layout::OpenClip | Layout::Transformers => &[],
        };
        let class = weights.get(&[batch, batch, &[width]].concat(), keys.class)?;
        let positional_embedding = weights.get(&[batch, &[positions, width]].concat(), keys.positions)?;
        let shape = BlockShape { width, hidden, activation, eps };
        let block = |i| ResidualBlock::load(shape, layout, &weights.at(format!("{}{i}", keys.blocks)));
        let (patches, side) = (weights.at(keys.patches), config.patch_size);
        let conv1 = match layout {
            Layout::Torchvision => {
                let bias = patches.get(&[width], "bias")?;
                Conv2d::new(&patches.get(&[width, 3, side, side], "weight")?, Some(&bias), side, 0)?
            }
            _ => Conv2d::load_patches(3, width, side, &patches)?,
        };
        Ok(Self {
            conv1,
            class_embedding: class.reshape((1, 1, width))?,
            positional_embedding: positional_embedding.reshape((positions, width))?,
            ln_pre: keys.ln_pre.map(|key| LayerNorm::load(width, eps, &weights.at(key))).transpose()?,
            blocks: (0..config.layers).map(block).collect::<error::Result<_>>()?,
            attention: Attention::new(config.heads),
        })
    }

    /// `pixels`: [batch, 3, image_size, image_size], normalised; returns [batch, 1 + patches, width], the class token first.
    ///
    /// # Errors
    /// `pixels` has another size.
    pub fn forward(&self, pixels: &Tracked) -> Result<Tracked> {
        self.blocks.iter().try_fold(self.embed(pixels)?, |tokens, block| block.forward(&tokens, &self.attention))
    }

    /// What the first block reads.
    fn embed(&self, pixels: &Tracked) -> Result<Tracked> {
        let patches = self.conv1.forward(pixels)?.to_tokens()?;
        let (batch, _, width) = patches.value().dims3()?;
        let class = self.class_embedding.expand((batch, 1, width))?.into();
        let tokens = Tracked::cat(&class, &patches, 1)?.broadcast_add(&self.positional_embedding)?;
        match &self.ln_pre {
            Some(ln_pre) => ln_pre.forward(&tokens),
            None => Ok(tokens),
        }
    }
}

/// How tokens become features.
#[derive(Debug)]
enum Readout {
    /// CLIP's: the class token after the last block, normalised and projected.
    ClassToken { ln_post: LayerNorm, proj: Linear },
    /// The tokens of all blocks joined to one vector, times one matrix; `blocks` are its columns, block by block.
    AllBlocks {
        blocks: Vec<Linear>,
        /// [features]
        bias: Tensor,
    },
}

impl Readout {
    fn load(config: &VitConfig, weights: &Weights) -> error::Result<Self> {
        let (width, features) = (config.width, config.features);
        let keys = Keys::of(config.layout);
        let proj = match config.layout {
            Layout::OpenClip => Linear::new(&weights.get(&[width, features], "visual.proj")?.t()?, None)?,
            Layout::Timm => Linear::load(width, features, &weights.at("head"))?,
            Layout::Transformers => Linear::load_without_bias(width, features, &weights.at("visual_projection"))?,
            Layout::Torchvision => {
                let weights = weights.at("readout");
                let block = |i| Linear::load_without_bias(config.tokens() * width, features, &weights.at(i));
                let blocks = (0..config.layers).map(block).collect::<error::Result<_>>()?;
                return Ok(Self::AllBlocks { blocks, bias: weights.get(&[features], "bias")? });
            }
        };
        let ln_post = LayerNorm::load(width, config.eps, &weights.at(keys.root).at(keys.ln_post))?;
        Ok(Self::ClassToken { ln_post, proj })
    }
}

/// An image tower: image → features.
#[derive(Debug)]
pub struct VisionTransformer {
    pub config: VitConfig,
    trunk: Trunk,
    readout: Readout,
    weight_bytes: u64,
}

impl VisionTransformer {
    /// Reads the tower in `folder`, as OpenCLIP, timm or `transformers` published it or an import wrote it; see [`Backbone::find`].
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
        Ok(Self {
            trunk: Trunk::load(&config, weights)?,
            readout: Readout::load(&config, weights)?,
            weight_bytes: weights.bytes(),
            config,
        })
    }

    /// Bytes of the tower's weights.
    pub fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    /// Resizes [batch, 3, height, width] in 0..1 to the tower's input, bilinearly, and normalises it: the whole image without
    /// antialiasing, or its centre with ([`VitConfig::crop_from`]).
    ///
    /// # Errors
    /// `image` is no batch of RGB images.
    pub fn preprocess(&self, image: &Tracked) -> Result<Tracked> {
        let size = self.config.image_size;
        let resized = match self.config.crop_from {
            None => resize_bilinear(image, size, size)?,
            Some(shorter) => resize_crop(image, shorter, size)?,
        };
        self.config.preprocess.normalise(&resized)
    }

    /// `pixels`: as [`VisionTransformer::preprocess`] returns them; returns [batch, features], not normalised.
    ///
    /// # Errors
    /// `pixels` has another size.
    pub fn forward(&self, pixels: &Tracked) -> Result<Tracked> {
        match &self.readout {
            Readout::ClassToken { ln_post, proj } => {
                let tokens = self.trunk.forward(pixels)?;
                let (batch, _, width) = tokens.value().dims3()?;
                let class = tokens.narrow(1, 0, 1)?.reshape(&[batch, width])?;
                proj.forward(&ln_post.forward(&class)?)
            }
            Readout::AllBlocks { blocks, bias } => {
                let mut tokens = self.trunk.embed(pixels)?;
                let (batch, count, width) = tokens.value().dims3()?;
                let mut features = Tracked::constant(bias.expand((batch, bias.elem_count()))?.contiguous()?);
                for (block, columns) in self.trunk.blocks.iter().zip(blocks) {
                    tokens = block.forward(&tokens, &self.trunk.attention)?;
                    let joined = tokens.reshape(&[batch, count * width])?;
                    features = features.add(&columns.forward(&joined)?)?;
                }
                Ok(features)
            }
        }
    }

    /// What heads read: `features` [batch, K] as [`VisionTransformer::forward`] returns them, brought to unit norm unless the
    /// configuration says otherwise.
    ///
    /// # Errors
    /// `features` is a single number.
    pub fn head_input(&self, features: &Tracked) -> Result<Tracked> {
        match self.config.unit_norm {
            true => unit_norm(features),
            false => Ok(features.clone()),
        }
    }
}
