//! The transformer that all CLIP-like text towers share: token and position tables, causal residual blocks, final norm
//! (Radford et al. 2021, section 2.4), under the key names of `transformers` and of OpenCLIP.

use super::open_clip::{LAYER_NORM_EPS, ModelConfig};
use super::residual_block::{BlockShape, ResidualBlock};
use super::text::TextEncoderConfig;
use crate::error::Result;
use crate::layers::{Attention, LayerNorm};
use crate::weights::Weights;
use candle_core::{Device, Tensor};
use checkpoint::Layout;

/// A text transformer with its embeddings.
#[derive(Debug)]
pub(super) struct TextTransformer {
    /// [vocabulary, width]
    token_embedding: Tensor,
    /// [positions, width]
    positional_embedding: Tensor,
    heads: usize,
    blocks: Vec<ResidualBlock>,
    final_norm: LayerNorm,
}

impl TextTransformer {
    /// `embeddings.*`, `encoder.layers.N.*` and `final_layer_norm` of a `CLIPTextModel`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load_transformers(config: &TextEncoderConfig, weights: &Weights) -> Result<Self> {
        let (width, hidden, eps) = (config.hidden_size, config.intermediate_size, config.layer_norm_eps);
        let (embeddings, layers) = (weights.at("embeddings"), weights.at("encoder.layers"));
        let shape = BlockShape { width, hidden, activation: config.hidden_act, eps };
        let block = |i| ResidualBlock::load(shape, Layout::Transformers, &layers.at(i));
        Ok(Self {
            token_embedding: embeddings.get(&[config.vocab_size, width], "token_embedding.weight")?,
            positional_embedding: embeddings
                .get(&[config.max_position_embeddings, width], "position_embedding.weight")?,
            heads: config.num_attention_heads,
            blocks: (0..config.num_hidden_layers).map(block).collect::<Result<_>>()?,
            final_norm: LayerNorm::load(width, eps, &weights.at("final_layer_norm"))?,
        })
    }

    /// `token_embedding`, `positional_embedding`, `transformer.resblocks.N.*` and `ln_final` of an OpenCLIP text tower.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load_open_clip(config: &ModelConfig, weights: &Weights) -> Result<Self> {
        let (text, width) = (&config.text_cfg, config.text_cfg.width);
        let positions = text.context_length + usize::from(text.embed_cls);
        let hidden = (width as f64 * text.mlp_ratio) as usize;
        let layers = weights.at("transformer.resblocks");
        let shape = BlockShape { width, hidden, activation: config.activation(), eps: LAYER_NORM_EPS };
        let block = |i| ResidualBlock::load(shape, Layout::OpenClip, &layers.at(i));
        Ok(Self {
            token_embedding: weights.get(&[text.vocab_size, width], "token_embedding.weight")?,
            positional_embedding: weights.get(&[positions, width], "positional_embedding")?,
            heads: text.heads,
            blocks: (0..text.layers).map(block).collect::<Result<_>>()?,
            final_norm: LayerNorm::load(width, LAYER_NORM_EPS, &weights.at("ln_final"))?,
        })
    }

    /// `ids`: [texts, tokens]; returns the tokens' embeddings without their positions, [texts, tokens, width].
    ///
    /// # Errors
    /// An id is outside the vocabulary.
    pub fn embed(&self, ids: &Tensor) -> Result<Tensor> {
        let (texts, tokens) = ids.dims2()?;
        let rows = self.token_embedding.index_select(&ids.flatten_all()?, 0)?;
        Ok(rows.reshape((texts, tokens, ()))?)
    }

    /// `embeddings`: [texts, tokens, width]; `mask`: [tokens, tokens] or [texts, tokens, tokens], added to the attention scores of
    /// queries (rows) and keys (columns). Returns the states after the final norm, [texts, tokens, width].
    ///
    /// # Errors
    /// There are more tokens than positions.
    pub fn forward(&self, embeddings: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let attention = Attention::new(self.heads).with_mask(&mask.to_dtype(embeddings.dtype())?)?;
        let positions = self.positional_embedding.narrow(0, 0, embeddings.dim(1)?)?;
        let tokens = embeddings.broadcast_add(&positions)?.into();
        let states = self.blocks.iter().try_fold(tokens, |tokens, block| block.forward(&tokens, &attention))?;
        Ok(self.final_norm.forward(&states)?.into_value())
    }
}

/// Zero where a token may look, −∞ in its future: [tokens, tokens].
pub(super) fn causal_mask(tokens: usize, device: &Device) -> Result<Tensor> {
    let hidden = |query, key| if key > query { f32::NEG_INFINITY } else { 0.0 };
    let mask: Vec<f32> = (0..tokens * tokens).map(|at| hidden(at / tokens, at % tokens)).collect();
    Ok(Tensor::from_vec(mask, (tokens, tokens), device)?)
}
