//! The encoder of Stable Diffusion's autoencoder (Rombach et al. 2022; diffusers' `AutoencoderKL`): from an image to the latents
//! that sampling can start from. No gradient flows here.
//!
//! Keys: encoder.{conv_in, down_blocks.N, mid_block, conv_norm_out, conv_out}, quant_conv.

use super::resnet::{Downsample, ResnetBlock, ResnetShape};
use super::vae::{EPS, SpatialAttention, VaeConfig};
use crate::error;
use crate::gradient::Tracked;
use crate::layers::{Conv2d, GroupNorm};
use crate::weights::Weights;
use candle_core::{DType, Device, Result, Tensor};
use checkpoint::Names;
use std::path::Path;

/// Image → latents.
#[derive(Debug)]
pub struct VaeEncoder {
    pub config: VaeConfig,
    conv_in: Conv2d,
    down_blocks: Vec<DownBlock>,
    mid_resnets: [ResnetBlock; 2],
    mid_attention: SpatialAttention,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
    quant_conv: Conv2d,
}

impl VaeEncoder {
    /// Reads `config.json` and the weights in `folder`.
    ///
    /// # Errors
    /// A file or tensor is missing (the weights may hold a decoder only) or not what the configuration says.
    pub fn load(folder: impl AsRef<Path>, dtype: DType, device: &Device) -> error::Result<Self> {
        let config = VaeConfig::read(&folder.as_ref().join("config.json"))?;
        Self::from_weights(config, &Weights::find(folder.as_ref(), Names::DIFFUSERS, dtype, device)?)
    }

    /// Reads the encoder in the whole autoencoder's `weights`.
    ///
    /// # Errors
    /// A tensor is missing (the weights may hold a decoder only) or not what the configuration says.
    pub fn from_weights(config: VaeConfig, weights: &Weights) -> error::Result<Self> {
        let (groups, moments) = (config.norm_num_groups, 2 * config.latent_channels);
        let shape = ResnetShape { groups, eps: EPS, time: None };
        let encoder = weights.at("encoder");
        let mid = encoder.at("mid_block");
        let shallowest = config.block_out_channels.first().copied().unwrap_or_default();
        let mut channels = shallowest;
        let mut down_blocks = Vec::new();
        for (i, &outputs) in config.block_out_channels.iter().enumerate() {
            let last = i + 1 == config.block_out_channels.len();
            let block = encoder.at("down_blocks").at(i);
            down_blocks.push(DownBlock::load(channels, outputs, config.layers_per_block, !last, shape, &block)?);
            channels = outputs;
        }
        Ok(Self {
            conv_in: Conv2d::load(config.out_channels, shallowest, 3, &encoder.at("conv_in"))?,
            down_blocks,
            mid_resnets: [
                ResnetBlock::load(channels, channels, shape, &mid.at("resnets.0"))?,
                ResnetBlock::load(channels, channels, shape, &mid.at("resnets.1"))?,
            ],
            mid_attention: SpatialAttention::load(channels, groups, &mid.at("attentions.0"))?,
            conv_norm_out: GroupNorm::load(groups, channels, EPS, &encoder.at("conv_norm_out"))?,
            conv_out: Conv2d::load(channels, moments, 3, &encoder.at("conv_out"))?,
            quant_conv: Conv2d::load(moments, moments, 1, &weights.at("quant_conv"))?,
            config,
        })
    }

    /// The mean of the posterior, not a sample from it, scaled as diffusion sees latents: [batch, 4, h, w].
    /// `image`: [batch, 3, h·f, w·f] in 0..1.
    ///
    /// # Errors
    /// `image` is no batch of RGB images, or its sides are no whole number of latents.
    pub fn encode(&self, image: &Tensor) -> Result<Tensor> {
        let h = self.conv_in.forward(&image.affine(2.0, -1.0)?.into())?;
        let h = self.down_blocks.iter().try_fold(h, |h, block| block.forward(&h))?;
        let h = self.mid_resnets[0].forward(&h, None)?;
        let h = self.mid_resnets[1].forward(&self.mid_attention.forward(&h)?, None)?;
        let moments = self.quant_conv.forward(&self.conv_out.forward(&self.conv_norm_out.forward_silu(&h)?)?)?;
        moments.value().narrow(1, 0, self.config.latent_channels)? * self.config.scaling_factor
    }
}

/// diffusers' `DownEncoderBlock2D`.
#[derive(Debug)]
struct DownBlock {
    resnets: Vec<ResnetBlock>,
    downsampler: Option<Downsample>,
}

impl DownBlock {
    fn load(
        inputs: usize,
        outputs: usize,
        layers: usize,
        downsample: bool,
        shape: ResnetShape,
        weights: &Weights,
    ) -> error::Result<Self> {
        let resnet =
            |i| ResnetBlock::load(if i == 0 { inputs } else { outputs }, outputs, shape, &weights.at("resnets").at(i));
        Ok(Self {
            resnets: (0..layers).map(resnet).collect::<error::Result<_>>()?,
            downsampler: downsample.then(|| Downsample::load(outputs, &weights.at("downsamplers.0"))).transpose()?,
        })
    }

    fn forward(&self, x: &Tracked) -> Result<Tracked> {
        let x = self.resnets.iter().try_fold(x.clone(), |x, resnet| resnet.forward(&x, None))?;
        match &self.downsampler {
            Some(downsampler) => Ok(halved(downsampler, x.value())?.into()),
            None => Ok(x),
        }
    }
}

/// `downsampler` over `x` padded below and on the right only, as the autoencoder was trained: its own padding is shifted out by
/// a zero row above and a zero column on the left, whose outputs are dropped.
fn halved(downsampler: &Downsample, x: &Tensor) -> Result<Tensor> {
    let (_, _, height, width) = x.dims4()?;
    let y = downsampler.forward(&x.pad_with_zeros(2, 1, 0)?.pad_with_zeros(3, 1, 0)?.into())?;
    y.value().narrow(2, 1, height / 2)?.narrow(3, 1, width / 2)?.contiguous()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three depths of autoencoder, both namings of its attention, images of all orientations.
    #[test]
    fn the_posterior_mean_equals_diffusers() {
        let reference = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/reference");
        let golden = reference.join("request/vae_encoder.safetensors");
        let golden = candle_core::safetensors::load(golden, &Device::Cpu).unwrap();
        for case in ["small_s5", "deep_s10", "three_s50_2023"] {
            let folder = reference.join("cases").join(case).join("bundle/sd/vae");
            let encoder = VaeEncoder::load(folder, DType::F32, &Device::Cpu).unwrap();
            let pixels = golden[&format!("{case}.image")].to_dtype(DType::F32).unwrap();
            let image = (pixels.permute((2, 0, 1)).unwrap().unsqueeze(0).unwrap() / 255.0).unwrap();
            let latents = (encoder.encode(&image).unwrap() / encoder.config.scaling_factor).unwrap();
            let expected = &golden[&format!("{case}.mean")];
            assert_eq!(latents.dims(), expected.dims(), "{case}");
            let difference = (latents - expected).unwrap().abs().unwrap().max_all().unwrap();
            let difference = difference.to_scalar::<f32>().unwrap();
            assert!(difference < 1e-5, "{case}: {difference:e}");
        }
    }
}
