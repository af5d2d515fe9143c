//! The text transformer that all CLIP-like towers share: token and position tables, pre-norm blocks, a final norm
//! (Radford et al. 2021, section 2.4), under the key names of `transformers` and of OpenCLIP.

use crate::error::Result;
use crate::layers::{Activation, Attention, LayerNorm, Linear};
use crate::weights::Weights;
use candle_core::{Device, Tensor};

/// The sizes of a text transformer.
#[derive(Debug, Clone)]
pub(super) struct Config {
    pub vocabulary: usize,
    /// Rows of the position table.
    pub positions: usize,
    pub width: usize,
    pub heads: usize,
    pub layers: usize,
    /// Width between the two layers of a block's perceptron.
    pub hidden: usize,
    pub activation: Activation,
    pub layer_norm_eps: f64,
}

/// A text transformer with its embeddings.
#[derive(Debug)]
pub(super) struct TextTransformer {
    /// [vocabulary, width]
    token_embedding: Tensor,
    /// [positions, width]
    positional_embedding: Tensor,
    heads: usize,
    blocks: Vec<Block>,
    final_norm: LayerNorm,
}

impl TextTransformer {
    /// `embeddings.*`, `encoder.layers.N.*` and `final_layer_norm` of a `CLIPTextModel`.
    pub fn load_transformers(config: &Config, weights: &Weights) -> Result<Self> {
        let embeddings = weights.at("embeddings");
        let layer = |layer| Block::load_transformers(config, &weights.at("encoder.layers").at(layer));
        Ok(Self {
            token_embedding: embeddings.get(&[config.vocabulary, config.width], "token_embedding.weight")?,
            positional_embedding: embeddings.get(&[config.positions, config.width], "position_embedding.weight")?,
            heads: config.heads,
            blocks: (0..config.layers).map(layer).collect::<Result<_>>()?,
            final_norm: LayerNorm::load(config.width, config.layer_norm_eps, &weights.at("final_layer_norm"))?,
        })
    }

    /// `token_embedding`, `positional_embedding`, `transformer.resblocks.N.*` and `ln_final` of an OpenCLIP text tower.
    pub fn load_open_clip(config: &Config, weights: &Weights) -> Result<Self> {
        let layer = |layer| Block::load_open_clip(config, &weights.at("transformer.resblocks").at(layer));
        Ok(Self {
            token_embedding: weights.get(&[config.vocabulary, config.width], "token_embedding.weight")?,
            positional_embedding: weights.get(&[config.positions, config.width], "positional_embedding")?,
            heads: config.heads,
            blocks: (0..config.layers).map(layer).collect::<Result<_>>()?,
            final_norm: LayerNorm::load(config.width, config.layer_norm_eps, &weights.at("ln_final"))?,
        })
    }

    /// `ids`: [texts, tokens]; returns the tokens' embeddings without their positions, [texts, tokens, width].
    pub fn embed(&self, ids: &Tensor) -> Result<Tensor> {
        let (texts, tokens) = ids.dims2()?;
        let rows = self.token_embedding.index_select(&ids.flatten_all()?, 0)?;
        Ok(rows.reshape((texts, tokens, ()))?)
    }

    /// `embeddings`: [texts, tokens, width]; `mask`: [tokens, tokens] or [texts, tokens, tokens], added to the attention scores of
    /// queries (rows) and keys (columns). Returns the states after the final norm, [texts, tokens, width].
    pub fn forward(&self, embeddings: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let attention = Attention::new(self.heads).with_mask(&mask.to_dtype(embeddings.dtype())?)?;
        let positions = self.positional_embedding.narrow(0, 0, embeddings.dim(1)?)?;
        let mut x = embeddings.broadcast_add(&positions)?;
        for block in &self.blocks {
            x = block.forward(&x, &attention)?;
        }
        Ok(self.final_norm.forward(&x)?)
    }
}

/// A pre-norm transformer block.
#[derive(Debug)]
struct Block {
    ln_1: LayerNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    ln_2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    activation: Activation,
}

impl Block {
    fn load_transformers(config: &Config, weights: &Weights) -> Result<Self> {
        let width = config.width;
        let attention = weights.at("self_attn");
        let projection = |name| Linear::load(width, width, &attention.at(name));
        Ok(Self {
            ln_1: LayerNorm::load(width, config.layer_norm_eps, &weights.at("layer_norm1"))?,
            q: projection("q_proj")?,
            k: projection("k_proj")?,
            v: projection("v_proj")?,
            out: projection("out_proj")?,
            ln_2: LayerNorm::load(width, config.layer_norm_eps, &weights.at("layer_norm2"))?,
            fc1: Linear::load(width, config.hidden, &weights.at("mlp.fc1"))?,
            fc2: Linear::load(config.hidden, width, &weights.at("mlp.fc2"))?,
            activation: config.activation,
        })
    }

    fn load_open_clip(config: &Config, weights: &Weights) -> Result<Self> {
        let width = config.width;
        let attention = weights.at("attn");
        let weight = attention.get(&[3 * width, width], "in_proj_weight")?;
        let bias = attention.get(&[3 * width], "in_proj_bias")?;
        let projection = |third: usize| {
            let bias = bias.narrow(0, third * width, width)?;
            Linear::new(&weight.narrow(0, third * width, width)?, Some(&bias))
        };
        Ok(Self {
            ln_1: LayerNorm::load(width, config.layer_norm_eps, &weights.at("ln_1"))?,
            q: projection(0)?,
            k: projection(1)?,
            v: projection(2)?,
            out: Linear::load(width, width, &attention.at("out_proj"))?,
            ln_2: LayerNorm::load(width, config.layer_norm_eps, &weights.at("ln_2"))?,
            fc1: Linear::load(width, config.hidden, &weights.at("mlp.c_fc"))?,
            fc2: Linear::load(config.hidden, width, &weights.at("mlp.c_proj"))?,
            activation: config.activation,
        })
    }

    fn forward(&self, x: &Tensor, attention: &Attention) -> Result<Tensor> {
        let h = self.ln_1.forward(x)?;
        let h = attention.forward(&self.q.forward(&h)?, &self.k.forward(&h)?, &self.v.forward(&h)?)?;
        let x = (x + self.out.forward(&h)?)?;
        let h = self.activation.forward(&self.fc1.forward(&self.ln_2.forward(&x)?)?)?;
        Ok((&x + self.fc2.forward(&h)?)?)
    }
}

/// Zero where a token may look, −∞ in its future: [tokens, tokens].
pub(super) fn causal_mask(tokens: usize, device: &Device) -> Result<Tensor> {
    let hidden = |query, key| if key > query { f32::NEG_INFINITY } else { 0.0 };
    let mask: Vec<f32> = (0..tokens * tokens).map(|at| hidden(at / tokens, at % tokens)).collect();
    Ok(Tensor::from_vec(mask, (tokens, tokens), device)?)
}
