//! One guided sample: starting noise, sampler, 8-bit image, scores, PNG. The same code serves jobs and `worker sample`.

use super::models::{Loaded, Shelf, ShelfError, load_probe, sha256};
use super::request::Request;
use super::{Product, TaskError, class_of};
use crate::agent::Control;
use anyhow::Context;
use braindive::encoder::{Encoder, Objective, Term, Threshold, VolumeMask};
use braindive::image::{RgbImage8, png};
use braindive::models::text::TextEncoder;
use braindive::sampler::noise::starting_latents;
use braindive::sampler::schedule::FinalSigma;
use braindive::sampler::trace::{self, Trace};
use braindive::sampler::{self, Diffusion, Parameters, Step};
use braindive::{DType, Device, Tensor};
use protocol::ids::{Digest, Seed};
use protocol::job::{self, ProbeClass, SampleCondition, VoxelSet};
use protocol::outcome::{FailureClass, PhaseSeconds, ProbeResult, SampleResult};
use protocol::version::SOFTWARE;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Runs one job: `condition` with `seed`, on models from the shelf.
pub fn run(
    shelf: &Shelf,
    device: &str,
    condition: &SampleCondition,
    seed: Seed,
    control: &Control,
) -> Result<Product, TaskError> {
    let mut seconds = PhaseSeconds::default();
    attempt(shelf, device, condition, seed, control, &mut seconds).map_err(|stop| match stop {
        Stop::Asked => TaskError::Stopped,
        Stop::Failed(class, message) => TaskError::Failed { class, message, seconds },
    })
}

/// Why a sample was not finished.
enum Stop {
    Asked,
    Failed(FailureClass, String),
}

impl From<braindive::Error> for Stop {
    fn from(error: braindive::Error) -> Self {
        match error {
            braindive::Error::Stopped { .. } => Self::Asked,
            error => Self::Failed(class_of(&error), error.to_string()),
        }
    }
}

impl From<ShelfError> for Stop {
    fn from(error: ShelfError) -> Self {
        let (class, message) = error.into();
        Self::Failed(class, message)
    }
}

fn attempt(
    shelf: &Shelf,
    device: &str,
    condition: &SampleCondition,
    seed: Seed,
    control: &Control,
    seconds: &mut PhaseSeconds,
) -> Result<Product, Stop> {
    let loading = Instant::now();
    let models = shelf.get(condition)?;
    let objective = resolve(&condition.objective, &condition.region, &models.encoder)?;
    seconds.loading = loading.elapsed().as_secs_f64();

    let sampling = Instant::now();
    let asked = &condition.sampling;
    let [width, height] = asked.size.map(|side| side as usize);
    let [_, _, rows, columns] = models.diffusion.latent_shape(width, height)?;
    let parameters = Parameters {
        steps: asked.steps as usize,
        gamma: asked.gamma,
        sag_scale: asked.sag_scale,
        final_sigma: final_sigma(asked.final_sigma),
        prompt_embeds: models.prompt_embeds.clone(),
        initial_latents: starting_latents(seed.0, rows, columns, &models.diffusion.device)
            .map_err(braindive::Error::from)?,
    };
    let target = objective.target(&models.encoder.head)?;
    let sample = sampler::sample(&models.diffusion, &models.encoder, &target, &parameters, |step: &Step<'_>| {
        control.report(step.index as u32 + 1, step.steps as u32);
        Ok(if control.is_stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    let image = RgbImage8::from_tensor(&sample.image).map_err(braindive::Error::from)?;
    seconds.sampling = sampling.elapsed().as_secs_f64();

    let scoring = Instant::now();
    let scores = Scores::of(&image, &models, &objective, &condition.probes)?;
    let facts = Facts {
        subject: Some(&condition.subject),
        region: Some(&condition.region),
        seed: Some(seed),
        sampling: asked,
        effective_gamma: objective.effective_gamma(asked.gamma),
        scores: &scores,
        models: condition.models.folders().map(|(role, folder)| (role, folder.digest.clone())).into(),
        software: SOFTWARE,
    };
    let png = facts.png(&image)?;
    seconds.scoring = scoring.elapsed().as_secs_f64();

    let result = SampleResult {
        image_sha256: digest(&png),
        activation: scores.activation,
        effective_gamma: facts.effective_gamma,
        deviations: Vec::new(),
        device: device.to_owned(),
        seconds: *seconds,
        software: SOFTWARE.to_owned(),
        roi_activation: scores.roi_activation,
        probe: scores.probe,
    };
    Ok(Product { png, result })
}

/// Runs one request file to files in `out`: image.png, result.json and, if asked for, trace.safetensors.
pub fn run_request(
    request: &Request,
    device: &Device,
    device_name: &str,
    out: &Path,
    with_trace: bool,
) -> anyhow::Result<()> {
    std::fs::create_dir_all(out).with_context(|| format!("cannot make the folder {}", out.display()))?;
    let mut seconds = PhaseSeconds::default();
    let loading = Instant::now();
    let folder = &request.models.diffusion;
    let diffusion = Arc::new(Diffusion::load(folder, DType::F32, device)?);
    let prompt_embeds = TextEncoder::load(folder, DType::F32, device)?.prompt_embeds(&request.prompt)?;
    let encoder = Arc::new(Encoder::load(&request.models.backbone, &request.models.head, DType::F32, device)?);
    let probe = Arc::new(load_probe(&request.models.probe, folder, &request.probes, device)?);
    let models = Loaded { diffusion, prompt_embeds, encoder, probe };
    seconds.loading = loading.elapsed().as_secs_f64();

    let sampling = Instant::now();
    let initial_latents = match (&request.initial_latents, request.seed) {
        (Some(latents), _) => {
            braindive::weights::Weights::open(&latents.file, DType::F32, device)?.read(&latents.tensor)?
        }
        (None, seed) => {
            let [width, height] = request.size.unwrap_or_default().map(|side| side as usize);
            let [_, _, rows, columns] = models.diffusion.latent_shape(width, height)?;
            starting_latents(seed.map_or(0, |seed| seed.0), rows, columns, device)?
        }
    };
    let voxels: Vec<usize> = request.objective.voxels.iter().map(|&row| row as usize).collect();
    let denominator = request.objective.denominator.map_or(voxels.len(), |n| n as usize);
    let term = Term { region: "the request's voxels".to_owned(), weight: 1.0, voxels, denominator };
    let objective = Objective { terms: vec![term] };
    let parameters = Parameters {
        steps: request.steps as usize,
        gamma: request.gamma,
        sag_scale: request.sag_scale,
        final_sigma: final_sigma(request.final_sigma),
        prompt_embeds: models.prompt_embeds.clone(),
        initial_latents,
    };
    let target = objective.target(&models.encoder.head)?;
    let mut recording = with_trace.then(Trace::new);
    let sample = sampler::sample(&models.diffusion, &models.encoder, &target, &parameters, |step| {
        if let Some(recording) = &mut recording {
            recording.record(step, &models.encoder)?;
        }
        Ok(ControlFlow::Continue(()))
    })?;
    let image = RgbImage8::from_tensor(&sample.image)?;
    seconds.sampling = sampling.elapsed().as_secs_f64();

    let scoring = Instant::now();
    let scores = Scores::of(&image, &models, &objective, &request.probes)?;
    seconds.scoring = scoring.elapsed().as_secs_f64();
    let (_, _, height, width) = sample.image.dims4()?;
    let asked = job::Sampling {
        preset: job::Preset::Default,
        steps: request.steps,
        gamma: request.gamma,
        sag_scale: request.sag_scale,
        size: [width as u32, height as u32],
        prompt: request.prompt.clone(),
        final_sigma: request.final_sigma,
    };
    let facts = Facts {
        subject: None,
        region: None,
        seed: request.seed,
        sampling: &asked,
        effective_gamma: objective.effective_gamma(request.gamma),
        scores: &scores,
        models: request_digests(request)?,
        software: SOFTWARE,
    };
    let png = facts.png(&image)?;
    let write = |name: &str, bytes: &[u8]| {
        let path = out.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
    };
    write("image.png", &png)?;
    if let Some(mut recording) = recording {
        let pixels = Tensor::from_slice(image.pixels(), (image.height(), image.width(), 3), &Device::Cpu)?;
        recording.insert_saved_image(&pixels, &models.encoder)?;
        let f32s = |values: &[f64]| Tensor::new(values, &Device::Cpu)?.to_dtype(DType::F32);
        recording.insert("coca.text_features", models.probe.text_features().clone());
        recording.insert("coca.similarity", f32s(&scores.probe.similarity)?);
        recording.insert("coca.class_similarity", f32s(&scores.probe.class_similarity)?);
        let class = request.probes.iter().position(|class| class.name == scores.probe.class).unwrap_or_default();
        recording.insert("coca.class", Tensor::new(&[class as i64], &Device::Cpu)?);
        let tensors = recording.finish(&models.diffusion, &models.encoder, &parameters, &sample)?;
        trace::write(&tensors, out.join("trace.safetensors"))?;
    }
    let result = SampleResult {
        image_sha256: digest(&png),
        activation: scores.activation,
        effective_gamma: facts.effective_gamma,
        deviations: Vec::new(),
        device: device_name.to_owned(),
        seconds,
        software: SOFTWARE.to_owned(),
        roi_activation: scores.roi_activation,
        probe: scores.probe,
    };
    write("result.json", &serde_json::to_vec_pretty(&result)?)
}

/// What the encoder and the probe say of the saved image.
#[derive(Debug, Serialize)]
struct Scores {
    /// The objective, z-scored beta units.
    activation: f64,
    /// Mean over the voxels of every named ROI of the subject.
    roi_activation: BTreeMap<String, f64>,
    probe: ProbeResult,
}

impl Scores {
    fn of(
        image: &RgbImage8,
        models: &Loaded,
        objective: &Objective,
        classes: &[ProbeClass],
    ) -> Result<Self, braindive::Error> {
        let encoder = &models.encoder;
        let pixels = image.to_tensor(&models.diffusion.device)?;
        let voxels: Vec<f64> =
            encoder.voxels(&pixels)?.squeeze(0)?.to_dtype(DType::F64)?.to_vec1().map_err(braindive::Error::from)?;
        let mean = |rows: &[usize]| rows.iter().map(|&row| voxels[row]).sum::<f64>() / rows.len() as f64;
        let roi_activation = encoder
            .head
            .rois()
            .iter()
            .filter(|(_, rows)| !rows.is_empty())
            .map(|(name, rows)| (name.clone(), mean(rows)));
        let said = models.probe.classify(image)?;
        Ok(Self {
            activation: objective.value(&voxels),
            roi_activation: roi_activation.collect(),
            probe: ProbeResult {
                class: classes.get(said.class).map(|class| class.name.clone()).unwrap_or_default(),
                class_similarity: said.class_similarity,
                similarity: said.similarity,
            },
        })
    }
}

/// What a PNG says of itself: only what decides or describes the image, so that two attempts at a job give equal bytes.
/// Worker and seconds stand in the result's row.
#[derive(Debug, Serialize)]
struct Facts<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<Seed>,
    sampling: &'a job::Sampling,
    effective_gamma: f64,
    #[serde(flatten)]
    scores: &'a Scores,
    /// Role to sha256.
    models: BTreeMap<&'static str, Digest>,
    software: &'a str,
}

impl Facts<'_> {
    /// The PNG with the facts as JSON in an iTXt entry `braindive`.
    fn png(&self, image: &RgbImage8) -> Result<Vec<u8>, braindive::Error> {
        let json = serde_json::to_string(self)
            .map_err(|source| braindive::Error::Read { path: "the image's metadata".into(), source: source.into() })?;
        let text = BTreeMap::from([("Software".to_owned(), self.software.to_owned()), ("braindive".to_owned(), json)]);
        Ok(png::encode(image, &text)?)
    }
}

/// The experiment's objective in terms of the head's rows.
fn resolve(objective: &job::Objective, region: &str, encoder: &Encoder) -> Result<Objective, Stop> {
    let bad = |message: String| Stop::Failed(FailureClass::BadInput, message);
    let mut terms = Vec::new();
    for term in &objective.terms {
        let (voxels, denominator): (Vec<usize>, usize) = match &term.voxels {
            VoxelSet::Rows { rows, denominator } => {
                (rows.iter().map(|&row| row as usize).collect(), *denominator as usize)
            }
            VoxelSet::Volume(volume) => {
                for (path, expected) in std::iter::once((&volume.mask, &volume.mask_sha256))
                    .chain(volume.t_map.iter().zip(volume.t_map_sha256.as_ref()))
                {
                    let found =
                        sha256(path).map_err(|error| bad(format!("cannot read {}: {error}", path.display())))?;
                    if found != *expected {
                        return Err(
                            ShelfError::Changed { path: path.clone(), found, expected: expected.clone() }.into()
                        );
                    }
                }
                let threshold = volume.t_map.clone().zip(volume.t_above).map(|(map, above)| Threshold { map, above });
                let mask = VolumeMask { mask: volume.mask.clone(), labels: volume.labels.clone(), threshold };
                let found = mask.rows_of(&encoder.head).map_err(|error| bad(format!("region {region}: {error}")))?;
                let denominator = if volume.whole_mask_mean { found.mask_voxels } else { found.rows.len() };
                (found.rows, denominator)
            }
        };
        terms.push(Term { region: region.to_owned(), weight: term.weight, voxels, denominator });
    }
    Ok(Objective { terms })
}

fn final_sigma(asked: job::FinalSigma) -> FinalSigma {
    match asked {
        job::FinalSigma::Zero => FinalSigma::Zero,
        job::FinalSigma::SigmaMin => FinalSigma::SigmaMin,
    }
}

fn digest(bytes: &[u8]) -> Digest {
    Digest::from_bytes(&Sha256::digest(bytes).into())
}

/// The weights that a request names, by role.
fn request_digests(request: &Request) -> anyhow::Result<BTreeMap<&'static str, Digest>> {
    let models = &request.models;
    let head = if models.head.is_dir() { models.head.join("head.safetensors") } else { models.head.clone() };
    let files = [
        ("unet", models.diffusion.join("unet/diffusion_pytorch_model.safetensors")),
        ("vae", models.diffusion.join("vae/diffusion_pytorch_model.safetensors")),
        ("backbone", models.backbone.join("open_clip_model.safetensors")),
        ("encoder", head),
        ("probe", models.probe.join("open_clip_model.safetensors")),
    ];
    files
        .into_iter()
        .map(|(role, path)| {
            let digest = sha256(&path).with_context(|| format!("cannot read {}", path.display()))?;
            Ok((role, digest))
        })
        .collect()
}
