//! Guided sampling (Luo et al. 2023, section 3.3): schedule, solver, self-attention guidance, brain guidance, noise.

pub mod ddim;
mod diffusion;
pub mod dpm_solver;
pub mod euler;
pub mod guidance;
mod memory;
pub mod noise;
mod parameters;
pub mod sag;
pub mod schedule;
pub mod solver;
pub mod trace;

pub use diffusion::Diffusion;
pub use memory::{Footprint, Memory};
pub use parameters::{Item, Parameters};

use crate::error::{Error, Result};
use crate::gradient::Tracked;
use crate::models::unet::MidAttention;
use crate::models::vit::VisionTransformer;
use candle_core::{D, DType, Tensor};
use guidance::{BrainGuidance, brain_guidance};
use sag::{SelfAttentionGuidance, self_attention_guidance};
use schedule::NoiseLevel;
use solver::Method;
use std::ops::ControlFlow;

/// A finished sample.
#[derive(Debug, Clone)]
pub struct Sample {
    /// [1, 3, H, W] in 0..1
    pub image: Tensor,
    /// [1, 4, h, w]
    pub latents: Tensor,
}

/// One step, as an observer sees it. All latents are [batch, 4, h, w].
#[derive(Debug)]
pub struct Step<'a> {
    /// From 0.
    pub index: usize,
    /// How many there are.
    pub steps: usize,
    pub level: NoiseLevel,
    pub latents_in: &'a Tensor,
    /// The network's prediction, without any guidance.
    pub noise_pred: &'a Tensor,
    /// The mid block's self-attention; with `sag` only.
    pub attention: Option<&'a MidAttention>,
    pub sag: Option<&'a SelfAttentionGuidance>,
    pub guidance: Option<&'a BrainGuidance>,
    /// With both guidances.
    pub noise_pred_final: &'a Tensor,
    /// The solver's data prediction.
    pub solver_x0: &'a Tensor,
    pub latents_out: &'a Tensor,
}

/// Samples a batch of images whose predicted activations are high, each by its own target.
///
/// One forward pass of the UNet serves both guidances: self-attention guidance takes its attention, brain guidance its
/// gradient. `observer` sees every step and may stop the run. An image whose latents or activation are not finite fails alone.
///
/// # Errors
/// A parameter does not fit the models, the observer stopped the run or failed, all images failed.
pub fn sample(
    diffusion: &Diffusion,
    backbone: &VisionTransformer,
    parameters: &Parameters,
    items: &[Item],
    mut observer: impl FnMut(&Step<'_>) -> Result<ControlFlow<()>>,
) -> Result<Vec<Result<Sample>>> {
    parameters.check(items, diffusion)?;
    let Parameters { steps, final_sigma, .. } = *parameters;
    let timesteps = diffusion.schedule.timesteps(steps)?;
    let mut solver = Method::default().solver(&diffusion.schedule.alpha_bars(steps, final_sigma)?, final_sigma, 0);
    let initial: Vec<&Tensor> = items.iter().map(|item| &item.initial_latents).collect();
    let mut latents = Tensor::cat(&initial, 0)?.to_dtype(diffusion.state_dtype())?;
    let mut failed = vec![None; items.len()];
    for (index, &timestep) in timesteps.iter().enumerate() {
        let level = NoiseLevel { timestep, alpha_bar: diffusion.schedule.alpha_bar(timestep) };
        let Predicted { noise_pred, attention, sag, guidance } =
            predict(diffusion, backbone, parameters, items, &latents, level)?;
        let mut noise_pred_final = sag.as_ref().map_or(&noise_pred, |sag| &sag.noise_pred).clone();
        if let Some(guidance) = &guidance {
            // ε′ = ε − √(1−ᾱ)·∇(γ·activation), section 3.3 of the paper.
            noise_pred_final = (noise_pred_final - (&guidance.grad_latents * level.sigma())?)?;
        }
        let solved = solver.step(index, &noise_pred_final, &latents)?;
        note_failures(&mut failed, index, "latents", &finite_rows(&solved.latents)?);
        if let Some(guidance) = &guidance {
            let finite: Vec<bool> = guidance.activation.iter().map(|value| value.is_finite()).collect();
            note_failures(&mut failed, index, "the predicted activation", &finite);
        }
        if let Some(&Some((step, what))) = failed.iter().min().filter(|first| first.is_some()) {
            return Err(Error::NonFinite { step, what });
        }
        let step = Step {
            index,
            steps,
            level,
            latents_in: &latents,
            noise_pred: &noise_pred,
            attention: attention.as_ref(),
            sag: sag.as_ref(),
            guidance: guidance.as_ref(),
            noise_pred_final: &noise_pred_final,
            solver_x0: &solved.pred_x0,
            latents_out: &solved.latents,
        };
        if observer(&step)?.is_break() {
            return Err(Error::Stopped { step: index });
        }
        latents = solved.latents;
    }
    let samples = failed.into_iter().enumerate().map(|(i, mut failed)| {
        // One image at a time: nothing is guided any more, and decoding is what takes most memory.
        let latents = latents.narrow(0, i, 1)?.contiguous()?;
        let image = diffusion.decode(&latents)?;
        note_failures(std::slice::from_mut(&mut failed), steps - 1, "the decoded image", &finite_rows(&image)?);
        Ok(match failed {
            Some((step, what)) => Err(Error::NonFinite { step, what }),
            None => Ok(Sample { image, latents }),
        })
    });
    samples.collect()
}

/// The network's prediction at one noise level, and what guidance makes of it.
#[derive(Debug)]
pub struct Predicted {
    pub noise_pred: Tensor,
    pub attention: Option<MidAttention>,
    pub sag: Option<SelfAttentionGuidance>,
    pub guidance: Option<BrainGuidance>,
}

/// One forward pass, brain guidance unless every γ is 0, self-attention guidance unless its scale is 0. `latents`: [batch, 4, h, w].
///
/// # Errors
/// The shapes do not fit together.
pub fn predict(
    diffusion: &Diffusion,
    backbone: &VisionTransformer,
    parameters: &Parameters,
    items: &[Item],
    latents: &Tensor,
    level: NoiseLevel,
) -> candle_core::Result<Predicted> {
    let &Parameters { sag_scale, memory, .. } = parameters;
    let prompts: Vec<&Tensor> = items.iter().map(|item| &item.prompt_embeds).collect();
    let prompt_embeds = &Tensor::cat(&prompts, 0)?;
    let guided = items.iter().any(|item| item.gamma != 0.0);
    let input = if guided { Tracked::input(latents.clone()) } else { latents.into() };
    let (prediction, attention) =
        diffusion.predict_noise(&input, level, prompt_embeds, memory.unet, sag_scale != 0.0)?;
    let noise_pred = prediction.value().clone();
    let guidance = guided.then(|| brain_guidance(diffusion, backbone, items, &input, prediction, level, memory));
    let guidance = guidance.transpose()?;
    let sag = attention.as_ref().map(|attention| {
        self_attention_guidance(diffusion, latents, &noise_pred, attention, prompt_embeds, level, sag_scale)
    });
    Ok(Predicted { noise_pred, sag: sag.transpose()?, attention, guidance })
}

/// The step in which an image first held a number that is not finite, and where.
type Failure = Option<(usize, &'static str)>;

fn note_failures(failed: &mut [Failure], step: usize, what: &'static str, finite: &[bool]) {
    for (failed, _) in failed.iter_mut().zip(finite).filter(|(failed, finite)| failed.is_none() && !**finite) {
        *failed = Some((step, what));
    }
}

/// Which images of `tensor` [batch, ...] hold finite numbers only.
fn finite_rows(tensor: &Tensor) -> Result<Vec<bool>> {
    // A sum is finite only if all terms are; f64 holds the sum of any f32s.
    let sums = tensor.to_dtype(DType::F64)?.flatten_from(1)?.sum(D::Minus1)?.to_vec1::<f64>()?;
    Ok(sums.into_iter().map(f64::is_finite).collect())
}
