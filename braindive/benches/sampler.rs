//! What a guided step and its parts cost on the miniature: `cargo bench -p braindive --bench sampler [-- PART…]`.
//!
//! Prints one JSON object: for every part (or those whose name contains one of the arguments) its median wall-clock seconds, and its
//! mean CPU seconds, user and system on all threads.
#![allow(clippy::unwrap_used)]

mod measure;

use braindive::encoder::{Encoder, Objective, Term, encode};
use braindive::gradient::{Keep, Tracked, gradients};
use braindive::sampler::noise::{NoiseLayout, starting_latents};
use braindive::sampler::sag::self_attention_guidance;
use braindive::sampler::schedule::NoiseLevel;
use braindive::sampler::{Diffusion, Item, Parameters, predict};
use braindive::{DType, Device};
use measure::{Measured, Wanted, measure};
use serde_json::{Map, Value, json};
use std::path::Path;

const STEPS: usize = 50;
const GAMMA: f64 = 14.0;
const SAG_SCALE: f64 = 0.75;
/// Side of the image, pixels.
const SIZE: usize = 32;

/// What was measured, by part.
struct Report {
    wanted: Wanted,
    parts: Map<String, Value>,
}

impl Report {
    fn measure<R>(&mut self, name: &str, part: impl Fn() -> R) {
        if self.wanted.contains(name) {
            let Measured { seconds, cpu_seconds } = measure(part);
            let part = json!({ "seconds": seconds, "cpu_seconds": cpu_seconds });
            self.parts.insert(name.to_owned(), part);
        }
    }
}

fn main() {
    let bundle = Path::new(env!("CARGO_MANIFEST_DIR")).join("../miniature/bundle");
    let device = &Device::Cpu;
    let diffusion = Diffusion::load(bundle.join("sd"), DType::F32, device).unwrap();
    let encoder = Encoder::load(bundle.join("clip"), bundle.join("encoder"), DType::F32, device).unwrap();
    let text = braindive::models::text::TextEncoder::load(&bundle.join("sd"), DType::F32, device).unwrap();
    let (region, voxels) = encoder.head.rois().first_key_value().unwrap();
    let objective = Objective { terms: vec![Term::mean(region, voxels.clone())] };
    let target = objective.target(&encoder.head).unwrap();
    let [_, _, height, width] = diffusion.latent_shape(SIZE, SIZE).unwrap();
    let parameters = Parameters { steps: STEPS, sag_scale: SAG_SCALE, ..Parameters::default() };
    let item = Item {
        target: target.clone(),
        gamma: GAMMA,
        prompt_embeds: text.prompt_embeds("").unwrap(),
        initial_latents: starting_latents(NoiseLayout::TorchCuda, 0, height, width, device).unwrap(),
    };
    let (latents, prompt) = (&item.initial_latents, &item.prompt_embeds);
    let timestep = diffusion.schedule.timesteps(STEPS).unwrap()[STEPS / 2];
    let level = NoiseLevel { timestep, alpha_bar: diffusion.schedule.alpha_bar(timestep) };

    let mut report = Report { wanted: Wanted::from_arguments(), parts: Map::new() };
    let step = |item: &Item| {
        let batch = diffusion.batch(std::slice::from_ref(item)).unwrap();
        predict(&diffusion, &encoder.backbone, &parameters, &batch, latents, level).unwrap()
    };
    report.measure("guided step", || step(&item));
    let unguided = Item { gamma: 0.0, ..item.clone() };
    report.measure("unguided step", || step(&unguided));

    let constant = &Tracked::from(latents);
    let unet = |latents| diffusion.predict_noise(latents, level, prompt, Keep::Activations, true).unwrap();
    report.measure("UNet forward", || unet(constant));
    let (noise_pred, attention) = unet(constant);
    let (noise_pred, attention) = (noise_pred.into_value(), attention.unwrap());
    report.measure("self-attention guidance", || {
        self_attention_guidance(&diffusion, latents, &noise_pred, &attention, prompt, level, SAG_SCALE).unwrap()
    });
    report.measure("decode", || diffusion.decode(latents).unwrap());
    let image = Tracked::from(diffusion.decode(latents).unwrap());
    report.measure("encode", || encode(&encoder.backbone, &image).unwrap());

    let input = Tracked::input(latents.clone());
    report.measure("forward and backward through UNet, decoder and encoder", || {
        let pred_x0 = level.pred_x0(&input, &unet(&input).0).unwrap();
        let decoded = diffusion.decode_raw(&pred_x0, Keep::Activations).unwrap();
        let features = encode(&encoder.backbone, &decoded).unwrap().features;
        let cotangent = features.value().ones_like().unwrap();
        gradients(features, cotangent).unwrap().reach(&input).unwrap()
    });

    println!("{}", serde_json::to_string_pretty(&Value::Object(report.parts)).unwrap());
}
