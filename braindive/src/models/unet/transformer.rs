//! The spatial transformer of a UNet block: self-attention, cross-attention to the prompt, gated feed-forward.

use crate::error;
use crate::gradient::Tracked;
use crate::layers::{Attention, GroupNorm, LayerNorm, Linear, geglu};
use crate::weights::Weights;
use candle_core::{Result, Tensor};

/// The transformer's group norm adds this to the variance.
const GROUP_NORM_EPS: f64 = 1e-6;
const LAYER_NORM_EPS: f64 = 1e-5;
/// Hidden width of the feed-forward layer, in units of the channels.
const EXPANSION: usize = 4;

/// diffusers' `Transformer2DModel` of one block. Keys: norm, proj_in, transformer_blocks.0, proj_out.
#[derive(Debug)]
pub struct SpatialTransformer {
    norm: GroupNorm,
    proj_in: Linear,
    block: TransformerBlock,
    proj_out: Linear,
}

/// What all transformers of a UNet share.
#[derive(Debug, Clone, Copy)]
pub struct TransformerShape {
    pub groups: usize,
    /// Width of the prompt's embedding.
    pub context: usize,
    /// Whether proj_in and proj_out are stored as matrices, not as 1×1 convolutions.
    pub linear_projection: bool,
}

impl SpatialTransformer {
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load(channels: usize, heads: usize, shape: TransformerShape, weights: &Weights) -> error::Result<Self> {
        let projection = |name: &str| {
            let weights = weights.at(name);
            if shape.linear_projection {
                return Linear::load(channels, channels, &weights);
            }
            let weight = weights.get(&[channels, channels, 1, 1], "weight")?.reshape((channels, channels))?;
            Ok(Linear::new(&weight, Some(&weights.get(&[channels], "bias")?))?)
        };
        Ok(Self {
            norm: GroupNorm::load(shape.groups, channels, GROUP_NORM_EPS, &weights.at("norm"))?,
            proj_in: projection("proj_in")?,
            block: TransformerBlock::load(channels, heads, shape.context, &weights.at("transformer_blocks.0"))?,
            proj_out: projection("proj_out")?,
        })
    }

    /// `x`: [batch, channels, height, width]; `context`: [batch, tokens, width of the prompt's embedding].
    ///
    /// # Errors
    /// The shapes do not fit together.
    pub fn forward(&self, x: &Tracked, context: &Tracked) -> Result<Tracked> {
        let (_, _, height, width) = x.value().dims4()?;
        let tokens = self.block.forward(&self.tokens(x)?, context)?;
        x.add(&self.proj_out.forward(&tokens)?.to_map(height, width)?)
    }

    /// The probabilities of the self-attention in [`SpatialTransformer::forward`] of the same `x`, recomputed without
    /// gradient: [batch, heads, height·width, height·width].
    ///
    /// # Errors
    /// The shape does not fit.
    pub fn self_attention_probabilities(&self, x: &Tensor) -> Result<Tensor> {
        let normed = self.block.norm1.forward(&self.tokens(&x.into())?)?;
        let attn1 = &self.block.attn1;
        attn1.attention.probabilities(attn1.to_q.forward(&normed)?.value(), attn1.to_k.forward(&normed)?.value())
    }

    fn tokens(&self, x: &Tracked) -> Result<Tracked> {
        self.proj_in.forward(&self.norm.forward(x)?.to_tokens()?)
    }
}

/// diffusers' `BasicTransformerBlock`. Keys: norm1, attn1, norm2, attn2, norm3, ff.net.0.proj, ff.net.2.
#[derive(Debug)]
struct TransformerBlock {
    norm1: LayerNorm,
    attn1: Projections,
    norm2: LayerNorm,
    attn2: Projections,
    norm3: LayerNorm,
    ff_in: Linear,
    ff_out: Linear,
}

impl TransformerBlock {
    fn load(channels: usize, heads: usize, context: usize, weights: &Weights) -> error::Result<Self> {
        let norm = |name: &str| LayerNorm::load(channels, LAYER_NORM_EPS, &weights.at(name));
        let hidden = EXPANSION * channels;
        Ok(Self {
            norm1: norm("norm1")?,
            attn1: Projections::load(channels, channels, heads, &weights.at("attn1"))?,
            norm2: norm("norm2")?,
            attn2: Projections::load(channels, context, heads, &weights.at("attn2"))?,
            norm3: norm("norm3")?,
            ff_in: Linear::load(channels, 2 * hidden, &weights.at("ff.net.0.proj"))?,
            ff_out: Linear::load(hidden, channels, &weights.at("ff.net.2"))?,
        })
    }

    fn forward(&self, x: &Tracked, context: &Tracked) -> Result<Tracked> {
        let normed = self.norm1.forward(x)?;
        let x = x.add(&self.attn1.forward(&normed, &normed)?)?;
        let x = x.add(&self.attn2.forward(&self.norm2.forward(&x)?, context)?)?;
        x.add(&self.ff_out.forward(&geglu(&self.ff_in.forward(&self.norm3.forward(&x)?)?)?)?)
    }
}

/// Attention with its four projections. Keys: to_q, to_k, to_v, to_out.0.
#[derive(Debug)]
struct Projections {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    attention: Attention,
}

impl Projections {
    fn load(channels: usize, context: usize, heads: usize, weights: &Weights) -> error::Result<Self> {
        Ok(Self {
            to_q: Linear::load_without_bias(channels, channels, &weights.at("to_q"))?,
            to_k: Linear::load_without_bias(context, channels, &weights.at("to_k"))?,
            to_v: Linear::load_without_bias(context, channels, &weights.at("to_v"))?,
            to_out: Linear::load(channels, channels, &weights.at("to_out.0"))?,
            attention: Attention::new(heads),
        })
    }

    fn forward(&self, x: &Tracked, context: &Tracked) -> Result<Tracked> {
        let q = self.to_q.forward(x)?;
        let (k, v) = (self.to_k.forward(context)?, self.to_v.forward(context)?);
        self.to_out.forward(&self.attention.forward(&q, &k, &v)?)
    }
}
