//! Stable Diffusion's text encoder: the `CLIPTextModel` of `transformers`, with its published key names.

use super::text_transformer::{TextTransformer, causal_mask};
use super::tokenizer::{Dialect, Tokenizer};
use crate::error::{Error, Result};
use crate::layers::Activation;
use crate::weights::{Weights, read_config};
use candle_core::{DType, Device, Tensor};
use serde::Deserialize;
use std::path::Path;

/// `text_encoder/config.json`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct TextEncoderConfig {
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

/// Prompts to the context of the UNet's cross-attention.
#[derive(Debug)]
pub struct TextEncoder {
    tokenizer: Tokenizer,
    transformer: TextTransformer,
    context: usize,
    device: Device,
}

impl TextEncoder {
    /// Reads `tokenizer/` and `text_encoder/{config.json, model.safetensors}` of a Stable Diffusion folder. The keys may have the
    /// published prefix `text_model.` or none.
    ///
    /// # Errors
    /// A file is missing or broken, a tensor has another shape than the configuration says, or the heads do not divide the width.
    pub fn load(diffusion: &Path, dtype: DType, device: &Device) -> Result<Self> {
        let folder = diffusion.join("text_encoder");
        let path = folder.join("config.json");
        let config: TextEncoderConfig = read_config(&path, &serde_json::json!({}))?;
        let (heads, width) = (config.num_attention_heads, config.hidden_size);
        if heads == 0 || !width.is_multiple_of(heads) {
            let (key, expected) = ("num_attention_heads".to_owned(), format!("a divisor of hidden_size, {width}"));
            return Err(Error::Unsupported { path, key, found: heads.to_string(), expected });
        }
        let weights = Weights::open(folder.join("model.safetensors"), dtype, device)?;
        let prefixed = weights.at("text_model");
        let weights = if prefixed.contains("final_layer_norm.weight") { prefixed } else { weights };
        let transformer = TextTransformer::load_transformers(&config, &weights)?;
        let tokenizer = Tokenizer::load(&diffusion.join("tokenizer"), Dialect::Transformers)?;
        Ok(Self { tokenizer, transformer, context: config.max_position_embeddings, device: device.clone() })
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
