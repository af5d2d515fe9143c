//! Where sampling starts: at the seed's noise, or at an image that is noised with it.

use super::models::Loaded;
use braindive::image::to_tensor;
use braindive::models::vae_encoder::VaeEncoder;
use braindive::sampler::noise::{self, starting_latents};
use braindive::sampler::start::{first_step, noised};
use braindive::{DType, Device, Error, Tensor};
use protocol::ids::Seed;
use protocol::job::{NoiseLayout, Sampling};
use std::path::Path;
use subject::image::png;

/// The latents of the PNG file at `path`: [1, 4, h, w]. The encoder is loaded for the image and dropped again.
pub fn image_latents(path: &Path, diffusion: &Path, device: &Device) -> Result<Tensor, Error> {
    let image = to_tensor(&png::read(path)?.0, device)?;
    Ok(VaeEncoder::load(diffusion.join("vae"), DType::F32, device)?.encode(&image)?)
}

/// The seed's noise for images of the size that is asked for: [1, 4, h, w].
pub fn noise(asked: &Sampling, seed: Seed, models: &Loaded) -> Result<Tensor, Error> {
    let [width, height] = asked.size.map(|side| side as usize);
    let [_, _, rows, columns] = models.diffusion.latent_shape(width, height)?;
    let layout = match asked.noise {
        NoiseLayout::TorchCuda => noise::NoiseLayout::TorchCuda,
        NoiseLayout::TorchCpu => noise::NoiseLayout::TorchCpu,
    };
    Ok(starting_latents(layout, seed.0, rows, columns, &models.diffusion.device)?)
}

/// The first step that is taken, and the latents there.
pub fn start(asked: &Sampling, noise: Tensor, models: &Loaded) -> Result<(usize, Tensor), Error> {
    let Some(start) = &asked.start else { return Ok((0, noise)) };
    let Some(latents) = &models.image_latents else {
        let (found, expected) = ("not given".to_owned(), "the path of a PNG file".to_owned());
        return Err(Error::Parameter { what: "the image to start from", found, expected });
    };
    if latents.dims() != noise.dims() {
        let [width, height] = asked.size;
        let (found, expected) =
            (format!("{:?}", latents.dims()), format!("{:?}, of {width} x {height} pixels", noise.dims()));
        return Err(Error::Parameter { what: "the shape of the latents of the image to start from", found, expected });
    }
    let steps = asked.steps as usize;
    let first = first_step(steps, start.strength)?;
    Ok((first, noised(&models.diffusion.schedule, steps, first, latents, &noise)?))
}
