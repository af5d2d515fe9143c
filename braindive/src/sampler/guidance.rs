//! Brain guidance (Luo et al. 2023, section 3.3): the gradient of predicted activation with respect to the latents, through
//! encoder, decoder and noise predictor.

use super::Diffusion;
use super::schedule::NoiseLevel;
use crate::encoder::{Encoder, Target};
use crate::layers::clamp_unit;
use candle_core::{Result, Tensor, Var, bail};

/// What one step of brain guidance computed; nothing here carries a gradient graph.
#[derive(Debug, Clone)]
pub struct BrainGuidance {
    /// x̂₀, the Euler estimate of the data: [1, 4, h, w].
    pub pred_x0: Tensor,
    /// x′ = √(1−ᾱ)·x̂₀ + (1−√(1−ᾱ))·x: [1, 4, h, w].
    pub blended: Tensor,
    /// The decoder's output before it is brought to 0..1: [1, 3, H, W].
    pub decoded_raw: Tensor,
    /// Normalised pixels: [1, 3, size, size].
    pub clip_input: Tensor,
    /// [1, K], not normalised.
    pub clip_features: Tensor,
    /// [1, K]
    pub unit_features: Tensor,
    /// The objective, z-scored beta units.
    pub activation: f64,
    /// ∇ γ·activation with respect to the latents: [1, 4, h, w].
    pub grad_latents: Tensor,
}

/// `noise_pred` must have been computed from `latents`, so that the gradient flows through the noise predictor too.
///
/// # Errors
/// The shapes do not fit together, or the gradient is cut.
pub fn brain_guidance(
    diffusion: &Diffusion,
    encoder: &Encoder,
    target: &Target,
    latents: &Var,
    noise_pred: &Tensor,
    level: NoiseLevel,
    gamma: f64,
) -> Result<BrainGuidance> {
    let pred_x0 = level.pred_x0(latents, noise_pred)?;
    let share = level.sigma();
    let blended = ((&pred_x0 * share)? + (latents.as_tensor() * (1.0 - share))?)?;
    let decoded_raw = diffusion.vae.decode(&blended)?;
    let encoding = encoder.encode(&unit_range(&decoded_raw)?)?;
    let activation = target.activation(&encoding.unit_features)?;
    let gradients = (&activation * gamma)?.sum_all()?.backward()?;
    let Some(grad_latents) = gradients.get(latents) else { bail!("the guidance gradient does not reach the latents") };
    Ok(BrainGuidance {
        pred_x0: pred_x0.detach(),
        blended: blended.detach(),
        decoded_raw: decoded_raw.detach(),
        clip_input: encoding.clip_input.detach(),
        clip_features: encoding.clip_features.detach(),
        unit_features: encoding.unit_features.detach(),
        activation: activation.to_dtype(candle_core::DType::F64)?.sum_all()?.to_scalar()?,
        grad_latents: grad_latents.clone(),
    })
}

/// The decoder's −1..1 as an image in 0..1.
pub(super) fn unit_range(decoded: &Tensor) -> Result<Tensor> {
    clamp_unit(&decoded.affine(0.5, 0.5)?)
}
