//! The levels of the UNet: down blocks, the mid block, up blocks.

use super::transformer::{SpatialTransformer, TransformerShape};
use crate::error;
use crate::models::resnet::{Downsample, ResnetBlock, ResnetShape, Upsample};
use crate::weights::Weights;
use candle_core::{Result, Tensor};

/// What all levels share.
#[derive(Debug, Clone, Copy)]
pub struct BlockShape {
    pub resnet: ResnetShape,
    pub transformer: TransformerShape,
}

/// What every level is conditioned on.
#[derive(Debug, Clone, Copy)]
pub struct Condition<'a> {
    /// The time embedding behind its SiLU, [1, width].
    pub time: &'a Tensor,
    /// The prompt's embedding, [batch, tokens, width].
    pub context: &'a Tensor,
}

/// A residual block, and in `CrossAttn…` levels a transformer behind it.
#[derive(Debug)]
struct Layer {
    resnet: ResnetBlock,
    attention: Option<SpatialTransformer>,
}

impl Layer {
    /// `heads`: `None` for a level without attention.
    fn load(
        i: usize,
        inputs: usize,
        outputs: usize,
        heads: Option<usize>,
        shape: BlockShape,
        weights: &Weights,
    ) -> error::Result<Self> {
        let attentions = weights.at("attentions");
        Ok(Self {
            resnet: ResnetBlock::load(inputs, outputs, shape.resnet, &weights.at("resnets").at(i))?,
            attention: heads
                .map(|heads| SpatialTransformer::load(outputs, heads, shape.transformer, &attentions.at(i)))
                .transpose()?,
        })
    }

    fn forward(&self, x: &Tensor, condition: Condition<'_>) -> Result<Tensor> {
        let x = self.resnet.forward(x, Some(condition.time))?;
        match &self.attention {
            Some(attention) => attention.forward(&x, condition.context),
            None => Ok(x),
        }
    }
}

/// diffusers' `CrossAttnDownBlock2D` and `DownBlock2D`. Keys: resnets.N, attentions.N, downsamplers.0.
#[derive(Debug)]
pub struct DownBlock {
    layers: Vec<Layer>,
    downsampler: Option<Downsample>,
}

impl DownBlock {
    /// Reads a level of `layers` layers from `inputs` to `outputs` channels and pushes onto `skips` the channels that it
    /// leaves for the up blocks.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    #[allow(clippy::too_many_arguments)]
    pub fn load(
        inputs: usize,
        outputs: usize,
        layers: usize,
        heads: Option<usize>,
        downsample: bool,
        skips: &mut Vec<usize>,
        shape: BlockShape,
        weights: &Weights,
    ) -> error::Result<Self> {
        let layer = |i| Layer::load(i, if i == 0 { inputs } else { outputs }, outputs, heads, shape, weights);
        skips.extend(std::iter::repeat_n(outputs, layers + usize::from(downsample)));
        Ok(Self {
            layers: (0..layers).map(layer).collect::<error::Result<_>>()?,
            downsampler: downsample.then(|| Downsample::load(outputs, &weights.at("downsamplers.0"))).transpose()?,
        })
    }

    /// Returns the level's output and pushes what the up blocks will need onto `skips`.
    ///
    /// # Errors
    /// The shapes do not fit together.
    pub fn forward(&self, x: &Tensor, condition: Condition<'_>, skips: &mut Vec<Tensor>) -> Result<Tensor> {
        let mut x = x.clone();
        for layer in &self.layers {
            x = layer.forward(&x, condition)?;
            skips.push(x.clone());
        }
        if let Some(downsampler) = &self.downsampler {
            x = downsampler.forward(&x)?;
            skips.push(x.clone());
        }
        Ok(x)
    }
}

/// diffusers' `UNetMidBlock2DCrossAttn`. Keys: resnets.0, attentions.0, resnets.1.
#[derive(Debug)]
pub struct MidBlock {
    before: ResnetBlock,
    attention: SpatialTransformer,
    after: ResnetBlock,
}

impl MidBlock {
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load(channels: usize, heads: usize, shape: BlockShape, weights: &Weights) -> error::Result<Self> {
        let resnet = |i: usize| ResnetBlock::load(channels, channels, shape.resnet, &weights.at("resnets").at(i));
        Ok(Self {
            before: resnet(0)?,
            attention: SpatialTransformer::load(channels, heads, shape.transformer, &weights.at("attentions.0"))?,
            after: resnet(1)?,
        })
    }

    /// `probabilities` receives the self-attention's, [batch, heads, pixels, pixels], if there is a place for them.
    ///
    /// # Errors
    /// The shapes do not fit together.
    pub fn forward(
        &self,
        x: &Tensor,
        condition: Condition<'_>,
        probabilities: Option<&mut Option<Tensor>>,
    ) -> Result<Tensor> {
        let x = self.before.forward(x, Some(condition.time))?;
        if let Some(probabilities) = probabilities {
            *probabilities = Some(self.attention.self_attention_probabilities(&x)?);
        }
        self.after.forward(&self.attention.forward(&x, condition.context)?, Some(condition.time))
    }
}

/// diffusers' `CrossAttnUpBlock2D` and `UpBlock2D`. Keys: resnets.N, attentions.N, upsamplers.0.
#[derive(Debug)]
pub struct UpBlock {
    layers: Vec<Layer>,
    upsampler: Option<Upsample>,
}

impl UpBlock {
    /// Reads a level of `layers` layers, each of which also takes the last of `skips`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    #[allow(clippy::too_many_arguments)]
    pub fn load(
        inputs: usize,
        outputs: usize,
        layers: usize,
        heads: Option<usize>,
        upsample: bool,
        skips: &mut Vec<usize>,
        shape: BlockShape,
        weights: &Weights,
    ) -> error::Result<Self> {
        let mut layer = |i| {
            let inputs = if i == 0 { inputs } else { outputs };
            Layer::load(i, inputs + skips.pop().unwrap_or_default(), outputs, heads, shape, weights)
        };
        Ok(Self {
            layers: (0..layers).map(&mut layer).collect::<error::Result<_>>()?,
            upsampler: upsample.then(|| Upsample::load(outputs, &weights.at("upsamplers.0"))).transpose()?,
        })
    }

    /// Takes one of `skips` for every layer, the last one first.
    ///
    /// # Errors
    /// The shapes do not fit together.
    pub fn forward(&self, x: &Tensor, condition: Condition<'_>, skips: &mut Vec<Tensor>) -> Result<Tensor> {
        let mut x = x.clone();
        for layer in &self.layers {
            if let Some(skip) = skips.pop() {
                x = Tensor::cat(&[x, skip], 1)?;
            }
            x = layer.forward(&x, condition)?;
        }
        match &self.upsampler {
            Some(upsampler) => upsampler.forward(&x),
            None => Ok(x),
        }
    }
}
