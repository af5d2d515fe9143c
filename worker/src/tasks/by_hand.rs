//! `worker sample`: one request file to files in a folder.

use super::deviations::deviations;
use super::facts::Facts;
use super::models::{Loaded, PromptEmbeds, ShelfError, dtype, load_probe, sha256};
use super::request::Request;
use super::sample::{Order, Painted, product, timed};
use super::start::{image_latents, noise};
use anyhow::Context;
use braindive::encoder::Encoder;
use braindive::sampler::Diffusion;
use braindive::sampler::trace::{self, Trace};
use braindive::weights::Weights;
use braindive::{DType, Device, Error, Tensor};
use checkpoint::{Backbone, Checkpoint, Head, Names};
use protocol::ids::{Digest, Seed};
use protocol::job::Sampling;
use protocol::outcome::PhaseSeconds;
use protocol::version::SOFTWARE;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

/// Writes image.png, result.json and, if asked for, trace.safetensors to `out`.
pub fn run(request: &Request, device: &Device, device_name: &str, out: &Path, with_trace: bool) -> anyhow::Result<()> {
    std::fs::create_dir_all(out).with_context(|| format!("cannot make the folder {}", out.display()))?;
    let mut seconds = PhaseSeconds::default();
    let models = timed(&mut seconds.loading, || load(request, device))?;
    let (sampling, order) = order(request, &models)?;
    let mut recording = with_trace.then(Trace::new);
    let painted = order.paint(&models, &mut seconds, |step| {
        if let Some(recording) = &mut recording {
            recording.record(step, &models.encoder)?;
        }
        Ok(ControlFlow::Continue(()))
    })?;

    let mut deviations = deviations(&sampling, &order.objective, models.diffusion.dtype);
    if let Some(latents) = &request.initial_latents {
        deviations.push(format!("starting noise from {}", latents.file.display()));
    }
    let facts = Facts {
        subject: None,
        region: None,
        seed: request.seed,
        sampling,
        effective_gamma: order.objective.effective_gamma(request.gamma),
        scores: painted.scores.clone(),
        models: digests(request)?,
        software: SOFTWARE,
    };
    let product = product(facts, &painted.image, device_name, deviations, seconds)?;
    let write = |name: &str, bytes: &[u8]| {
        let path = out.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
    };
    write("image.png", &product.png.unwrap_or_default())?;
    write("result.json", &serde_json::to_vec_pretty(&product.result)?)?;
    if let Some(recording) = recording {
        let tensors = finish(recording, request, &models, &order, &painted)?;
        trace::write(&tensors, out.join("trace.safetensors"))?;
    }
    Ok(())
}

fn load(request: &Request, device: &Device) -> braindive::Result<Loaded> {
    let folder = &request.models.diffusion;
    let image = request.init_image.as_ref().map(|path| image_latents(path, folder, device));
    Ok(Loaded {
        diffusion: Arc::new(Diffusion::load(folder, dtype(request.precision), device)?),
        prompt: PromptEmbeds::load(folder, &request.prompt, device)?,
        image_latents: image.transpose()?,
        encoder: Arc::new(Encoder::load(&request.models.backbone, &request.models.head, DType::F32, device)?),
        probe: Arc::new(load_probe(&request.models.probe, folder, &request.probes, device)?),
    })
}

/// What the request means: as a job says it, and as the sampler takes it.
fn order<'a>(request: &'a Request, models: &Loaded) -> Result<(Sampling, Order<'a>), ShelfError> {
    let image = request.init_image.as_deref().map(sha256).transpose()?;
    let (sampling, noise) = match (&request.initial_latents, request.seed) {
        (Some(latents), _) => {
            let weights = Weights::open(&latents.file, DType::F32, &models.diffusion.device)?;
            let noise = weights.read(&latents.tensor)?;
            let (_, _, height, width) = noise.dims4().map_err(Error::from)?;
            let size = [width, height].map(|side| (side * models.diffusion.vae.config.pixels_per_latent()) as u32);
            (request.sampling(size, image), noise)
        }
        (None, seed) => {
            let sampling = request.sampling(request.size.unwrap_or_default(), image);
            let noise = noise(&sampling, seed.unwrap_or(Seed(0)), models)?;
            (sampling, noise)
        }
    };
    let objective = request.objective.resolve(&models.encoder)?;
    let order = Order::new(&sampling, objective, noise, &request.probes, models)?;
    Ok((sampling, order))
}

/// The sampler's recording with what the saved image and the probe add to it.
fn finish(
    mut recording: Trace,
    request: &Request,
    models: &Loaded,
    order: &Order<'_>,
    painted: &Painted,
) -> braindive::Result<std::collections::HashMap<String, Tensor>> {
    let (image, said) = (&painted.image, &painted.scores.probe);
    let pixels = Tensor::from_slice(image.pixels(), (image.height(), image.width(), 3), &Device::Cpu)?;
    recording.insert_saved_image(&pixels, &models.encoder)?;
    let single = |values: &[f64]| Tensor::new(values, &Device::Cpu)?.to_dtype(DType::F32);
    recording.insert("coca.text_features", models.probe.text_features().clone());
    recording.insert("coca.similarity", single(&said.similarity)?);
    recording.insert("coca.class_similarity", single(&said.class_similarity)?);
    let class = request.probes.iter().position(|class| class.name == said.class);
    recording.insert("coca.class", Tensor::new(&[class.map_or(-1, |class| class as i64)], &Device::Cpu)?);
    recording.finish(&models.diffusion, &models.encoder, &order.parameters, &order.item(models)?, &painted.sample)
}

/// sha256 of the weights that the request names, by role; of shards, that of the lines `sha256  name` of index and shards.
fn digests(request: &Request) -> anyhow::Result<BTreeMap<&'static str, Digest>> {
    let models = &request.models;
    let weights = [
        ("unet", Names::DIFFUSERS.open(&models.diffusion.join("unet"))?),
        ("vae", Names::DIFFUSERS.open(&models.diffusion.join("vae"))?),
        ("backbone", Backbone::find(&models.backbone)?.layout.names().open(&models.backbone)?),
        ("encoder", Head::open(&models.head)?.checkpoint),
        ("probe", Names::OPEN_CLIP.open(&models.probe)?),
    ];
    let digest = |checkpoint: &Checkpoint| -> anyhow::Result<Digest> {
        let files: Vec<&Path> = checkpoint.files().collect();
        if let [whole] = files[..] {
            return Ok(sha256(whole)?);
        }
        let mut lines = Sha256::new();
        for path in files {
            lines.update(format!("{}  {}\n", sha256(path)?, path.file_name().unwrap_or_default().display()));
        }
        Ok(Digest::from_bytes(&lines.finalize().into()))
    };
    weights.iter().map(|(role, checkpoint)| Ok((*role, digest(checkpoint)?))).collect()
}
