//! OpenCLIP's text tower (Radford et al. 2021, section 2.4), with its published key names.

use super::open_clip::{ModelConfig, OpenClipConfig};
use super::text_transformer::{TextTransformer, causal_mask};
use crate::error::Result;
use crate::layers::unit_norm;
use crate::weights::Weights;
use candle_core::{DType, Device, Tensor};
use checkpoint::Names;
use std::path::Path;

/// Texts to the space of CLIP's images.
#[derive(Debug)]
pub struct ClipText {
    transformer: TextTransformer,
    /// [width, features]
    text_projection: Tensor,
    context: usize,
}

impl ClipText {
    /// Reads `open_clip_config.json` and the text side of the weights of an OpenCLIP folder.
    ///
    /// # Errors
    /// A file is missing or broken, or a tensor has another shape than the configuration says.
    pub fn load(folder: &Path, dtype: DType, device: &Device) -> Result<Self> {
        let config = OpenClipConfig::read(&folder.join("open_clip_config.json"))?.model_cfg;
        Self::from_weights(&config, &Weights::find(folder, Names::OPEN_CLIP, dtype, device)?)
    }

    /// Reads the text tower in the whole model's `weights`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape than the configuration says.
    pub fn from_weights(config: &ModelConfig, weights: &Weights) -> Result<Self> {
        Ok(Self {
            transformer: TextTransformer::load_open_clip(config, weights)?,
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
        let features = states.gather(&end, 1)?.squeeze(1)?.matmul(&self.text_projection)?;
        Ok(unit_norm(&features.into())?.into_value())
    }
}
