//! `worker sample`: one request file to files in a folder.

use super::facts::Facts;
use super::models::{Loaded, load_probe, sha256};
use super::request::Request;
use super::sample::{Order, Painted, final_sigma, product, timed};
use anyhow::Context;
use braindive::encoder::{Encoder, Objective, Term};
use braindive::models::text::TextEncoder;
use braindive::sampler::noise::{NoiseLayout, starting_latents};
use braindive::sampler::trace::{self, Trace};
use braindive::sampler::{Diffusion, Parameters};
use braindive::weights::Weights;
use braindive::{DType, Device, Tensor};
use protocol::ids::Digest;
use protocol::job;
use protocol::outcome::PhaseSeconds;
use protocol::version::SOFTWARE;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

/// Writes image.png, result.json and, if asked for, trace.safetensors to `out`.
pub fn run(request: &Request, device: &Device, device_name: &str, out: &Path, with_trace: bool) -> anyhow::Result<()> {
    std::fs::create_dir_all(out).with_context(|| format!("cannot make the folder {}", out.display()))?;
    let mut seconds = PhaseSeconds::default();
    let models = timed(&mut seconds.loading, || load(request, device))?;
    let order = order(request, &models)?;
    let mut recording = with_trace.then(Trace::new);
    let painted = order.paint(&models, &mut seconds, |step| {
        if let Some(recording) = &mut recording {
            recording.record(step, &models.encoder)?;
        }
        Ok(ControlFlow::Continue(()))
    })?;

    let facts = Facts {
        subject: None,
        region: None,
        seed: request.seed,
        sampling: &job::Sampling {
            steps: request.steps,
            gamma: request.gamma,
            sag_scale: request.sag_scale,
            size: [painted.image.width() as u32, painted.image.height() as u32],
            prompt: request.prompt.clone(),
            final_sigma: request.final_sigma,
            ..job::Sampling::default()
        },
        effective_gamma: order.objective.effective_gamma(request.gamma),
        scores: &painted.scores,
        models: digests(request)?,
        software: SOFTWARE,
    };
    let product = product(&facts, &painted.image, device_name, seconds)?;
    let write = |name: &str, bytes: &[u8]| {
        let path = out.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
    };
    write("image.png", &product.png)?;
    write("result.json", &serde_json::to_vec_pretty(&product.result)?)?;
    if let Some(recording) = recording {
        let tensors = finish(recording, request, &models, &order, &painted)?;
        trace::write(&tensors, out.join("trace.safetensors"))?;
    }
    Ok(())
}

fn load(request: &Request, device: &Device) -> braindive::Result<Loaded> {
    let folder = &request.models.diffusion;
    Ok(Loaded {
        diffusion: Arc::new(Diffusion::load(folder, DType::F32, device)?),
        prompt_embeds: TextEncoder::load(folder, DType::F32, device)?.prompt_embeds(&request.prompt)?,
        encoder: Arc::new(Encoder::load(&request.models.backbone, &request.models.head, DType::F32, device)?),
        probe: Arc::new(load_probe(&request.models.probe, folder, &request.probes, device)?),
    })
}

fn order<'a>(request: &'a Request, models: &Loaded) -> braindive::Result<Order<'a>> {
    let device = &models.diffusion.device;
    let initial_latents = match (&request.initial_latents, request.seed) {
        (Some(latents), _) => Weights::open(&latents.file, DType::F32, device)?.read(&latents.tensor)?,
        (None, seed) => {
            let [width, height] = request.size.unwrap_or_default().map(|side| side as usize);
            let [_, _, rows, columns] = models.diffusion.latent_shape(width, height)?;
            starting_latents(NoiseLayout::TorchCuda, seed.map_or(0, |seed| seed.0), rows, columns, device)?
        }
    };
    let voxels: Vec<usize> = request.objective.voxels.iter().map(|&row| row as usize).collect();
    let denominator = request.objective.denominator.map_or(voxels.len(), |n| n as usize);
    let term = Term { region: "of the request".to_owned(), weight: 1.0, voxels, denominator };
    Ok(Order {
        objective: Objective { terms: vec![term] },
        gamma: request.gamma,
        initial_latents,
        parameters: Parameters {
            steps: request.steps as usize,
            sag_scale: request.sag_scale,
            final_sigma: final_sigma(request.final_sigma),
            ..Parameters::default()
        },
        classes: &request.probes,
    })
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

/// sha256 of the weights that the request names, by role.
fn digests(request: &Request) -> anyhow::Result<BTreeMap<&'static str, Digest>> {
    let models = &request.models;
    let head = if models.head.is_dir() { models.head.join("head.safetensors") } else { models.head.clone() };
    let files = [
        ("unet", models.diffusion.join("unet/diffusion_pytorch_model.safetensors")),
        ("vae", models.diffusion.join("vae/diffusion_pytorch_model.safetensors")),
        ("backbone", models.backbone.join("open_clip_model.safetensors")),
        ("encoder", head),
        ("probe", models.probe.join("open_clip_model.safetensors")),
    ];
    files.into_iter().map(|(role, path)| Ok((role, sha256(&path)?))).collect()
}
