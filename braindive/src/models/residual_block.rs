//! CLIP's residual attention block, the same in image and text towers, under the key names of OpenCLIP, timm, `transformers` and
//! torchvision.

use crate::error;
use crate::gradient::Tracked;
use crate::layers::{Activation, Attention, LayerNorm, Linear};
use crate::weights::Weights;
use candle_core::{Result, Tensor};
use checkpoint::Layout;

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

/// What all blocks of a tower share.
#[derive(Debug, Clone, Copy)]
pub struct BlockShape {
    pub width: usize,
    /// Width of the feed-forward layer.
    pub hidden: usize,
    pub activation: Activation,
    /// Added to the variance by both norms.
    pub eps: f64,
}

impl ResidualBlock {
    /// Reads a block under the key names of `layout`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load(shape: BlockShape, layout: Layout, weights: &Weights) -> error::Result<Self> {
        let BlockShape { width, hidden, activation, eps } = shape;
        let [ln_1, ln_2] = match layout {
            Layout::OpenClip | Layout::Torchvision => ["ln_1", "ln_2"],
            Layout::Timm => ["norm1", "norm2"],
            Layout::Transformers => ["layer_norm1", "layer_norm2"],
        };
        let [c_fc, c_proj] = match layout {
            Layout::OpenClip => ["mlp.c_fc", "mlp.c_proj"],
            Layout::Timm | Layout::Transformers => ["mlp.fc1", "mlp.fc2"],
            // The names before and since torchvision 0.13: published files still have the older ones.
            Layout::Torchvision if weights.contains("mlp.linear_1.weight") => ["mlp.linear_1", "mlp.linear_2"],
            Layout::Torchvision => ["mlp.0", "mlp.3"],
        };
        let [query, key, value, out_proj] = projections(width, layout, weights)?;
        Ok(Self {
            ln_1: LayerNorm::load(width, eps, &weights.at(ln_1))?,
            query,
            key,
            value,
            out_proj,
            ln_2: LayerNorm::load(width, eps, &weights.at(ln_2))?,
            c_fc: Linear::load(width, hidden, &weights.at(c_fc))?,
            activation,
            c_proj: Linear::load(hidden, width, &weights.at(c_proj))?,
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

/// The attention's query, key, value and output. All but `transformers` store the first three as one matrix.
fn projections(width: usize, layout: Layout, weights: &Weights) -> error::Result<[Linear; 4]> {
    let linear = |name: &str| Linear::load(width, width, &weights.at(name));
    let (weight, bias, out) = match layout {
        Layout::OpenClip => ("attn.in_proj_weight", "attn.in_proj_bias", "attn.out_proj"),
        Layout::Timm => ("attn.qkv.weight", "attn.qkv.bias", "attn.proj"),
        Layout::Torchvision => {
            ("self_attention.in_proj_weight", "self_attention.in_proj_bias", "self_attention.out_proj")
        }
        Layout::Transformers => {
            let [query, key, value] = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"].map(linear);
            return Ok([query?, key?, value?, linear("self_attn.out_proj")?]);
        }
    };
    let (weight, bias) = (weights.get(&[3 * width, width], weight)?, weights.get(&[3 * width], bias)?);
    let rows = |tensor: &Tensor, part: usize| tensor.narrow(0, part * width, width);
    let [query, key, value] = [0, 1, 2].map(|part| Linear::new(&rows(&weight, part)?, Some(&rows(&bias, part)?)));
    Ok([query?, key?, value?, linear(out)?])
}
