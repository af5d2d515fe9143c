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
    let (attn_colsum, mask) = attended(&attention.probabilities.to_dtype(latents.dtype())?)?;
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

/// Attention that each key gets, and 1 for those that get more than their share: [batch, keys] each. `probabilities`: [batch, heads, queries, keys].
fn attended(probabilities: &Tensor) -> Result<(Tensor, Tensor)> {
    let attn_colsum = probabilities.mean(1)?.sum(1)?;
    let mask = attn_colsum.gt(THRESHOLD)?.to_dtype(probabilities.dtype())?;
    Ok((attn_colsum, mask))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn attention_that_is_the_same_everywhere_blurs_nothing_in_any_precision() {
        // 8 × 8 keys, as at 512 pixels.
        for (heads, dtype) in [(5, DType::F32), (10, DType::F32), (20, DType::F32), (20, DType::F16), (20, DType::BF16)]
        {
            let uniform = Tensor::full(1.0_f32 / 64.0, (2, heads, 64, 64), &Device::Cpu).unwrap();
            let (_, mask) = attended(&uniform.to_dtype(dtype).unwrap()).unwrap();
            let blurred = mask.to_dtype(DType::F32).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
            assert_eq!(blurred, 0.0, "{heads} heads in {dtype:?}");
        }
    }

    #[test]
    fn a_key_that_gets_more_than_its_share_is_blurred() {
        let probabilities = Tensor::new(&[[[[0.5_f32, 0.5], [0.75, 0.25]]]], &Device::Cpu).unwrap();
        let (attn_colsum, mask) = attended(&probabilities).unwrap();
        assert_eq!(attn_colsum.to_vec2::<f32>().unwrap(), [[1.25, 0.75]]);
        assert_eq!(mask.to_vec2::<f32>().unwrap(), [[1.0, 0.0]]);
    }
}
