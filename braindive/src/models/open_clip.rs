//! `open_clip_config.json` (OpenCLIP, Ilharco et al. 2021), and what the towers it describes have in common.

use crate::error::{Error, Result};
use crate::gradient::Tracked;
use crate::layers::Activation;
use crate::weights::read_config;
use candle_core::Tensor;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::Path;

/// Layer norms of OpenCLIP add this to the variance.
pub(crate) const LAYER_NORM_EPS: f64 = 1e-5;

/// A model's configuration.
#[derive(Debug, Clone, Deserialize)]
pub struct OpenClipConfig {
    pub model_cfg: ModelConfig,
    pub preprocess_cfg: Preprocess,
}

/// The two towers.
#[derive(Debug, Clone, Deserialize)]
pub struct ModelConfig {
    /// Features of an image and of a text.
    pub embed_dim: usize,
    #[serde(default)]
    pub quick_gelu: bool,
    pub vision_cfg: VisionConfig,
    pub text_cfg: TextConfig,
}

/// Size of the image tower; the defaults are OpenCLIP's.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct VisionConfig {
    /// Side of the square input, pixels.
    pub image_size: usize,
    /// Side of a square patch, pixels.
    pub patch_size: usize,
    pub width: usize,
    pub layers: usize,
    /// Features per attention head.
    pub head_width: usize,
    /// Hidden width of the feed-forward layers, in units of `width`.
    pub mlp_ratio: f64,
    /// Heads of CoCa's attentional pooler.
    pub attn_pooler_heads: usize,
    /// Learned queries of CoCa's attentional pooler.
    pub attn_pooler_queries: usize,
}

impl Default for VisionConfig {
    fn default() -> Self {
        Self {
            image_size: 224,
            patch_size: 16,
            width: 768,
            layers: 12,
            head_width: 64,
            mlp_ratio: 4.0,
            attn_pooler_heads: 8,
            attn_pooler_queries: 256,
        }
    }
}

/// Size of the text tower; the defaults are OpenCLIP's.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct TextConfig {
    /// Token ids of a text.
    pub context_length: usize,
    pub vocab_size: usize,
    pub width: usize,
    pub heads: usize,
    pub layers: usize,
    /// Hidden width of the feed-forward layers, in units of `width`.
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

/// Statistics that the pixels are normalised with.
#[derive(Debug, Clone, Deserialize)]
pub struct Preprocess {
    /// Per channel, of images in 0..1.
    pub mean: [f32; 3],
    pub std: [f32; 3],
}

/// Settings that this crate's towers have one value of.
fn fixed() -> Value {
    json!({ "model_cfg": {
        "vision_cfg": {
            "timm_model_name": null,
            "pool_type": "tok",
            "pos_embed_type": "learnable",
            "no_ln_pre": false,
            "final_ln_after_pool": false,
            "ls_init_value": null,
            "act_kwargs": null,
            "norm_kwargs": null,
        },
        "text_cfg": {
            "hf_model_name": null,
            "pool_type": "argmax",
            "proj_type": "linear",
            "proj_bias": false,
            "no_causal_mask": false,
            "ls_init_value": null,
            "act_kwargs": null,
            "norm_kwargs": null,
        },
    } })
}

impl OpenClipConfig {
    /// Reads an `open_clip_config.json`.
    ///
    /// # Errors
    /// The file is missing or broken, or describes other towers than OpenCLIP's own transformers.
    pub fn read(path: &Path) -> Result<Self> {
        let config: Self = read_config(path, &fixed())?;
        let (vision, text) = (&config.model_cfg.vision_cfg, &config.model_cfg.text_cfg);
        for (key, found, divides, of) in [
            ("vision_cfg.patch_size", vision.patch_size, vision.image_size, "image_size"),
            ("vision_cfg.head_width", vision.head_width, vision.width, "width"),
            ("text_cfg.heads", text.heads, text.width, "width"),
        ] {
            if found == 0 || divides == 0 || !divides.is_multiple_of(found) {
                let (key, expected) = (format!("model_cfg.{key}"), format!("a divisor of {of}, {divides}"));
                return Err(Error::Unsupported { path: path.to_owned(), key, found: found.to_string(), expected });
            }
        }
        Ok(config)
    }
}

impl ModelConfig {
    /// The activation of both towers.
    pub fn activation(&self) -> Activation {
        if self.quick_gelu { Activation::QuickGelu } else { Activation::Gelu }
    }
}

impl Preprocess {
    /// (pixels − mean)/std. `pixels`: [batch, 3, height, width] in 0..1.
    ///
    /// # Errors
    /// `pixels` has another number of channels.
    pub fn normalise(&self, pixels: &Tracked) -> candle_core::Result<Tracked> {
        let (dtype, device) = (pixels.value().dtype(), pixels.value().device());
        let constant = |values: [f32; 3]| Tensor::new(&values, device)?.to_dtype(dtype)?.reshape((1, 3, 1, 1));
        let (mean, std) = (constant(self.mean)?, constant(self.std)?);
        let normalised = pixels.value().broadcast_sub(&mean)?.broadcast_div(&std)?;
        Ok(Tracked::record(normalised, [pixels], [], move |[], grad| Ok([Some(grad.broadcast_div(&std)?)])))
    }
}
