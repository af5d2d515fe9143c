//! Stable Diffusion's text encoder: the `CLIPTextModel` of `transformers`, with its published key names.

use super::text_transformer::{TextTransformer, causal_mask};
use super::tokenizer::{Dialect, Tokenizer};
use crate::error::{Error, Result};
use crate::layers::Activation;
use crate::weights::{Weights, read_config};
use candle_core::{DType, Device, Tensor};
use checkpoint::Names;
use serde::Deserialize;
use std::path::Path;

/// `text_encoder/config.json`.
#[derive(Debug, Clone, Deserialize)]
pub struct TextEncoderConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    /// Width of the feed-forward layers.
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    /// Rows of the position table, and token ids that a prompt is padded or cut to.
    pub max_position_embeddings: usize,
    pub hidden_act: Activation,
    pub layer_norm_eps: f64,
}

impl TextEncoderConfig {
    /// Reads and checks `path`.
    ///
    /// # Errors
    /// The file cannot be read, or the heads do not divide the width.
    pub fn read(path: &Path) -> Result<Self> {
        let config: Self = read_config(path, &serde_json::json!({}))?;
        let (heads, width) = (config.num_attention_heads, config.hidden_size);
        if heads == 0 || !width.is_multiple_of(heads) {
            let (key, expected) = ("num_attention_heads".to_owned(), format!("a divisor of hidden_size, {width}"));
            return Err(Error::Unsupported { path: path.to_owned(), key, found: heads.to_string(), expected });
        }
        Ok(config)
    }
}

/// Prompts to the context of the UNet's cross-attention.
#[derive(Debug)]
pub struct TextEncoder {
    tokenizer: Tokenizer,
    transformer: TextTransformer,
    context: usize,
    device: Device,
}

impl TextEncoder {
    /// Reads `tokenizer/` and `text_encoder/` of a Stable Diffusion folder.
    ///
    /// # Errors
    /// A file is missing or broken, or a tensor has another shape than the configuration says.
    pub fn load(diffusion: &Path, dtype: DType, device: &Device) -> Result<Self> {
        let folder = diffusion.join("text_encoder");
        let config = TextEncoderConfig::read(&folder.join("config.json"))?;
        let tokenizer = Tokenizer::load(&diffusion.join("tokenizer"), Dialect::Transformers)?;
        Self::from_weights(&config, tokenizer, &Weights::find(&folder, Names::TRANSFORMERS, dtype, device)?)
    }

    /// Reads the encoder in `weights`, whose keys may have the published prefix `text_model.` or none.
    ///
    /// # Errors
    /// A tensor is missing or has another shape than the configuration says.
    pub fn from_weights(config: &TextEncoderConfig, tokenizer: Tokenizer, weights: &Weights) -> Result<Self> {
        let prefixed = weights.at("text_model");
        let encoder = if prefixed.contains("final_layer_norm.weight") { &prefixed } else { weights };
        let transformer = TextTransformer::load_transformers(config, encoder)?;
        let device = weights.device().clone();
        Ok(Self { tokenizer, transformer, context: config.max_position_embeddings, device })
    }

    /// The states of a prompt's tokens and of its padding after the final norm: [1, 77, width].
    ///
    /// # Errors
    /// The prompt cannot be tokenized, or the vocabulary is larger than the model's.
    pub fn prompt_embeds(&self, prompt: &str) -> Result<Tensor> {
        let ids = self.tokenizer.encode_batch(&[prompt], self.context, &self.device)?;
        self.last_hidden_state(&ids)
    }

    /// `ids`: [prompts, tokens], u32; returns [prompts, tokens, width]. Padding is not masked, as Stable Diffusion was trained.
    ///
    /// # Errors
    /// An id is outside the model's vocabulary, or there are more tokens than positions.
    pub fn last_hidden_state(&self, ids: &Tensor) -> Result<Tensor> {
        let mask = causal_mask(ids.dim(1)?, ids.device())?;
        self.transformer.forward(&self.transformer.embed(ids)?, &mask)
    }
}
