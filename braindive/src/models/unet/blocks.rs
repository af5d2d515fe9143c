//! The levels of the UNet: down blocks, the mid block, up blocks.

use super::transformer::{SpatialTransformer, TransformerShape};
use crate::error;
use crate::gradient::{Keep, Tracked};
use crate::models::resnet::{Downsample, ResnetBlock, ResnetShape, Upsample};
use crate::weights::Weights;
use candle_core::{Result, Tensor, bail};
use std::sync::Arc;

/// What all levels share.
#[derive(Debug, Clone, Copy)]
pub struct BlockShape {
    pub resnet: ResnetShape,
    pub transformer: TransformerShape,
}

/// What one level is made of.
#[derive(Debug, Clone, Copy)]
pub struct Level {
    /// Channels that come in, and go out.
    pub inputs: usize,
    pub outputs: usize,
    pub layers: usize,
    /// Attention heads; `None` for a level without attention.
    pub heads: Option<usize>,
    /// Whether a down or up block changes the size behind its layers.
    pub resample: bool,
    pub shape: BlockShape,
}

/// What every level is conditioned on, and what it keeps for the gradient.
#[derive(Debug, Clone)]
pub struct Condition {
    /// The time embedding behind its SiLU, [1, width].
    pub time: Tensor,
    /// The prompt's embedding, [batch, tokens, width].
    pub context: Tracked,
    pub keep: Keep,
}

/// A residual block, and in `CrossAttn…` levels a transformer behind it.
#[derive(Debug)]
struct Layer {
    resnet: ResnetBlock,
    attention: Option<SpatialTransformer>,
}

impl Layer {
    /// The `i`-th layer of a level; `skipped` channels come on top of its input.
    fn load(i: usize, level: Level, skipped: usize, weights: &Weights) -> error::Result<Self> {
        let Level { inputs, outputs, heads, shape, .. } = level;
        let inputs = if i == 0 { inputs } else { outputs } + skipped;
        let attentions = weights.at("attentions");
        Ok(Self {
            resnet: ResnetBlock::load(inputs, outputs, shape.resnet, &weights.at("resnets").at(i))?,
            attention: heads
                .map(|heads| SpatialTransformer::load(outputs, heads, shape.transformer, &attentions.at(i)))
                .transpose()?,
        })
    }

    fn forward(&self, x: &Tracked, condition: &Condition) -> Result<Tracked> {
        let x = self.resnet.forward(x, Some(&condition.time))?;
        match &self.attention {
            Some(attention) => attention.forward(&x, &condition.context),
            None => Ok(x),
        }
    }
}

/// diffusers' `CrossAttnDownBlock2D` and `DownBlock2D`. Keys: resnets.N, attentions.N, downsamplers.0.
#[derive(Debug)]
pub struct DownBlock {
    layers: Vec<Arc<Layer>>,
    downsampler: Option<Downsample>,
}

impl DownBlock {
    /// Reads a level and pushes onto `skips` the channels that it leaves for the up blocks.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load(level: Level, skips: &mut Vec<usize>, weights: &Weights) -> error::Result<Self> {
        let Level { outputs, layers, resample, .. } = level;
        skips.extend(std::iter::repeat_n(outputs, layers + usize::from(resample)));
        Ok(Self {
            layers: (0..layers)
                .map(|i| Layer::load(i, level, 0, weights).map(Arc::new))
                .collect::<error::Result<_>>()?,
            downsampler: resample.then(|| Downsample::load(outputs, &weights.at("downsamplers.0"))).transpose()?,
        })
    }

    /// Returns the level's output and pushes what the up blocks will need onto `skips`.
    ///
    /// # Errors
    /// The shapes do not fit together.
    pub fn forward(&self, x: &Tracked, condition: &Condition, skips: &mut Vec<Tracked>) -> Result<Tracked> {
        let mut x = x.clone();
        for layer in &self.layers {
            let (layer, with) = (layer.clone(), condition.clone());
            x = condition.keep.run([&x], move |[x]| layer.forward(x, &with))?;
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
    before: Arc<ResnetBlock>,
    attention: Arc<SpatialTransformer>,
    after: Arc<ResnetBlock>,
}

impl MidBlock {
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load(channels: usize, heads: usize, shape: BlockShape, weights: &Weights) -> error::Result<Self> {
        let resnet =
            |i: usize| ResnetBlock::load(channels, channels, shape.resnet, &weights.at("resnets").at(i)).map(Arc::new);
        let attention = SpatialTransformer::load(channels, heads, shape.transformer, &weights.at("attentions.0"))?;
        Ok(Self { before: resnet(0)?, attention: Arc::new(attention), after: resnet(1)? })
    }

    /// `probabilities` receives the self-attention's, [batch, heads, pixels, pixels], if there is a place for them.
    ///
    /// # Errors
    /// The shapes do not fit together.
    pub fn forward(
        &self,
        x: &Tracked,
        condition: &Condition,
        probabilities: Option<&mut Option<Tensor>>,
    ) -> Result<Tracked> {
        let Condition { time, context, keep } = condition;
        let resnet = |block: &Arc<ResnetBlock>, x: &Tracked| {
            let (block, time) = (block.clone(), time.clone());
            keep.run([x], move |[x]| block.forward(x, Some(&time)))
        };
        let x = resnet(&self.before, x)?;
        if let Some(probabilities) = probabilities {
            *probabilities = Some(self.attention.self_attention_probabilities(x.value())?);
        }
        let (attention, context) = (self.attention.clone(), context.clone());
        let x = keep.run([&x], move |[x]| attention.forward(x, &context))?;
        resnet(&self.after, &x)
    }
}

/// diffusers' `CrossAttnUpBlock2D` and `UpBlock2D`. Keys: resnets.N, attentions.N, upsamplers.0.
#[derive(Debug)]
pub struct UpBlock {
    layers: Vec<Arc<Layer>>,
    upsampler: Option<Upsample>,
}

impl UpBlock {
    /// Reads a level, each layer of which also takes the last of `skips`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load(level: Level, skips: &mut Vec<usize>, weights: &Weights) -> error::Result<Self> {
        let mut layer = |i| Layer::load(i, level, skips.pop().unwrap_or_default(), weights).map(Arc::new);
        Ok(Self {
            layers: (0..level.layers).map(&mut layer).collect::<error::Result<_>>()?,
            upsampler: level
                .resample
                .then(|| Upsample::load(level.outputs, &weights.at("upsamplers.0")))
                .transpose()?,
        })
    }

    /// Takes one of `skips` for every layer, the last one first.
    ///
    /// # Errors
    /// The shapes do not fit together.
    pub fn forward(&self, x: &Tracked, condition: &Condition, skips: &mut Vec<Tracked>) -> Result<Tracked> {
        let mut x = x.clone();
        for layer in &self.layers {
            let Some(skip) = skips.pop() else { bail!("an up block has more layers than the down blocks left skips") };
            let (layer, with) = (layer.clone(), condition.clone());
            x = condition.keep.run([&x, &skip], move |[x, skip]| layer.forward(&Tracked::cat(x, skip, 1)?, &with))?;
        }
        match &self.upsampler {
            Some(upsampler) => upsampler.forward(&x),
            None => Ok(x),
        }
    }
}
