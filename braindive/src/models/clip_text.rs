//! OpenCLIP's text tower (Radford et al. 2021, section 2.4), with its published key names.

use super::text_transformer::{Config, TextTransformer, causal_mask};
use crate::error::Result;
use crate::layers::Activation;
use crate::weights::{Weights, read_config};
use candle_core::{D, DType, Device, Tensor};
use serde::Deserialize;
use std::path::Path;

/// What `open_clip_config.json` says of the text side.
#[derive(Debug, Clone, Deserialize)]
struct ConfigFile {
    model_cfg: ModelConfig,
}

/// `model_cfg` of `open_clip_config.json`, without the image side.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct ModelConfig {
    pub embed_dim: usize,
    #[serde(default)]
    pub quick_gelu: bool,
    pub text_cfg: TextConfig,
}

/// `text_cfg` of `open_clip_config.json`; the defaults are OpenCLIP's.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub(super) struct TextConfig {
    pub context_length: usize,
    pub vocab_size: usize,
    pub width: usize,
    pub heads: usize,
    pub layers: usize,
    pub mlp_ratio: f64,
    /// Whether a learned token after the text is the text's feature (CoCa).
    pub embed_cls: bool,
    /// The padding's token id.
    pub pad_id: u32,
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
        }
    }
}

impl ModelConfig {
    /// Reads `open_clip_config.json` of a folder.
    pub fn read(folder: &Path) -> Result<Self> {
        Ok(read_config::<ConfigFile>(folder.join("open_clip_config.json"))?.model_cfg)
    }

    /// The sizes of the text transformer.
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
            layer_norm_eps: 1e-5,
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
