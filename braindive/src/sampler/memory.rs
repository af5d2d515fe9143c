//! How much memory guidance takes, and what the networks keep for the gradient so that it fits.

use super::Diffusion;
use super::schedule::NoiseLevel;
use crate::error::{Error, Result};
use crate::gradient::{Keep, Tracked};
use crate::models::vit::VisionTransformer;
use candle_core::{DType, Tensor};

/// What the networks keep for the gradient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    pub unet: Keep,
    pub vae: Keep,
}

impl Default for Memory {
    fn default() -> Self {
        Self { unet: Keep::Activations, vae: Keep::Activations }
    }
}

impl Memory {
    /// From the fastest to the smallest. The UNet comes second to last: running it again is a third of the work of the decoder.
    pub const CHOICES: [Self; 3] = [
        Self { unet: Keep::Activations, vae: Keep::Activations },
        Self { unet: Keep::BlockInputs, vae: Keep::Activations },
        Self { unet: Keep::BlockInputs, vae: Keep::BlockInputs },
    ];
}

/// Bytes that guidance keeps, by network. Counted, not estimated: everything that is kept grows in proportion to the pixels, but for
/// the prompt's keys and values, so that two runs on the smallest latents tell it for every size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Footprint {
    /// All weights, of the image tower too.
    pub weights: u64,
    unet: [Kept; 2],
    vae: [Kept; 2],
}

/// Bytes per image.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Kept {
    fixed: f64,
    per_latent_pixel: f64,
    /// The largest tensor.
    largest_per_latent_pixel: f64,
}

/// Tensors as large as the largest one that is kept, which a layer and its gradient work on beside what is kept: input, output and
/// their gradients.
const WORKING_TENSORS: f64 = 4.0;
/// The same where a block is run again: also what the block keeps.
const WORKING_TENSORS_OF_BLOCK: f64 = 8.0;

fn index(keep: Keep) -> usize {
    usize::from(keep == Keep::BlockInputs)
}

impl Kept {
    /// `run` gives what a forward pass on latents of a width keeps, all and the largest tensor; `height`: of those latents.
    fn count(multiple: usize, run: impl Fn(usize, usize) -> candle_core::Result<(usize, usize)>) -> Result<Self> {
        let ((small, _), (large, largest)) = (run(multiple, multiple)?, run(multiple, 2 * multiple)?);
        let pixels = (multiple * multiple) as f64;
        let per_latent_pixel = (large as f64 - small as f64) / pixels;
        Ok(Self {
            fixed: small as f64 - per_latent_pixel * pixels,
            per_latent_pixel,
            largest_per_latent_pixel: largest as f64 / (2.0 * pixels),
        })
    }

    fn bytes(self, latent_pixels: f64) -> f64 {
        self.fixed + self.per_latent_pixel * latent_pixels
    }
}

impl Footprint {
    /// Counts what the networks keep, on latents of the smallest size.
    ///
    /// # Errors
    /// A network cannot run.
    pub fn count(diffusion: &Diffusion, backbone: &VisionTransformer) -> Result<Self> {
        let level = NoiseLevel { timestep: 1, alpha_bar: diffusion.schedule.alpha_bar(1) };
        let channels = diffusion.unet.config.in_channels;
        let width = diffusion.unet.config.cross_attention_dim;
        let latents = |height, width| {
            let zeros = Tensor::zeros((1, channels, height, width), diffusion.state_dtype(), &diffusion.device)?;
            Ok::<_, candle_core::Error>(Tracked::input(zeros))
        };
        let prompt = Tensor::zeros((1, PROMPT_TOKENS, width), DType::F32, &diffusion.device)?;
        let unet = |keep| {
            Kept::count(diffusion.unet.config.size_multiple(), |height, width| {
                let (noise, _) = diffusion.predict_noise(&latents(height, width)?, level, &prompt, keep, false)?;
                Ok((noise.kept_bytes(), noise.largest_kept_bytes()))
            })
        };
        let vae = |keep| {
            Kept::count(1, |height, width| {
                let decoded = diffusion.decode_raw(&latents(height, width)?, keep)?;
                Ok((decoded.kept_bytes(), decoded.largest_kept_bytes()))
            })
        };
        Ok(Self {
            weights: diffusion.unet.weight_bytes() + diffusion.vae.weight_bytes() + backbone.weight_bytes(),
            unet: [unet(Keep::Activations)?, unet(Keep::BlockInputs)?],
            vae: [vae(Keep::Activations)?, vae(Keep::BlockInputs)?],
        })
    }

    /// Bytes that the UNet and the decoder keep for `images` of `latent_pixels` latents each.
    pub fn kept(&self, memory: Memory, images: usize, latent_pixels: usize) -> [u64; 2] {
        let bytes = |kept: Kept| (images as f64 * kept.bytes(latent_pixels as f64)) as u64;
        [bytes(self.unet[index(memory.unet)]), bytes(self.vae[index(memory.vae)])]
    }

    /// Bytes at the peak of a guided step: weights, what is kept, and what a layer works on.
    pub fn peak(&self, memory: Memory, images: usize, latent_pixels: usize) -> u64 {
        let [unet, vae] = self.kept(memory, images, latent_pixels);
        let working = |kept: &[Kept; 2], keep: Keep| {
            let tensors = if keep == Keep::BlockInputs { WORKING_TENSORS_OF_BLOCK } else { WORKING_TENSORS };
            let largest = kept[index(Keep::Activations)].largest_per_latent_pixel;
            (tensors * largest * (images * latent_pixels) as f64) as u64
        };
        // The decoder's activations live while the UNet's are kept, and are gone when the gradient enters the UNet.
        self.weights + unet + (vae + working(&self.vae, memory.vae)).max(working(&self.unet, memory.unet))
    }

    /// The fastest choice whose peak stays within `limit` bytes.
    ///
    /// # Errors
    /// None does; the error says what the smallest one takes.
    pub fn fit(&self, limit: u64, images: usize, latent_pixels: usize) -> Result<Memory> {
        let fits = |memory: &Memory| self.peak(*memory, images, latent_pixels) <= limit;
        Memory::CHOICES.into_iter().find(fits).ok_or_else(|| {
            let smallest = Memory::CHOICES.map(|memory| self.peak(memory, images, latent_pixels));
            Error::OutOfMemory { needed: smallest.into_iter().min().unwrap_or_default(), limit, images }
        })
    }
}

/// What text encoders of Stable Diffusion make of a prompt.
const PROMPT_TOKENS: usize = 77;
