//! What a guided step and its parts cost on the miniature: `cargo bench -p braindive --bench sampler [-- PART…]`.
//!
//! Prints one JSON object: for every part (or those whose name contains one of the arguments) how often it ran, its median
//! wall-clock seconds, and its mean CPU seconds, user and system on all threads.
#![allow(clippy::unwrap_used)]

use braindive::encoder::{Encoder, Objective, Term, encode};
use braindive::gradient::{Keep, Tracked, gradients};
use braindive::sampler::noise::{NoiseLayout, starting_latents};
use braindive::sampler::sag::self_attention_guidance;
use braindive::sampler::schedule::NoiseLevel;
use braindive::sampler::{Diffusion, Item, Parameters, predict};
use braindive::{DType, Device};
use serde_json::{Map, Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

const STEPS: usize = 50;
const GAMMA: f64 = 14.0;
const SAG_SCALE: f64 = 0.75;
/// Side of the image, pixels.
const SIZE: usize = 32;

/// A part is repeated for at least this long, so that the kernel's clock ticks of 10 ms do not show.
const AT_LEAST: Duration = Duration::from_secs(3);

/// User and system time of all threads of this process (`/proc/PID/stat`, fields 14 and 15, in hundredths of a second).
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = |field: usize| fields.get(field - 3)?.parse::<f64>().ok();
    Some((ticks(14)? + ticks(15)?) / 100.0)
}

/// What was measured, by part.
struct Report {
    only: Vec<String>,
    parts: Map<String, Value>,
}

impl Report {
    fn measure<R>(&mut self, name: &str, part: impl Fn() -> R) {
        if !self.only.is_empty() && !self.only.iter().any(|word| name.contains(word)) {
            return;
        }
        part();
        let (mut seconds, begin, cpu_begin) = (Vec::new(), Instant::now(), cpu_seconds());
        while begin.elapsed() < AT_LEAST {
            let start = Instant::now();
            std::hint::black_box(part());
            seconds.push(start.elapsed().as_secs_f64());
        }
        let cpu = cpu_begin.zip(cpu_seconds()).map(|(begin, end)| (end - begin) / seconds.len() as f64);
        seconds.sort_by(f64::total_cmp);
        let median = seconds[seconds.len() / 2];
        let part = json!({ "runs": seconds.len(), "seconds": median, "cpu_seconds": cpu });
        self.parts.insert(name.to_owned(), part);
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

    let only = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let mut report = Report { only, parts: Map::new() };
    let step = |item: &Item| {
        let items = std::slice::from_ref(item);
        predict(&diffusion, &encoder.backbone, &parameters, items, latents, level).unwrap()
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
        let features = encode(&encoder.backbone, &decoded).unwrap().unit_features;
        let cotangent = features.value().ones_like().unwrap();
        gradients(features, cotangent).unwrap().reach(&input).unwrap()
    });

    println!("{}", serde_json::to_string_pretty(&Value::Object(report.parts)).unwrap());
}
