//! What decides a sample, besides the models.

use super::schedule::FinalSigma;
use super::solver::Method;
use super::{Diffusion, Memory};
use crate::encoder::Target;
use crate::error::{Error, Result};
use candle_core::Tensor;
use std::ops::Range;

/// The smallest side of latents that self-attention guidance can blur.
const SAG_MIN_SIDE: usize = 5;

/// What all images of a batch share.
#[derive(Debug, Clone)]
pub struct Parameters {
    /// Of the whole schedule, from pure noise.
    pub steps: usize,
    /// The first step that is taken: 0 from pure noise, later from the latents of an image (see [`super::start`]).
    pub first_step: usize,
    pub solver: Method,
    pub final_sigma: FinalSigma,
    /// Self-attention guidance scale; 0 turns it off.
    pub sag_scale: f64,
    pub text_guidance: Option<TextGuidance>,
    /// Brain guidance acts in step i of n if i/n lies in here (Kynkäänniemi et al. 2024, for text guidance).
    pub guidance_interval: Range<f64>,
    pub gradient: Gradient,
    /// Changes no result.
    pub memory: Memory,
}

impl Default for Parameters {
    /// The recipe of Luo et al. 2023, to σ = 0.
    fn default() -> Self {
        Self {
            steps: 50,
            first_step: 0,
            solver: Method::default(),
            final_sigma: FinalSigma::Zero,
            sag_scale: 0.75,
            text_guidance: None,
            guidance_interval: 0.0..1.0,
            gradient: Gradient::default(),
            memory: Memory::default(),
        }
    }
}

/// Classifier-free guidance (Ho and Salimans 2022) towards the prompt: ε_∅ + s (ε_prompt − ε_∅).
///
/// As in diffusers' pipeline of self-attention guidance, the latter's part is that of the empty prompt:
/// ε = ε_∅ + s (ε_prompt − ε_∅) + w (ε_∅ − ε_∅(degraded)). Brain guidance takes x̂₀ and its gradient from ε_prompt, the
/// prompt's plain prediction.
#[derive(Debug, Clone)]
pub struct TextGuidance {
    /// s
    pub scale: f64,
    /// The text encoder's last hidden state for the empty prompt: [1, tokens, width].
    pub null_embeds: Tensor,
}

/// What the gradient of brain guidance flows through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Gradient {
    /// Encoder, decoder and UNet.
    #[default]
    Full,
    /// Encoder and decoder; ε counts as a constant (He et al. 2024, "Manifold preserving guided diffusion", take the gradient
    /// with respect to x̂₀, too). With x̂₀ = (x − √(1−ᾱ) ε)/√ᾱ and x′ = √(1−ᾱ)·x̂₀ + (1−√(1−ᾱ))·x it is
    /// ∇ₓ = (√(1−ᾱ)/√ᾱ + 1 − √(1−ᾱ))·∇ₓ′ (γ·activation). The UNet needs no backward pass.
    PredX0,
}

/// One image of a batch. Images do not influence each other.
#[derive(Debug, Clone)]
pub struct Item {
    pub target: Target,
    /// Guidance scale γ; 0 samples without guidance.
    pub gamma: f64,
    /// The text encoder's last hidden state for the prompt: [1, tokens, width].
    pub prompt_embeds: Tensor,
    /// Latents at the noise level of the first step, standard normal noise for step 0: [1, 4, h, w], see
    /// [`Diffusion::latent_shape`]; of one shape in a batch.
    pub initial_latents: Tensor,
}

impl Parameters {
    /// Whether brain guidance acts in step `index`.
    pub fn is_guided(&self, index: usize) -> bool {
        self.guidance_interval.contains(&(index as f64 / self.steps as f64))
    }

    /// Whether the models can sample the batch.
    ///
    /// # Errors
    /// The first thing that does not fit.
    pub(super) fn check(&self, items: &[Item], diffusion: &Diffusion) -> Result<()> {
        let refuse = |what, found: String, expected: String| Err(Error::Parameter { what, found, expected });
        let Some(first) = items.first() else {
            return refuse("the batch", "empty".to_owned(), "at least one image".to_owned());
        };
        if !self.sag_scale.is_finite() {
            return refuse(
                "the self-attention guidance scale",
                self.sag_scale.to_string(),
                "a finite number".to_owned(),
            );
        }
        if self.first_step >= self.steps {
            let expected = format!("less than the number of steps, {}", self.steps);
            return refuse("the first step", self.first_step.to_string(), expected);
        }
        let Range { start, end } = self.guidance_interval;
        if !(0.0 <= start && start < end && end <= 1.0) {
            let expected = "from and to with 0 <= from < to <= 1".to_owned();
            return refuse("the guidance interval", format!("{start} to {end}"), expected);
        }
        let (channels, multiple) = (diffusion.unet.config.in_channels, diffusion.unet.config.size_multiple());
        let latents = first.initial_latents.dims();
        match *latents {
            [1, c, h, w]
                if c == channels && h.min(w) > 0 && h.is_multiple_of(multiple) && w.is_multiple_of(multiple) =>
            {
                if self.sag_scale != 0.0 && h.min(w) < SAG_MIN_SIDE {
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
        if let Some(TextGuidance { scale, null_embeds }) = &self.text_guidance {
            if !scale.is_finite() {
                return refuse("the text guidance scale", scale.to_string(), "a finite number".to_owned());
            }
            let (found, expected) = (null_embeds.dims(), first.prompt_embeds.dims());
            if found != expected {
                let expected = format!("{expected:?}, as of the prompt");
                return refuse("the shape of the empty prompt's embedding", format!("{found:?}"), expected);
            }
        }
        for item in items {
            let (found, prompt) = (item.initial_latents.dims(), item.prompt_embeds.dims());
            if found != latents {
                let expected = format!("{latents:?}, as of the first image of the batch");
                return refuse("the shape of the initial latents", format!("{found:?}"), expected);
            }
            if !matches!(*prompt, [1, tokens, w] if w == width && tokens == first.prompt_embeds.dim(1)?) {
                let expected = format!("[1, tokens, {width}]");
                return refuse("the shape of the prompt's embedding", format!("{prompt:?}"), expected);
            }
            if !item.gamma.is_finite() {
                return refuse("gamma", item.gamma.to_string(), "a finite number".to_owned());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_guided_if_its_share_of_the_schedule_lies_in_the_interval() {
        let guided = |steps, guidance_interval| -> Vec<usize> {
            let parameters = Parameters { steps, guidance_interval, ..Parameters::default() };
            (0..steps).filter(|&step| parameters.is_guided(step)).collect()
        };
        assert_eq!(guided(10, 0.3..0.7), [3, 4, 5, 6]);
        assert_eq!(guided(5, 0.0..0.5), [0, 1, 2]);
        assert_eq!(guided(4, 0.0..1.0), [0, 1, 2, 3]);
    }
}
