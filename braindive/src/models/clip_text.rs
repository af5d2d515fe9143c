//! OpenCLIP's text tower (Radford et al. 2021, section 2.4), with its published key names.

use super::text_transformer::{Config, TextTransformer, causal_mask};
use super::vit::LAYER_NORM_EPS;
use crate::error::{Error, Result};
use crate::layers::Activation;
use crate::weights::{Weights, read_config};
use candle_core::{D, DType, Device, Tensor};
use serde::Deserialize;
use std::path::Path;

/// What `open_clip_config.json` says about the text tower.
#[derive(Debug, Clone, Deserialize)]
struct ConfigFile {
    model_cfg: ModelConfig,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct ModelConfig {
    /// Features of a text.
    pub embed_dim: usize,
    #[serde(default)]
    quick_gelu: bool,
    pub text_cfg: TextConfig,
}

/// Size of the text tower; the defaults are OpenCLIP's.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub(super) struct TextConfig {
    pub context_length: usize,
    vocab_size: usize,
    pub width: usize,
    heads: usize,
    layers: usize,
    /// Hidden width of the feed-forward layers, in units of `width`.
    mlp_ratio: f64,
    /// Whether a learned token after the text is the text's feature (CoCa).
    embed_cls: bool,
    /// The padding's token id.
    pub pad_id: u32,
    /// Set where the tower is a model of `transformers`, which has other keys.
    hf_model_name: Option<String>,
}

impl Default for TextConfig {
    fn default() -> Self {
        Self {
            context_length: 77,
            vocab_size: 49408,
            width: 512,
            heads: 8,
            layers: 12,
            mlp_ratio: 4.0,
            embed_cls: false,
            pad_id: 0,
            hf_model_name: None,
        }
    }
}

impl ModelConfig {
    /// Reads `open_clip_config.json` of a folder.
    ///
    /// # Errors
    /// The file is missing or broken, or its text tower is not OpenCLIP's.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("open_clip_config.json");
        let config = read_config::<ConfigFile>(&path)?.model_cfg;
        if let Some(found) = config.text_cfg.hf_model_name {
            let expected = "OpenCLIP's own text transformer".to_owned();
            return Err(Error::Unsupported { path, key: "text_cfg.hf_model_name".to_owned(), found, expected });
        }
        Ok(config)
    }

    pub fn text_transformer(&self) -> Config {
        let text = &self.text_cfg;
        Config {
            vocabulary: text.vocab_size,
            positions: text.context_length + usize::from(text.embed_cls),
            width: text.width,
            heads: text.heads,
            layers: text.layers,
            hidden: (text.width as f64 * text.mlp_ratio) as usize,
            activation: if self.quick_gelu { Activation::QuickGelu } else { Activation::Gelu },
            layer_norm_eps: LAYER_NORM_EPS,
        }
    }
}

/// Texts to the space of CLIP's images.
#[derive(Debug)]
pub struct ClipText {
    transformer: TextTransformer,
    /// [width, features]
    text_projection: Tensor,
    context: usize,
}

impl ClipText {
    /// Reads `open_clip_config.json` and the text side of `open_clip_model.safetensors` of a folder.
    ///
    /// # Errors
    /// A file is missing or broken, or a tensor has another shape than the configuration says.
    pub fn load(folder: &Path, dtype: DType, device: &Device) -> Result<Self> {
        let config = ModelConfig::read(folder)?;
        let weights = Weights::open(folder.join("open_clip_model.safetensors"), dtype, device)?;
        Ok(Self {
            transformer: TextTransformer::load_open_clip(&config.text_transformer(), &weights)?,
            text_projection: weights.get(&[config.text_cfg.width, config.embed_dim], "text_projection")?,
            context: config.text_cfg.context_length,
        })
    }

    /// Token ids that a text is padded or cut to.
    pub fn context(&self) -> usize {
        self.context
    }

    /// `ids`: [texts, context], u32; returns the texts' features, [texts, features], unit norm. A text's feature is its state at
    /// the end token, which has the largest id of the vocabulary.
    ///
    /// # Errors
    /// An id is outside the model's vocabulary, or there are more tokens than positions.
    pub fn encode(&self, ids: &Tensor) -> Result<Tensor> {
        let (texts, tokens) = ids.dims2()?;
        let mask = causal_mask(tokens, ids.device())?;
        let states = self.transformer.forward(&self.transformer.embed(ids)?, &mask)?;
        let end = ids.argmax_keepdim(1)?.unsqueeze(2)?.broadcast_as((texts, 1, states.dim(2)?))?.contiguous()?;
        unit_norm(&states.gather(&end, 1)?.squeeze(1)?.matmul(&self.text_projection)?)
    }
}

/// `x`: [rows, features]; divides every row by its length, or by 10⁻¹² if it is shorter.
pub(super) fn unit_norm(x: &Tensor) -> Result<Tensor> {
    let length = x.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?.maximum(1e-12)?;
    Ok(x.broadcast_div(&length)?)
}
