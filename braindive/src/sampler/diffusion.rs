//! The networks and the schedule of a Stable Diffusion model, without its text encoder.

use super::guidance::unit_range;
use super::schedule::{NoiseLevel, NoiseSchedule};
use super::{Batch, Item};
use crate::error::{Error, Result};
use crate::gradient::{Keep, Tracked};
use crate::models::unet::{MidAttention, UNet};
use crate::models::vae::VaeDecoder;
use candle_core::{DType, Device, Tensor};
use std::path::Path;

/// A noise predictor, a decoder, and their schedule.
///
/// The networks compute in `dtype`; latents and images between them are in f32, or in f64 if the networks are.
#[derive(Debug)]
pub struct Diffusion {
    pub unet: UNet,
    pub vae: VaeDecoder,
    pub schedule: NoiseSchedule,
    pub dtype: DType,
    pub device: Device,
}

impl Diffusion {
    /// Reads `unet/`, `vae/` and `scheduler/` in `folder`, in the layout of diffusers. `dtype`: F32; F16 as the paper ran; F64 to check
    /// with.
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

    /// The precision of latents and images.
    pub fn state_dtype(&self) -> DType {
        if self.dtype == DType::F64 { DType::F64 } else { DType::F32 }
    }

    /// Images that go through these networks together.
    ///
    /// # Errors
    /// Two targets have different numbers of features, or prompts different shapes.
    pub fn batch(&self, items: &[Item]) -> candle_core::Result<Batch> {
        Batch::new(items, self.state_dtype(), &self.device)
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

    /// The noise in `latents` [batch, 4, h, w], given `prompt_embeds` [batch or 1, tokens, width]; with `attention`, also where the
    /// mid block looks.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn predict_noise(
        &self,
        latents: &Tracked,
        level: NoiseLevel,
        prompt_embeds: &Tensor,
        keep: Keep,
        attention: bool,
    ) -> candle_core::Result<(Tracked, Option<MidAttention>)> {
        let (latents, prompt_embeds) = (latents.to_dtype(self.dtype)?, prompt_embeds.to_dtype(self.dtype)?);
        let (noise_pred, attention) = if attention {
            let (noise, attention) =
                self.unet.forward_with_attention(&latents, level.timestep, &prompt_embeds, keep)?;
            (noise, Some(attention))
        } else {
            (self.unet.forward(&latents, level.timestep, &prompt_embeds, keep)?, None)
        };
        Ok((noise_pred.to_dtype(self.state_dtype())?, attention))
    }

    /// The decoder's output for `latents` [batch, 4, h, w]: [batch, 3, H, W], about −1..1.
    ///
    /// # Errors
    /// The shape does not fit.
    pub fn decode_raw(&self, latents: &Tracked, keep: Keep) -> candle_core::Result<Tracked> {
        self.vae.decode(&latents.to_dtype(self.dtype)?, keep)?.to_dtype(self.state_dtype())
    }

    /// The image of `latents` [batch, 4, h, w]: [batch, 3, H, W] in 0..1.
    ///
    /// # Errors
    /// The shape does not fit.
    pub fn decode(&self, latents: &Tensor) -> candle_core::Result<Tensor> {
        Ok(unit_range(&self.decode_raw(&latents.into(), Keep::Activations)?)?.into_value())
    }
}
