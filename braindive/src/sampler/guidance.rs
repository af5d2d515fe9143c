//! Brain guidance (Luo et al. 2023, section 3.3): the gradient of predicted activation with respect to the latents, through
//! encoder, decoder and noise predictor.

use super::schedule::NoiseLevel;
use super::{Batch, Diffusion, Memory};
use crate::encoder::encode;
use crate::gradient::{Tracked, gradients};
use crate::layers::clamp_unit;
use crate::models::vit::VisionTransformer;
use candle_core::{Result, Tensor};

/// What one step of brain guidance computed for a batch.
#[derive(Debug, Clone)]
pub struct BrainGuidance {
    /// x̂₀, the Euler estimate of the data: [batch, 4, h, w].
    pub pred_x0: Tensor,
    /// x′ = √(1−ᾱ)·x̂₀ + (1−√(1−ᾱ))·x: [batch, 4, h, w].
    pub blended: Tensor,
    /// The decoder's output before it is brought to 0..1: [batch, 3, H, W].
    pub decoded_raw: Tensor,
    /// Normalised pixels: [batch, 3, size, size].
    pub clip_input: Tensor,
    /// [batch, K], not normalised.
    pub clip_features: Tensor,
    /// [batch, K]; what the head reads.
    pub features: Tensor,
    /// Every image's objective, z-scored beta units, f64: [batch].
    pub activation: Tensor,
    /// ∇ γ·activation with respect to the latents: [batch, 4, h, w].
    pub grad_latents: Tensor,
}

/// `latents` is the input whose gradient is wanted; `noise_pred` was computed from it, so that the gradient flows through the noise
/// predictor too.
///
/// Every image has its own target and γ. γ multiplies the objective before the gradient is taken, as the authors do: so it is also
/// what keeps the gradients of half-precision networks above underflow.
///
/// # Errors
/// The shapes do not fit, or the gradient does not reach the latents.
pub fn brain_guidance(
    diffusion: &Diffusion,
    backbone: &VisionTransformer,
    batch: &Batch,
    latents: &Tracked,
    noise_pred: Tracked,
    level: NoiseLevel,
    memory: Memory,
) -> Result<BrainGuidance> {
    let pred_x0 = level.pred_x0(latents, &noise_pred)?;
    drop(noise_pred);
    let share = level.sigma();
    let blended = Tracked::weighted_sum(share, &pred_x0, 1.0 - share, latents)?;
    let (pred_x0, blended_value) = (pred_x0.into_value(), blended.value().clone());
    let decoded = diffusion.decode_raw(&blended, memory.vae)?;
    drop(blended);
    let decoded_raw = decoded.value().clone();
    let encoding = encode(backbone, &unit_range(&decoded)?)?;
    drop(decoded);
    let features = encoding.features.value().clone();
    let activation = batch.activation(&features)?;
    let grad_latents = gradients(encoding.features, batch.cotangent().clone())?.reach(latents)?;
    Ok(BrainGuidance {
        pred_x0,
        blended: blended_value,
        decoded_raw,
        clip_input: encoding.clip_input,
        clip_features: encoding.clip_features,
        features,
        activation,
        grad_latents,
    })
}

/// The decoder's −1..1 as an image in 0..1.
pub(super) fn unit_range(decoded: &Tracked) -> Result<Tracked> {
    clamp_unit(&decoded.affine(0.5, 0.5)?)
}
