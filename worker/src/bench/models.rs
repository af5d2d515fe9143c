//! The networks that are measured: Stable Diffusion 2.1-base and ViT-B/16 at their real sizes with random weights, or folders.

use anyhow::Context;
use braindive::models::VitConfig;
use braindive::models::open_clip::OpenClipConfig;
use braindive::models::unet::{UNet, UNetConfig};
use braindive::models::vae::{VaeConfig, VaeDecoder};
use braindive::models::vit::VisionTransformer;
use braindive::sampler::Diffusion;
use braindive::sampler::schedule::NoiseSchedule;
use braindive::weights::Weights;
use braindive::{DType, Device};
use std::path::Path;

/// All that a guided step computes with.
#[derive(Debug)]
pub struct Networks {
    pub diffusion: Diffusion,
    pub backbone: VisionTransformer,
}

/// Seeds of the random weights.
const SEEDS: [u64; 3] = [1, 2, 3];

impl Networks {
    /// Stable Diffusion 2.1-base and OpenCLIP's ViT-B/16, with random weights: time and memory do not depend on them.
    pub fn sd21_base(dtype: DType, device: &Device) -> anyhow::Result<Self> {
        let unet: UNetConfig = serde_json::from_str(include_str!("sd21_base/unet.json"))?;
        let vae: VaeConfig = serde_json::from_str(include_str!("sd21_base/vae.json"))?;
        let vit: OpenClipConfig = serde_json::from_str(include_str!("sd21_base/vit_b_16.json"))?;
        let weights = |i: usize, dtype| Weights::random(SEEDS[i], dtype, device);
        Ok(Self {
            diffusion: Diffusion {
                unet: UNet::from_weights(unet, &weights(0, dtype))?,
                vae: VaeDecoder::from_weights(vae, &weights(1, dtype))?,
                schedule: NoiseSchedule::scaled_linear(0.00085, 0.012, 1000),
                dtype,
                device: device.clone(),
            },
            backbone: VisionTransformer::from_weights(VitConfig::open_clip(&vit), &weights(2, BACKBONE))?,
        })
    }

    /// The networks in two folders: Stable Diffusion in the layout of diffusers, and the image tower.
    pub fn load(diffusion: &Path, backbone: &Path, dtype: DType, device: &Device) -> anyhow::Result<Self> {
        Ok(Self {
            diffusion: Diffusion::load(diffusion, dtype, device)
                .with_context(|| format!("cannot load {}", diffusion.display()))?,
            backbone: VisionTransformer::load(backbone, BACKBONE, device)
                .with_context(|| format!("cannot load {}", backbone.display()))?,
        })
    }
}

/// The encoder computes in full precision, as the authors' does.
const BACKBONE: DType = DType::F32;
