//! The decoder of Stable Diffusion's autoencoder (Rombach et al. 2022; diffusers' `AutoencoderKL`), differentiable in the
//! latents.
//!
//! Keys: post_quant_conv, decoder.{conv_in, mid_block, up_blocks.N, conv_norm_out, conv_out}.

use super::resnet::{ResnetBlock, ResnetShape, Upsample};
use crate::error::{self, Error};
use crate::gradient::{Keep, Tracked};
use crate::layers::{Attention, Conv2d, GroupNorm, Linear};
use crate::weights::{Weights, read_config};
use candle_core::{DType, Device, Result};
use checkpoint::Names;
use serde::Deserialize;
use serde_json::json;
use std::path::Path;
use std::sync::Arc;

/// The published autoencoder's group norms add this to the variance.
pub(super) const EPS: f64 = 1e-6;

/// `vae/config.json`.
#[derive(Debug, Clone, Deserialize)]
pub struct VaeConfig {
    pub latent_channels: usize,
    pub out_channels: usize,
    pub block_out_channels: Vec<usize>,
    pub layers_per_block: usize,
    pub norm_num_groups: usize,
    /// What latents are multiplied by before diffusion; absent from the published files.
    #[serde(default = "default_scaling_factor")]
    pub scaling_factor: f64,
}

fn default_scaling_factor() -> f64 {
    0.18215
}

impl VaeConfig {
    /// Reads and checks `path`.
    ///
    /// # Errors
    /// The file cannot be read, or describes another decoder than that of Stable Diffusion 1 and 2.
    pub fn read(path: &Path) -> error::Result<Self> {
        let fixed = json!({
            "act_fn": "silu",
            "mid_block_add_attention": true,
            "use_post_quant_conv": true,
            "shift_factor": null,
            "latents_mean": null,
            "latents_std": null,
        });
        let config: Self = read_config(path, &fixed)?;
        let unsupported = |key: &str, found: String, expected: String| {
            Err(Error::Unsupported { path: path.to_owned(), key: key.to_owned(), found, expected })
        };
        if config.block_out_channels.is_empty() {
            return unsupported("block_out_channels", "empty".to_owned(), "one number per level".to_owned());
        }
        let groups = config.norm_num_groups;
        if let Some(channels) = config.block_out_channels.iter().find(|&&c| c == 0 || !c.is_multiple_of(groups)) {
            return unsupported("norm_num_groups", groups.to_string(), format!("a divisor of {channels} channels"));
        }
        if !(config.scaling_factor.is_finite() && config.scaling_factor > 0.0) {
            return unsupported("scaling_factor", config.scaling_factor.to_string(), "a positive number".to_owned());
        }
        Ok(config)
    }

    /// Pixels per latent, along each axis.
    pub fn pixels_per_latent(&self) -> usize {
        1 << self.block_out_channels.len().saturating_sub(1)
    }
}

/// Latents → image.
#[derive(Debug)]
pub struct VaeDecoder {
    pub config: VaeConfig,
    post_quant_conv: Conv2d,
    conv_in: Conv2d,
    mid_resnets: [Arc<ResnetBlock>; 2],
    mid_attention: SpatialAttention,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
    weight_bytes: u64,
}

impl VaeDecoder {
    /// Reads `config.json` and the weights in `folder`.
    ///
    /// # Errors
    /// A file or tensor is missing or not what the configuration says.
    pub fn load(folder: impl AsRef<Path>, dtype: DType, device: &Device) -> error::Result<Self> {
        let config = VaeConfig::read(&folder.as_ref().join("config.json"))?;
        Self::from_weights(config, &Weights::find(folder.as_ref(), Names::DIFFUSERS, dtype, device)?)
    }

    /// Reads the decoder in the whole autoencoder's `weights`.
    ///
    /// # Errors
    /// A tensor is missing or not what the configuration says.
    pub fn from_weights(config: VaeConfig, weights: &Weights) -> error::Result<Self> {
        let (latents, groups) = (config.latent_channels, config.norm_num_groups);
        let shape = ResnetShape { groups, eps: EPS, time: None };
        let decoder = weights.at("decoder");
        let mid = decoder.at("mid_block");
        let deepest = config.block_out_channels.last().copied().unwrap_or_default();
        let mut channels = deepest;
        let mut up_blocks = Vec::new();
        for (i, &outputs) in config.block_out_channels.iter().rev().enumerate() {
            let last = i + 1 == config.block_out_channels.len();
            let layers = config.layers_per_block + 1;
            up_blocks.push(UpBlock::load(channels, outputs, layers, !last, shape, &decoder.at("up_blocks").at(i))?);
            channels = outputs;
        }
        Ok(Self {
            post_quant_conv: Conv2d::load(latents, latents, 1, &weights.at("post_quant_conv"))?,
            conv_in: Conv2d::load(latents, deepest, 3, &decoder.at("conv_in"))?,
            mid_resnets: [
                Arc::new(ResnetBlock::load(deepest, deepest, shape, &mid.at("resnets.0"))?),
                Arc::new(ResnetBlock::load(deepest, deepest, shape, &mid.at("resnets.1"))?),
            ],
            mid_attention: SpatialAttention::load(deepest, groups, &mid.at("attentions.0"))?,
            up_blocks,
            conv_norm_out: GroupNorm::load(groups, channels, EPS, &decoder.at("conv_norm_out"))?,
            conv_out: Conv2d::load(channels, config.out_channels, 3, &decoder.at("conv_out"))?,
            weight_bytes: weights.bytes(),
            config,
        })
    }

    /// Bytes of the decoder's weights.
    pub fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    /// `latents`: [batch, 4, h, w], scaled as diffusion sees them; returns [batch, 3, h·f, w·f], about −1..1, not clamped.
    ///
    /// # Errors
    /// `latents` has another number of channels.
    pub fn decode(&self, latents: &Tracked, keep: Keep) -> Result<Tracked> {
        let h = self.post_quant_conv.forward(&latents.affine(1.0 / self.config.scaling_factor, 0.0)?)?;
        let h = residual(&self.mid_resnets[0], &self.conv_in.forward(&h)?, keep)?;
        let h = residual(&self.mid_resnets[1], &self.mid_attention.forward(&h)?, keep)?;
        let h = self.up_blocks.iter().try_fold(h, |h, block| block.forward(&h, keep))?;
        self.conv_out.forward(&self.conv_norm_out.forward_silu(&h)?)
    }
}

fn residual(block: &Arc<ResnetBlock>, x: &Tracked, keep: Keep) -> Result<Tracked> {
    let block = block.clone();
    keep.run([x], move |[x]| block.forward(x, None))
}

/// diffusers' `UpDecoderBlock2D`.
#[derive(Debug)]
struct UpBlock {
    resnets: Vec<Arc<ResnetBlock>>,
    upsampler: Option<Upsample>,
}

impl UpBlock {
    fn load(
        inputs: usize,
        outputs: usize,
        layers: usize,
        upsample: bool,
        shape: ResnetShape,
        weights: &Weights,
    ) -> error::Result<Self> {
        let resnet = |i| {
            ResnetBlock::load(if i == 0 { inputs } else { outputs }, outputs, shape, &weights.at("resnets").at(i))
                .map(Arc::new)
        };
        Ok(Self {
            resnets: (0..layers).map(resnet).collect::<error::Result<_>>()?,
            upsampler: upsample.then(|| Upsample::load(outputs, &weights.at("upsamplers.0"))).transpose()?,
        })
    }

    fn forward(&self, x: &Tracked, keep: Keep) -> Result<Tracked> {
        let x = self.resnets.iter().try_fold(x.clone(), |x, resnet| residual(resnet, &x, keep))?;
        match &self.upsampler {
            Some(upsampler) => upsampler.forward(&x),
            None => Ok(x),
        }
    }
}

/// Self-attention of one head over all pixels, with a residual.
#[derive(Debug)]
pub(super) struct SpatialAttention {
    group_norm: GroupNorm,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
}

impl SpatialAttention {
    /// The published files name the projections query, key, value and proj_attn; diffusers writes to_q … to_out.0 today.
    pub(super) fn load(channels: usize, groups: usize, weights: &Weights) -> error::Result<Self> {
        let published = weights.contains("query.weight");
        let linear = |today: &str, before: &str| {
            Linear::load(channels, channels, &weights.at(if published { before } else { today }))
        };
        Ok(Self {
            group_norm: GroupNorm::load(groups, channels, EPS, &weights.at("group_norm"))?,
            to_q: linear("to_q", "query")?,
            to_k: linear("to_k", "key")?,
            to_v: linear("to_v", "value")?,
            to_out: linear("to_out.0", "proj_attn")?,
        })
    }

    pub(super) fn forward(&self, x: &Tracked) -> Result<Tracked> {
        let (_, _, height, width) = x.value().dims4()?;
        let tokens = self.group_norm.forward(x)?.to_tokens()?;
        let [q, k, v] = [&self.to_q, &self.to_k, &self.to_v].map(|layer| layer.forward(&tokens));
        let y = self.to_out.forward(&Attention::new(1).forward(&q?, &k?, &v?)?)?;
        x.add(&y.to_map(height, width)?)
    }
}
