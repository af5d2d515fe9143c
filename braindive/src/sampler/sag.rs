//! Self-attention guidance (Hong et al. 2023): away from the prediction for latents that are blurred where the network looks.

use super::Diffusion;
use super::schedule::NoiseLevel;
use crate::gradient::Keep;
use crate::layers::gaussian_blur;
use crate::models::unet::MidAttention;
use candle_core::{Result, Tensor};

/// Keys that get more than this much attention, summed over queries and averaged over heads, are blurred: the mean is 1.
const THRESHOLD: f64 = 1.0;

/// What one step of self-attention guidance computed.
#[derive(Debug, Clone)]
pub struct SelfAttentionGuidance {
    /// Attention that each pixel of the mid map gets: [batch, height·width].
    pub attn_colsum: Tensor,
    /// 1 where the map is blurred, else 0: [batch, 1, height, width].
    pub mask: Tensor,
    /// x̂₀ of the plain prediction, [batch, 4, h, w]; so are all below.
    pub pred_x0: Tensor,
    pub blurred: Tensor,
    pub degraded_latents: Tensor,
    pub degraded_pred: Tensor,
    /// ε + s (ε − ε(degraded))
    pub noise_pred: Tensor,
}

/// `noise_pred`: ε of `latents`, whose forward pass gave `attention`. Runs the network once more, without gradient.
///
/// # Errors
/// The latents are smaller than 5×5.
pub fn self_attention_guidance(
    diffusion: &Diffusion,
    latents: &Tensor,
    noise_pred: &Tensor,
    attention: &MidAttention,
    prompt_embeds: &Tensor,
    level: NoiseLevel,
    scale: f64,
) -> Result<SelfAttentionGuidance> {
    let (batch, _, height, width) = latents.dims4()?;
    let attn_colsum = attention.probabilities.to_dtype(latents.dtype())?.mean(1)?.sum(1)?;
    let mask = attn_colsum.gt(THRESHOLD)?.to_dtype(latents.dtype())?;
    let mask = mask.reshape((batch, 1, attention.height, attention.width))?;
    let upsampled = mask.upsample_nearest2d(height, width)?;
    let pred_x0 = level.pred_x0(&latents.into(), &noise_pred.into())?.into_value();
    let blurred = gaussian_blur(&pred_x0)?;
    let degraded = (blurred.broadcast_mul(&upsampled)? + pred_x0.broadcast_mul(&(1.0 - upsampled)?)?)?;
    let degraded_latents = level.renoised(&degraded, noise_pred)?;
    let (degraded_pred, _) =
        diffusion.predict_noise(&(&degraded_latents).into(), level, prompt_embeds, Keep::Activations, false)?;
    let degraded_pred = degraded_pred.into_value();
    let noise_pred = (noise_pred + ((noise_pred - &degraded_pred)? * scale)?)?;
    Ok(SelfAttentionGuidance { attn_colsum, mask, pred_x0, blurred, degraded_latents, degraded_pred, noise_pred })
}
