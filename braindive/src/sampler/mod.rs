//! Guided sampling (Luo et al. 2023, section 3.3): schedule, solver, self-attention guidance, brain guidance, noise.

mod batch;
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
pub mod start;
pub mod trace;
mod watch;

pub use batch::Batch;
pub use diffusion::Diffusion;
pub use memory::{Footprint, Memory};
pub use parameters::{Gradient, Item, Parameters, TextGuidance};

use crate::error::{Error, Result};
use crate::gradient::Tracked;
use crate::models::unet::MidAttention;
use crate::models::vit::VisionTransformer;
use candle_core::Tensor;
use guidance::{BrainGuidance, brain_guidance};
use sag::{SelfAttentionGuidance, self_attention_guidance};
use schedule::NoiseLevel;
use std::ops::ControlFlow;
use watch::Watch;

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
    /// The network's prediction for the prompt, without any guidance.
    pub noise_pred: &'a Tensor,
    /// With text guidance: the prediction for the empty prompt.
    pub null_pred: Option<&'a Tensor>,
    /// The mid block's self-attention; with `sag` only.
    pub attention: Option<&'a MidAttention>,
    pub sag: Option<&'a SelfAttentionGuidance>,
    pub guidance: Option<&'a BrainGuidance>,
    /// With all guidances.
    pub noise_pred_final: &'a Tensor,
    /// The solver's data prediction.
    pub solver_x0: &'a Tensor,
    pub latents_out: &'a Tensor,
}

/// Samples a batch of images whose predicted activations are high, each by its own target.
///
/// One forward pass of the UNet serves self-attention guidance, which takes its attention, and brain guidance, which takes its
/// gradient, unless there is text guidance (see [`TextGuidance`]). `observer` sees every step and may stop the run. An image whose latents or activation are not finite fails alone.
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
    let Parameters { steps, first_step, final_sigma, .. } = *parameters;
    let timesteps = diffusion.schedule.timesteps(steps)?;
    let alpha_bars = diffusion.schedule.alpha_bars(steps, final_sigma)?;
    let mut solver = parameters.solver.solver(&alpha_bars, final_sigma, first_step);
    let batch = diffusion.batch(items)?;
    // Outside the guidance interval γ is 0.
    let unguided = batch.unguided();
    let initial: Vec<&Tensor> = items.iter().map(|item| &item.initial_latents).collect();
    let mut latents = Tensor::cat(&initial, 0)?.to_dtype(diffusion.state_dtype())?;
    let mut watch = Watch::new(items.len());
    for (index, &timestep) in timesteps.iter().enumerate().skip(first_step) {
        let level = NoiseLevel { timestep, alpha_bar: diffusion.schedule.alpha_bar(timestep) };
        let batch = if parameters.is_guided(index) { &batch } else { &unguided };
        let predicted = predict(diffusion, backbone, parameters, batch, &latents, level)?;
        let noise_pred_final = predicted.guided(parameters, level)?;
        let Predicted { noise_pred, null_pred, attention, sag, guidance } = predicted;
        let solved = solver.step(index, &noise_pred_final, &latents)?;
        watch.note(index, "latents", &solved.latents)?;
        if let Some(guidance) = &guidance {
            watch.note(index, "the predicted activation", &guidance.activation)?;
        }
        watch.look(index)?;
        let step = Step {
            index,
            steps,
            level,
            latents_in: &latents,
            noise_pred: &noise_pred,
            null_pred: null_pred.as_ref(),
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
    watch.settle()?;
    let samples = (0..items.len()).map(|i| {
        // One image at a time: nothing is guided any more, and decoding is what takes most memory.
        let latents = latents.narrow(0, i, 1)?.contiguous()?;
        let image = diffusion.decode(&latents)?;
        Ok(match watch.judge(i, steps - 1, &image)? {
            Some((step, what)) => Err(Error::NonFinite { step, what }),
            None => Ok(Sample { image, latents }),
        })
    });
    samples.collect()
}

/// The network's prediction at one noise level, and what guidance makes of it.
#[derive(Debug)]
pub struct Predicted {
    /// For the prompt.
    pub noise_pred: Tensor,
    /// With text guidance: for the empty prompt.
    pub null_pred: Option<Tensor>,
    pub attention: Option<MidAttention>,
    pub sag: Option<SelfAttentionGuidance>,
    pub guidance: Option<BrainGuidance>,
}

impl Predicted {
    /// ε with all guidances.
    fn guided(&self, parameters: &Parameters, level: NoiseLevel) -> candle_core::Result<Tensor> {
        let plain = self.null_pred.as_ref().unwrap_or(&self.noise_pred);
        let mut guided = self.sag.as_ref().map_or(plain, |sag| &sag.noise_pred).clone();
        if let Some(TextGuidance { scale, .. }) = parameters.text_guidance {
            guided = (guided + ((&self.noise_pred - plain)? * scale)?)?;
        }
        if let Some(guidance) = &self.guidance {
            // ε′ = ε − √(1−ᾱ)·∇(γ·activation), section 3.3 of the paper.
            guided = (guided - (&guidance.grad_latents * level.sigma())?)?;
        }
        Ok(guided)
    }
}

/// One forward pass, brain guidance unless every γ is 0, self-attention guidance unless its scale is 0; with text guidance a
/// forward pass for the empty prompt, whose attention serves self-attention guidance. `latents`: [batch, 4, h, w].
///
/// # Errors
/// The shapes do not fit together.
pub fn predict(
    diffusion: &Diffusion,
    backbone: &VisionTransformer,
    parameters: &Parameters,
    batch: &Batch,
    latents: &Tensor,
    level: NoiseLevel,
) -> candle_core::Result<Predicted> {
    let Parameters { sag_scale, ref text_guidance, gradient, memory, .. } = *parameters;
    let (prompt_embeds, guided) = (&batch.prompt_embeds, batch.is_guided);
    let constant = Tracked::from(latents);
    let input = if guided { Tracked::input(latents.clone()) } else { constant.clone() };
    let unet_input = if gradient == Gradient::Full { &input } else { &constant };
    let wants_attention = sag_scale != 0.0;
    let takes_attention = wants_attention && text_guidance.is_none();
    let (prediction, attention) =
        diffusion.predict_noise(unet_input, level, prompt_embeds, memory.unet, takes_attention)?;
    let noise_pred = prediction.value().clone();
    let guidance = guided.then(|| brain_guidance(diffusion, backbone, batch, &input, prediction, level, memory));
    let guidance = guidance.transpose()?;
    // The branch that self-attention guidance degrades.
    let (plain, attention, plain_embeds) = match text_guidance {
        None => (noise_pred.clone(), attention, prompt_embeds),
        Some(TextGuidance { null_embeds, .. }) => {
            let (prediction, attention) =
                diffusion.predict_noise(&constant, level, null_embeds, memory.unet, wants_attention)?;
            (prediction.into_value(), attention, null_embeds)
        }
    };
    let sag = attention.as_ref().map(|attention| {
        self_attention_guidance(diffusion, latents, &plain, attention, plain_embeds, level, sag_scale)
    });
    let null_pred = text_guidance.is_some().then_some(plain);
    Ok(Predicted { sag: sag.transpose()?, noise_pred, null_pred, attention, guidance })
}
