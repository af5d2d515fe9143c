//! CLIP's residual attention block, the same in image and text towers, under the key names of OpenCLIP and of `transformers`.

use super::open_clip::LAYER_NORM_EPS;
use crate::error;
use crate::gradient::Tracked;
use crate::layers::{Activation, Attention, LayerNorm, Linear};
use crate::weights::Weights;
use candle_core::{Result, Tensor};

/// x + attention(ln_1(x)), then x + mlp(ln_2(x)).
#[derive(Debug)]
pub struct ResidualBlock {
    ln_1: LayerNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    out_proj: Linear,
    ln_2: LayerNorm,
    c_fc: Linear,
    activation: Activation,
    c_proj: Linear,
}

impl ResidualBlock {
    /// OpenCLIP's keys: ln_1, attn, ln_2, mlp.c_fc, mlp.c_proj. `hidden`: width of the feed-forward layer.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load(width: usize, hidden: usize, activation: Activation, weights: &Weights) -> error::Result<Self> {
        let (attn, mlp) = (weights.at("attn"), weights.at("mlp"));
        let in_proj_weight = attn.get(&[3 * width, width], "in_proj_weight")?;
        let in_proj_bias = attn.get(&[3 * width], "in_proj_bias")?;
        let in_proj = |part: usize| {
            let rows = |tensor: &Tensor| tensor.narrow(0, part * width, width);
            Linear::new(&rows(&in_proj_weight)?, Some(&rows(&in_proj_bias)?))
        };
        Ok(Self {
            ln_1: LayerNorm::load(width, LAYER_NORM_EPS, &weights.at("ln_1"))?,
            query: in_proj(0)?,
            key: in_proj(1)?,
            value: in_proj(2)?,
            out_proj: Linear::load(width, width, &attn.at("out_proj"))?,
            ln_2: LayerNorm::load(width, LAYER_NORM_EPS, &weights.at("ln_2"))?,
            c_fc: Linear::load(width, hidden, &mlp.at("c_fc"))?,
            activation,
            c_proj: Linear::load(hidden, width, &mlp.at("c_proj"))?,
        })
    }

    /// The keys of `transformers`: layer_norm1, self_attn, layer_norm2, mlp.fc1, mlp.fc2. `hidden`: width of the feed-forward
    /// layer; `eps`: added to the variance by both norms.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load_transformers(
        width: usize,
        hidden: usize,
        activation: Activation,
        eps: f64,
        weights: &Weights,
    ) -> error::Result<Self> {
        let (attn, mlp) = (weights.at("self_attn"), weights.at("mlp"));
        Ok(Self {
            ln_1: LayerNorm::load(width, eps, &weights.at("layer_norm1"))?,
            query: Linear::load(width, width, &attn.at("q_proj"))?,
            key: Linear::load(width, width, &attn.at("k_proj"))?,
            value: Linear::load(width, width, &attn.at("v_proj"))?,
            out_proj: Linear::load(width, width, &attn.at("out_proj"))?,
            ln_2: LayerNorm::load(width, eps, &weights.at("layer_norm2"))?,
            c_fc: Linear::load(width, hidden, &mlp.at("fc1"))?,
            activation,
            c_proj: Linear::load(hidden, width, &mlp.at("fc2"))?,
        })
    }

    /// `x`: [batch, tokens, width]; `attention` knows the number of heads and the mask.
    ///
    /// # Errors
    /// The shapes do not fit together.
    pub fn forward(&self, x: &Tracked, attention: &Attention) -> Result<Tracked> {
        let normed = self.ln_1.forward(x)?;
        let [q, k, v] = [&self.query, &self.key, &self.value].map(|layer| layer.forward(&normed));
        let x = x.add(&self.out_proj.forward(&attention.forward(&q?, &k?, &v?)?)?)?;
        let hidden = self.activation.forward(&self.c_fc.forward(&self.ln_2.forward(&x)?)?)?;
        x.add(&self.c_proj.forward(&hidden)?)
    }
}
