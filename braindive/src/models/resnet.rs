//! The residual block of UNet and VAE (diffusers' `ResnetBlock2D`), and the resizing convolutions between levels.

use crate::error;
use crate::gradient::Tracked;
use crate::layers::{Conv2d, GroupNorm, Linear, upsample_nearest_2x};
use crate::weights::Weights;
use candle_core::{Result, Tensor};

/// shortcut(x) + conv2(silu(norm2(conv1(silu(norm1(x))) + time))).
/// Keys: norm1, conv1, time_emb_proj, norm2, conv2, conv_shortcut.
#[derive(Debug)]
pub struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Option<Linear>,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
}

/// What all residual blocks of a network share.
#[derive(Debug, Clone, Copy)]
pub struct ResnetShape {
    pub groups: usize,
    pub eps: f64,
    /// Width of the time embedding; the VAE has none.
    pub time: Option<usize>,
}

impl ResnetBlock {
    /// A block from `inputs` to `outputs` channels.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load(inputs: usize, outputs: usize, shape: ResnetShape, weights: &Weights) -> error::Result<Self> {
        Ok(Self {
            norm1: GroupNorm::load(shape.groups, inputs, shape.eps, &weights.at("norm1"))?,
            conv1: Conv2d::load(inputs, outputs, 3, &weights.at("conv1"))?,
            time_emb_proj: shape
                .time
                .map(|time| Linear::load(time, outputs, &weights.at("time_emb_proj")))
                .transpose()?,
            norm2: GroupNorm::load(shape.groups, outputs, shape.eps, &weights.at("norm2"))?,
            conv2: Conv2d::load(outputs, outputs, 3, &weights.at("conv2"))?,
            conv_shortcut: (inputs != outputs)
                .then(|| Conv2d::load(inputs, outputs, 1, &weights.at("conv_shortcut")))
                .transpose()?,
        })
    }

    /// `x`: [batch, inputs, height, width]; `time`: [batch, time], behind its SiLU.
    ///
    /// # Errors
    /// The shapes do not fit together.
    pub fn forward(&self, x: &Tracked, time: Option<&Tensor>) -> Result<Tracked> {
        let mut h = self.conv1.forward(&self.norm1.forward_silu(x)?)?;
        if let (Some(proj), Some(time)) = (&self.time_emb_proj, time) {
            h = h.broadcast_add(&proj.forward(&time.into())?.value().unsqueeze(2)?.unsqueeze(3)?)?;
        }
        let h = self.conv2.forward(&self.norm2.forward_silu(&h)?)?;
        match &self.conv_shortcut {
            Some(conv) => conv.forward(x)?.add(&h),
            None => x.add(&h),
        }
    }
}

/// A convolution of stride 2, padded by 1 on every side.
#[derive(Debug)]
pub struct Downsample(Conv2d);

impl Downsample {
    /// Reads `conv` below `weights`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load(channels: usize, weights: &Weights) -> error::Result<Self> {
        Ok(Self(Conv2d::load(channels, channels, 3, &weights.at("conv"))?.with_stride(2)))
    }

    /// [batch, channels, height, width] → half the height and width.
    ///
    /// # Errors
    /// The shape does not fit.
    pub fn forward(&self, x: &Tracked) -> Result<Tracked> {
        self.0.forward(x)
    }
}

/// Nearest neighbour ×2, then a convolution.
#[derive(Debug)]
pub struct Upsample(Conv2d);

impl Upsample {
    /// Reads `conv` below `weights`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load(channels: usize, weights: &Weights) -> error::Result<Self> {
        Ok(Self(Conv2d::load(channels, channels, 3, &weights.at("conv"))?))
    }

    /// [batch, channels, height, width] → twice the height and width.
    ///
    /// # Errors
    /// The shape does not fit.
    pub fn forward(&self, x: &Tracked) -> Result<Tracked> {
        self.0.forward(&upsample_nearest_2x(x)?)
    }
}
