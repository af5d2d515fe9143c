//! What decides a sample, besides the models.

use super::schedule::FinalSigma;
use super::{Diffusion, Memory};
use crate::encoder::Target;
use crate::error::{Error, Result};
use candle_core::Tensor;

/// The smallest side of latents that self-attention guidance can blur.
const SAG_MIN_SIDE: usize = 5;

/// What all images of a batch share.
#[derive(Debug, Clone)]
pub struct Parameters {
    pub steps: usize,
    /// Self-attention guidance scale; 0 turns it off.
    pub sag_scale: f64,
    pub final_sigma: FinalSigma,
    /// Changes no result.
    pub memory: Memory,
}

/// One image of a batch. Images do not influence each other.
#[derive(Debug, Clone)]
pub struct Item {
    pub target: Target,
    /// Guidance scale γ; 0 samples without guidance.
    pub gamma: f64,
    /// The text encoder's last hidden state for the prompt: [1, tokens, width].
    pub prompt_embeds: Tensor,
    /// Standard normal noise, [1, 4, h, w], see [`Diffusion::latent_shape`]; of one shape in a batch.
    pub initial_latents: Tensor,
}

impl Parameters {
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
