//! Guided sampling (Luo et al. 2023, section 3.3): schedule, solver, self-attention guidance, brain guidance, noise.

pub mod ddim;
pub mod dpm_solver;
pub mod euler;
pub mod guidance;
pub mod noise;
pub mod sag;
pub mod schedule;
pub mod solver;
pub mod trace;

use crate::encoder::{Encoder, Target};
use crate::error::{Error, Result};
use crate::models::unet::{MidAttention, UNet};
use crate::models::vae::VaeDecoder;
use candle_core::{DType, Device, Tensor, Var};
use guidance::{BrainGuidance, brain_guidance, unit_range};
use sag::{SelfAttentionGuidance, self_attention_guidance};
use schedule::{FinalSigma, NoiseLevel, NoiseSchedule};
use solver::Method;
use std::ops::ControlFlow;
use std::path::Path;

/// The smallest side of latents that self-attention guidance can blur.
const SAG_MIN_SIDE: usize = 5;

/// The networks and the schedule of a Stable Diffusion model, without its text encoder.
#[derive(Debug)]
pub struct Diffusion {
    pub unet: UNet,
    pub vae: VaeDecoder,
    pub schedule: NoiseSchedule,
    pub dtype: DType,
    pub device: Device,
}

impl Diffusion {
    /// Reads `unet/`, `vae/` and `scheduler/` in `folder`, in the layout of diffusers. `dtype`: F32, or F64 to check with.
    ///
    /// # Errors
    /// A file or tensor is missing or not what its configuration says.
    pub fn load(folder: impl AsRef<Path>, dtype: DType, device: &Device) -> Result<Self> {
        let folder = folder.as_ref();
        Ok(Self {
            unet: UNet::load(folder.join("unet"), dtype, device)?,
            vae: VaeDecoder::load(folder.join("vae"), dtype, device)?,
            schedule: NoiseSchedule::read(folder.join("scheduler").join("scheduler_config.json"))?,
            dtype,
            device: device.clone(),
        })
    }

    /// The latents' shape [1, channels, height, width] for an image of `width` × `height` pixels.
    ///
    /// # Errors
    /// The networks cannot make images of this size.
    pub fn latent_shape(&self, width: usize, height: usize) -> Result<[usize; 4]> {
        let scale = self.vae.config.pixels_per_latent();
        let multiple = scale * self.unet.config.size_multiple();
        if [width, height].iter().any(|&side| side == 0 || !side.is_multiple_of(multiple)) {
            let (found, expected) = (format!("{width}x{height}"), format!("multiples of {multiple} pixels"));
            return Err(Error::Parameter { what: "the image size", found, expected });
        }
        Ok([1, self.unet.config.in_channels, height / scale, width / scale])
    }

    /// The image of `latents` [1, 4, h, w]: [1, 3, H, W] in 0..1.
    ///
    /// # Errors
    /// The shape does not fit.
    pub fn decode(&self, latents: &Tensor) -> candle_core::Result<Tensor> {
        unit_range(&self.vae.decode(latents)?)
    }
}

/// What decides a sample, besides the models and the objective.
#[derive(Debug, Clone)]
pub struct Parameters {
    pub steps: usize,
    /// Guidance scale γ; 0 samples without guidance.
    pub gamma: f64,
    /// Self-attention guidance scale; 0 turns it off.
    pub sag_scale: f64,
    pub final_sigma: FinalSigma,
    /// The text encoder's last hidden state for the prompt: [1, tokens, width].
    pub prompt_embeds: Tensor,
    /// Standard normal noise, [1, 4, h, w], see [`Diffusion::latent_shape`].
    pub initial_latents: Tensor,
}

/// A finished sample.
#[derive(Debug, Clone)]
pub struct Sample {
    /// [1, 3, H, W] in 0..1
    pub image: Tensor,
    /// [1, 4, h, w]
    pub latents: Tensor,
}

/// One step, as an observer sees it. All latents are [1, 4, h, w].
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

/// Samples an image whose predicted activation is high.
///
/// One forward pass of the UNet serves both guidances: self-attention guidance takes its attention, brain guidance its
/// gradient. `observer` sees every step and may stop the run.
///
/// # Errors
/// A parameter does not fit the models, latents or activation are not finite, the observer stopped the run or failed.
pub fn sample(
    diffusion: &Diffusion,
    encoder: &Encoder,
    target: &Target,
    parameters: &Parameters,
    mut observer: impl FnMut(&Step<'_>) -> Result<ControlFlow<()>>,
) -> Result<Sample> {
    check(diffusion, parameters)?;
    let Parameters { steps, final_sigma, .. } = *parameters;
    let timesteps = diffusion.schedule.timesteps(steps)?;
    let alpha_bars = diffusion.schedule.alpha_bars(steps, final_sigma)?;
    let mut solver = Method::default().solver(&alpha_bars, final_sigma, 0);
    let mut latents = parameters.initial_latents.to_dtype(diffusion.dtype)?;
    for (index, &timestep) in timesteps.iter().enumerate() {
        let level = NoiseLevel { timestep, alpha_bar: diffusion.schedule.alpha_bar(timestep) };
        let Predicted { noise_pred, attention, sag, guidance } =
            predict(diffusion, encoder, target, parameters, &latents, level)?;
        let mut noise_pred_final = sag.as_ref().map_or(&noise_pred, |sag| &sag.noise_pred).clone();
        if let Some(guidance) = &guidance {
            // ε′ = ε − √(1−ᾱ)·∇(γ·activation), section 3.3 of the paper.
            noise_pred_final = (noise_pred_final - (&guidance.grad_latents * level.sigma())?)?;
        }
        let solved = solver.step(index, &noise_pred_final, &latents)?;
        require_finite(&solved.latents, index, "latents")?;
        if guidance.as_ref().is_some_and(|guidance| !guidance.activation.is_finite()) {
            return Err(Error::NonFinite { step: index, what: "the predicted activation" });
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
    let image = diffusion.decode(&latents)?;
    require_finite(&image, steps - 1, "the decoded image")?;
    Ok(Sample { image, latents })
}

/// The network's prediction at one noise level, and what guidance makes of it.
#[derive(Debug)]
pub struct Predicted {
    pub noise_pred: Tensor,
    pub attention: Option<MidAttention>,
    pub sag: Option<SelfAttentionGuidance>,
    pub guidance: Option<BrainGuidance>,
}

/// One forward pass, brain guidance unless γ is 0, self-attention guidance unless its scale is 0.
///
/// # Errors
/// The shapes do not fit together.
pub fn predict(
    diffusion: &Diffusion,
    encoder: &Encoder,
    target: &Target,
    parameters: &Parameters,
    latents: &Tensor,
    level: NoiseLevel,
) -> candle_core::Result<Predicted> {
    let Parameters { gamma, sag_scale, .. } = *parameters;
    let prompt_embeds = &parameters.prompt_embeds.to_dtype(diffusion.dtype)?;
    let forward = |latents: &Tensor| {
        if sag_scale == 0.0 {
            return Ok((diffusion.unet.forward(latents, level.timestep, prompt_embeds)?, None));
        }
        let (noise, attention) = diffusion.unet.forward_with_attention(latents, level.timestep, prompt_embeds)?;
        Ok::<_, candle_core::Error>((noise, Some(attention)))
    };
    let (noise_pred, attention, guidance) = if gamma == 0.0 {
        let (noise_pred, attention) = forward(latents)?;
        (noise_pred, attention, None)
    } else {
        let latents = Var::from_tensor(latents)?;
        let (noise_pred, attention) = forward(&latents)?;
        let guidance = brain_guidance(diffusion, encoder, target, &latents, &noise_pred, level, gamma)?;
        (noise_pred.detach(), attention, Some(guidance))
    };
    let sag = attention.as_ref().map(|attention| {
        self_attention_guidance(diffusion, latents, &noise_pred, attention, prompt_embeds, level, sag_scale)
    });
    Ok(Predicted { noise_pred, sag: sag.transpose()?, attention, guidance })
}

fn check(diffusion: &Diffusion, parameters: &Parameters) -> Result<()> {
    let refuse = |what, found: String, expected: String| Err(Error::Parameter { what, found, expected });
    let (latents, prompt) = (parameters.initial_latents.dims(), parameters.prompt_embeds.dims());
    let (channels, multiple) = (diffusion.unet.config.in_channels, diffusion.unet.config.size_multiple());
    match *latents {
        [1, c, h, w] if c == channels && h.min(w) > 0 && h.is_multiple_of(multiple) && w.is_multiple_of(multiple) => {
            if parameters.sag_scale != 0.0 && h.min(w) < SAG_MIN_SIDE {
                let expected = format!("at least {SAG_MIN_SIDE}x{SAG_MIN_SIDE} for self-attention guidance");
                return refuse("the shape of the initial latents", format!("{latents:?}"), expected);
            }
        }
        _ => {
            let expected = format!("[1, {channels}, height, width] with sides that are multiples of {multiple}");
            return refuse("the shape of the initial latents", format!("{latents:?}"), expected);
        }
    }
    let width = diffusion.unet.config.cross_attention_dim;
    if !matches!(*prompt, [1, _, w] if w == width) {
        return refuse("the shape of the prompt's embedding", format!("{prompt:?}"), format!("[1, tokens, {width}]"));
    }
    for (what, value) in [("gamma", parameters.gamma), ("the self-attention guidance scale", parameters.sag_scale)] {
        if !value.is_finite() {
            return refuse(what, value.to_string(), "a finite number".to_owned());
        }
    }
    Ok(())
}

fn require_finite(tensor: &Tensor, step: usize, what: &'static str) -> Result<()> {
    let values = tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
    if values.iter().all(|value| value.is_finite()) { Ok(()) } else { Err(Error::NonFinite { step, what }) }
}
