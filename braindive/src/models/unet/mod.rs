//! Stable Diffusion's noise predictor (Rombach et al. 2022; diffusers' `UNet2DConditionModel`), differentiable in the
//! latents.
//!
//! Keys: conv_in, time_embedding, down_blocks.N, mid_block, up_blocks.N, conv_norm_out, conv_out.

mod blocks;
mod config;
mod time_embedding;
mod transformer;

pub use config::UNetConfig;

use super::resnet::ResnetShape;
use crate::error;
use crate::gradient::{Keep, Tracked};
use crate::layers::{Conv2d, GroupNorm};
use crate::weights::Weights;
use blocks::{BlockShape, Condition, DownBlock, Level, MidBlock, UpBlock};
use candle_core::{DType, Device, Result, Tensor, bail};
use checkpoint::Names;
use std::path::Path;
use time_embedding::TimeEmbedding;
use transformer::TransformerShape;

/// (latents, time, prompt) → noise.
#[derive(Debug)]
pub struct UNet {
    pub config: UNetConfig,
    time_embedding: TimeEmbedding,
    conv_in: Conv2d,
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
    weight_bytes: u64,
}

/// Where the mid block's self-attention looks.
#[derive(Debug, Clone)]
pub struct MidAttention {
    /// [batch, heads, queries, keys]; queries and keys are the pixels of a `height` × `width` map, row by row.
    pub probabilities: Tensor,
    pub height: usize,
    pub width: usize,
}

impl UNet {
    /// Reads `config.json` and the weights in `folder`.
    ///
    /// # Errors
    /// A file or tensor is missing or not what the configuration says.
    pub fn load(folder: impl AsRef<Path>, dtype: DType, device: &Device) -> error::Result<Self> {
        let config = UNetConfig::read(&folder.as_ref().join("config.json"))?;
        Self::from_weights(config, &Weights::find(folder.as_ref(), Names::DIFFUSERS, dtype, device)?)
    }

    /// # Errors
    /// A tensor is missing or not what the configuration says.
    pub fn from_weights(config: UNetConfig, weights: &Weights) -> error::Result<Self> {
        let channels = &config.block_out_channels;
        let (levels, first, deepest) = (channels.len(), channels[0], channels[channels.len() - 1]);
        let shape = BlockShape {
            resnet: ResnetShape {
                groups: config.norm_num_groups,
                eps: config.norm_eps,
                time: Some(TimeEmbedding::EXPANSION * first),
            },
            transformer: TransformerShape {
                groups: config.norm_num_groups,
                context: config.cross_attention_dim,
                linear_projection: config.use_linear_projection,
            },
        };
        let heads = |level: usize, kind: &str| kind.starts_with("CrossAttn").then(|| config.attention_head_dim[level]);

        let mut skips = vec![first];
        let mut inputs = first;
        let mut down_blocks = Vec::with_capacity(levels);
        for (i, kind) in config.down_block_types.iter().enumerate() {
            let (outputs, layers, resample) = (channels[i], config.layers_per_block, i + 1 < levels);
            let level = Level { inputs, outputs, layers, heads: heads(i, kind), resample, shape };
            down_blocks.push(DownBlock::load(level, &mut skips, &weights.at("down_blocks").at(i))?);
            inputs = outputs;
        }
        let mid_block =
            MidBlock::load(deepest, config.attention_head_dim[levels - 1], shape, &weights.at("mid_block"))?;
        let mut up_blocks = Vec::with_capacity(levels);
        for (i, kind) in config.up_block_types.iter().enumerate() {
            let mirrored = levels - 1 - i;
            let (outputs, layers, resample) = (channels[mirrored], config.layers_per_block + 1, i + 1 < levels);
            let level = Level { inputs, outputs, layers, heads: heads(mirrored, kind), resample, shape };
            up_blocks.push(UpBlock::load(level, &mut skips, &weights.at("up_blocks").at(i))?);
            inputs = outputs;
        }
        Ok(Self {
            time_embedding: TimeEmbedding::load(&config, &weights.at("time_embedding"))?,
            conv_in: Conv2d::load(config.in_channels, first, 3, &weights.at("conv_in"))?,
            down_blocks,
            mid_block,
            up_blocks,
            conv_norm_out: GroupNorm::load(
                config.norm_num_groups,
                first,
                config.norm_eps,
                &weights.at("conv_norm_out"),
            )?,
            conv_out: Conv2d::load(first, config.out_channels, 3, &weights.at("conv_out"))?,
            weight_bytes: weights.bytes(),
            config,
        })
    }

    /// Bytes of all weights.
    pub fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    /// Takes `sinusoids` for the time embedding of `timestep`, instead of computing them to the nearest f32: to compare with an
    /// implementation whose sine and cosine round otherwise.
    ///
    /// # Panics
    /// If there are not as many as the first level has channels.
    pub fn give_sinusoids(&mut self, timestep: usize, sinusoids: Vec<f32>) {
        self.time_embedding.give_sinusoids(timestep, sinusoids);
    }

    /// The noise in `latents` [batch, 4, height, width] at `timestep`, given `prompt_embeds` [batch or 1, tokens, width].
    ///
    /// # Errors
    /// The shapes do not fit the network; height and width must be multiples of [`UNetConfig::size_multiple`].
    pub fn forward(&self, latents: &Tracked, timestep: usize, prompt_embeds: &Tensor, keep: Keep) -> Result<Tracked> {
        self.run(latents, timestep, prompt_embeds, keep, None)
    }

    /// As [`UNet::forward`], with the mid block's self-attention.
    ///
    /// # Errors
    /// As [`UNet::forward`].
    pub fn forward_with_attention(
        &self,
        latents: &Tracked,
        timestep: usize,
        prompt_embeds: &Tensor,
        keep: Keep,
    ) -> Result<(Tracked, MidAttention)> {
        let mut probabilities = None;
        let noise_pred = self.run(latents, timestep, prompt_embeds, keep, Some(&mut probabilities))?;
        let Some(probabilities) = probabilities else { bail!("the mid block gave no attention") };
        let (_, _, height, width) = latents.value().dims4()?;
        let (height, width) = (height / self.config.size_multiple(), width / self.config.size_multiple());
        Ok((noise_pred, MidAttention { probabilities, height, width }))
    }

    fn run(
        &self,
        latents: &Tracked,
        timestep: usize,
        prompt_embeds: &Tensor,
        keep: Keep,
        probabilities: Option<&mut Option<Tensor>>,
    ) -> Result<Tracked> {
        let (batch, _, height, width) = latents.value().dims4()?;
        let multiple = self.config.size_multiple();
        if !height.is_multiple_of(multiple) || !width.is_multiple_of(multiple) {
            bail!("latents are {height}x{width}, expected multiples of {multiple}");
        }
        let time = self.time_embedding.forward(timestep, latents.value().dtype(), latents.value().device())?;
        let (_, tokens, context) = prompt_embeds.dims3()?;
        let context = prompt_embeds.broadcast_as((batch, tokens, context))?.contiguous()?.into();
        let condition = &Condition { time, context, keep };
        let mut h = self.conv_in.forward(latents)?;
        let mut skips = vec![h.clone()];
        for block in &self.down_blocks {
            h = block.forward(&h, condition, &mut skips)?;
        }
        h = self.mid_block.forward(&h, condition, probabilities)?;
        for block in &self.up_blocks {
            h = block.forward(&h, condition, &mut skips)?;
        }
        self.conv_out.forward(&self.conv_norm_out.forward_silu(&h)?)
    }
}
