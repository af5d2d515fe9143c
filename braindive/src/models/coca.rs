//! CoCa (Yu et al. 2022) as OpenCLIP publishes it: an image tower with attentional pooling, and a text tower with a learned class
//! token. The captioning decoder (`text_decoder.*`) plays no part in classifying and is not read.

use super::VitConfig;
use super::open_clip::{LAYER_NORM_EPS, ModelConfig, OpenClipConfig, VisionConfig};
use super::text_transformer::{TextTransformer, causal_mask};
use super::vit::Trunk;
use crate::error::Result;
use crate::gradient::Tracked;
use crate::image::to_tensor;
use crate::layers::{Attention, LayerNorm, Linear, unit_norm};
use crate::weights::Weights;
use candle_core::{DType, Device, Tensor};
use checkpoint::Names;
use std::path::Path;
use subject::image::RgbImage8;
use subject::image::resize::shortest_side_center_crop;

/// A CoCa model; image and text features share one space.
#[derive(Debug)]
pub struct Coca {
    image: ImageTower,
    text: TextTower,
}

impl Coca {
    /// Reads `open_clip_config.json` and the weights of an OpenCLIP folder.
    ///
    /// # Errors
    /// A file is missing or broken, or a tensor has another shape than the configuration says.
    pub fn load(folder: &Path, dtype: DType, device: &Device) -> Result<Self> {
        let config = OpenClipConfig::read(&folder.join("open_clip_config.json"))?;
        Self::from_weights(config, &Weights::find(folder, Names::OPEN_CLIP, dtype, device)?)
    }

    /// Reads both towers in the whole model's `weights`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape than the configuration says.
    pub fn from_weights(config: OpenClipConfig, weights: &Weights) -> Result<Self> {
        let text = TextTower::load(&config.model_cfg, &weights.at("text"))?;
        Ok(Self { image: ImageTower::load(config, weights)?, text })
    }

    /// Token ids that a text is padded or cut to; the class token comes on top.
    pub fn context(&self) -> usize {
        self.text.context
    }

    /// OpenCLIP's evaluation transform: bicubic to the shorter side, centre crop, CLIP's mean and standard deviation. Returns
    /// [1, 3, image_size, image_size].
    ///
    /// # Errors
    /// The tensor cannot be put on the model's device.
    pub fn preprocess(&self, image: &RgbImage8) -> Result<Tensor> {
        let config = &self.image.config;
        let image = shortest_side_center_crop(image, config.model_cfg.vision_cfg.image_size);
        let query = &self.image.pooler.query;
        let pixels = to_tensor(&image, query.device())?.to_dtype(query.dtype())?;
        Ok(config.preprocess_cfg.normalise(&pixels.into())?.into_value())
    }

    /// `pixels`: [images, 3, image_size, image_size], as [`Coca::preprocess`] returns them; returns [images, features], unit norm.
    ///
    /// # Errors
    /// `pixels` has another size.
    pub fn encode_image(&self, pixels: &Tensor) -> Result<Tensor> {
        self.image.encode(pixels)
    }

    /// `ids`: [texts, context], u32; returns [texts, features], unit norm.
    ///
    /// # Errors
    /// An id is outside the model's vocabulary, or there are more tokens than positions.
    pub fn encode_text(&self, ids: &Tensor) -> Result<Tensor> {
        self.text.encode(ids)
    }
}

/// Keys: those of the trunk; below `visual` also attn_pool, ln_post, proj.
#[derive(Debug)]
struct ImageTower {
    config: OpenClipConfig,
    trunk: Trunk,
    pooler: AttentionalPooler,
    ln_post: LayerNorm,
    proj: Linear,
}

impl ImageTower {
    fn load(config: OpenClipConfig, weights: &Weights) -> Result<Self> {
        let features = config.model_cfg.embed_dim;
        let visual = weights.at("visual");
        Ok(Self {
            trunk: Trunk::load(&VitConfig::open_clip(&config), weights)?,
            pooler: AttentionalPooler::load(&config.model_cfg.vision_cfg, features, &visual.at("attn_pool"))?,
            ln_post: LayerNorm::load(features, LAYER_NORM_EPS, &visual.at("ln_post"))?,
            proj: Linear::new(&visual.get(&[features, features], "proj")?.t()?, None)?,
            config,
        })
    }

    fn encode(&self, pixels: &Tensor) -> Result<Tensor> {
        let pooled = self.pooler.forward(&self.trunk.forward(&pixels.into())?)?;
        let features = self.proj.forward(&self.ln_post.forward(&pooled)?)?;
        Ok(unit_norm(&features)?.into_value())
    }
}

/// Learned queries that look at the image's tokens (Yu et al. 2022, section 3.2). Query 0 gives the image's feature, and queries do
/// not see each other, so it is the only one that is computed.
#[derive(Debug)]
struct AttentionalPooler {
    /// Query 0 after its norm and projection, [1, 1, features].
    query: Tensor,
    ln_k: LayerNorm,
    k: Linear,
    v: Linear,
    out: Linear,
    attention: Attention,
}

impl AttentionalPooler {
    /// The widths of the image's tokens and of the queries, `features`, differ in every published CoCa, so that
    /// `torch.nn.MultiheadAttention` keeps its three projections apart.
    fn load(config: &VisionConfig, features: usize, weights: &Weights) -> Result<Self> {
        let &VisionConfig { width, attn_pooler_heads: heads, attn_pooler_queries: queries, .. } = config;
        let attn = weights.at("attn");
        let bias = attn.get(&[3 * features], "in_proj_bias")?;
        let projection = |part: usize, name: &str, inputs: usize| -> Result<Linear> {
            let weight = attn.get(&[features, inputs], name)?;
            Ok(Linear::new(&weight, Some(&bias.narrow(0, part * features, features)?))?)
        };
        let query = weights.get(&[queries, features], "query")?.narrow(0, 0, 1)?.unsqueeze(0)?;
        let query = LayerNorm::load(features, LAYER_NORM_EPS, &weights.at("ln_q"))?.forward(&query.into())?;
        Ok(Self {
            query: projection(0, "q_proj_weight", features)?.forward(&query)?.into_value(),
            ln_k: LayerNorm::load(width, LAYER_NORM_EPS, &weights.at("ln_k"))?,
            k: projection(1, "k_proj_weight", width)?,
            v: projection(2, "v_proj_weight", width)?,
            out: Linear::load(features, features, &attn.at("out_proj"))?,
            attention: Attention::new(heads),
        })
    }

    /// `tokens`: [images, tokens, width]; returns [images, features].
    fn forward(&self, tokens: &Tracked) -> Result<Tracked> {
        let tokens = self.ln_k.forward(tokens)?;
        let ((images, _, _), (_, _, features)) = (tokens.value().dims3()?, self.query.dims3()?);
        let query = self.query.broadcast_as((images, 1, features))?.into();
        let pooled = self.attention.forward(&query, &self.k.forward(&tokens)?, &self.v.forward(&tokens)?)?;
        Ok(self.out.forward(&pooled)?.reshape(&[images, features])?)
    }
}

/// Keys below `text`: those of the text transformer, cls_emb, text_projection.
#[derive(Debug)]
struct TextTower {
    transformer: TextTransformer,
    /// The learned class token that follows the text, [1, 1, width].
    cls_emb: Tensor,
    /// [width, features]
    text_projection: Tensor,
    context: usize,
    pad_id: u32,
}

impl TextTower {
    fn load(config: &ModelConfig, weights: &Weights) -> Result<Self> {
        let text = &config.text_cfg;
        Ok(Self {
            transformer: TextTransformer::load_open_clip(config, weights)?,
            cls_emb: weights.get(&[text.width], "cls_emb")?.reshape((1, 1, text.width))?,
            text_projection: weights.get(&[text.width, config.embed_dim], "text_projection")?,
            context: text.context_length,
            pad_id: text.pad_id,
        })
    }

    fn encode(&self, ids: &Tensor) -> Result<Tensor> {
        let (texts, tokens) = ids.dims2()?;
        let embeddings = self.transformer.embed(ids)?;
        let cls = self.cls_emb.broadcast_as((texts, 1, embeddings.dim(2)?))?;
        let states = self.transformer.forward(&Tensor::cat(&[embeddings, cls], 1)?, &self.mask(ids)?)?;
        let cls = states.narrow(1, tokens, 1)?.squeeze(1)?.contiguous()?;
        Ok(unit_norm(&cls.matmul(&self.text_projection)?.into())?.into_value())
    }

    /// Causal, and the class token does not look at key k if token k − 1 is padding: [texts, tokens + 1, tokens + 1].
    ///
    /// The shift by one is a quirk of OpenCLIP that the published weights were trained with: the class token sees the text, one
    /// padding token, and itself only where the text fills the context.
    fn mask(&self, ids: &Tensor) -> Result<Tensor> {
        let (texts, tokens) = ids.dims2()?;
        let hidden = Tensor::full(f32::NEG_INFINITY, ids.shape(), ids.device())?;
        let keys = ids.eq(self.pad_id)?.where_cond(&hidden, &hidden.zeros_like()?)?;
        let cls_row = keys.pad_with_zeros(1, 1, 0)?.unsqueeze(1)?;
        let text_rows = causal_mask(tokens + 1, ids.device())?.narrow(0, 0, tokens)?;
        Ok(Tensor::cat(&[&text_rows.broadcast_as((texts, tokens, tokens + 1))?, &cls_row], 1)?)
    }
}
