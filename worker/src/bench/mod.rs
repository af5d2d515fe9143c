//! `worker bench`: what a guided step and its parts cost on a device, in time and memory.

mod measure;
mod models;

use crate::tasks::models::dtype;
use braindive::device::Calls;
use braindive::encoder::{Target, encode};
use braindive::gradient::{Tracked, gradients};
use braindive::sampler::dpm_solver::DpmSolver;
use braindive::sampler::noise::{NoiseLayout, starting_latents};
use braindive::sampler::sag::self_attention_guidance;
use braindive::sampler::schedule::{FinalSigma, NoiseLevel};
use braindive::sampler::solver::Solver;
use braindive::sampler::{Footprint, Item, Memory, Parameters, predict};
use braindive::{DType, Device, Tensor};
use measure::Cost;
use models::Networks;
use protocol::job::Precision;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Instant;

/// What to measure.
#[derive(Debug, Clone)]
pub struct Plan {
    pub model: Model,
    /// Pixels of a square image's side.
    pub size: usize,
    /// Guided steps that are measured.
    pub steps: u32,
    /// Images at a time; one after the other on the same networks.
    pub batches: Vec<usize>,
    pub precision: Precision,
    /// Bytes.
    pub memory_limit: Option<u64>,
    /// Only these parts; all if empty.
    pub parts: Vec<String>,
}

/// Which networks.
#[derive(Debug, Clone)]
pub enum Model {
    /// Stable Diffusion 2.1-base and ViT-B/16 with random weights.
    Sd21Base,
    Folders {
        diffusion: PathBuf,
        backbone: PathBuf,
    },
}

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    model: String,
    precision: Precision,
    /// Pixels.
    size: usize,
    device: String,
    hardware: String,
    threads: usize,
    load_seconds: f64,
    /// In the order in which they ran.
    batches: Vec<BatchReport>,
}

/// What was measured of so many images at a time.
#[derive(Debug, Serialize)]
struct BatchReport {
    batch: usize,
    memory: MemoryReport,
    /// In the order in which they ran.
    parts: Vec<Part>,
    /// Of an image of 50 steps, from the measured step and decoder; absent where these were not measured.
    seconds_per_image: Option<f64>,
}

/// Bytes, counted.
#[derive(Debug, Serialize)]
struct MemoryReport {
    limit: Option<u64>,
    weights: u64,
    unet_keeps: u64,
    vae_keeps: u64,
    /// Weights, what is kept, and what layers work on.
    estimated_peak: u64,
    /// Whether UNet and decoder run their blocks again instead of keeping their activations.
    unet_recomputes: bool,
    vae_recomputes: bool,
}

#[derive(Debug, Serialize)]
struct Part {
    name: &'static str,
    #[serde(flatten)]
    cost: Cost,
    /// 10⁹ multiply-adds per second of wall time.
    giga_per_second: f64,
}

const SAG_SCALE: f64 = 0.75;
const GAMMA: f64 = 130.0;
/// A step in the middle of a run of this many.
const STEPS_PER_IMAGE: usize = 50;
const PROMPT_TOKENS: usize = 77;

impl Plan {
    /// Measures. Parts run one after the other, each as often as there are steps.
    pub fn run(&self, device: &Device, device_name: &str, hardware: String) -> anyhow::Result<Report> {
        let dtype = dtype(self.precision);
        let start = Instant::now();
        let networks = match &self.model {
            Model::Sd21Base => Networks::sd21_base(dtype, device)?,
            Model::Folders { diffusion, backbone } => Networks::load(diffusion, backbone, dtype, device)?,
        };
        let load_seconds = start.elapsed().as_secs_f64();
        let footprint = Footprint::count(&networks.diffusion, &networks.backbone)?;
        let measure = |batch: &usize| self.measure(*batch, &networks, &footprint, device);
        let batches = self.batches.iter().map(measure).collect::<braindive::Result<_>>()?;
        Ok(Report {
            model: match &self.model {
                Model::Sd21Base => "sd21-base, random weights".to_owned(),
                Model::Folders { diffusion, .. } => diffusion.display().to_string(),
            },
            precision: self.precision,
            size: self.size,
            device: device_name.to_owned(),
            hardware,
            threads: braindive::threads(),
            load_seconds,
            batches,
        })
    }

    fn measure(
        &self,
        batch: usize,
        networks: &Networks,
        footprint: &Footprint,
        device: &Device,
    ) -> braindive::Result<BatchReport> {
        let [_, _, height, width] = networks.diffusion.latent_shape(self.size, self.size)?;
        let memory = match self.memory_limit {
            Some(limit) => footprint.fit(limit, batch, height * width)?,
            None => Memory::default(),
        };
        let [unet_keeps, vae_keeps] = footprint.kept(memory, batch, height * width);
        let mut parts = Parts { plan: self, batch, device, measured: Vec::new() };
        parts.measure(networks, memory, [height, width])?;
        let parts = parts.measured;
        let seconds = |name: &str| parts.iter().find(|part| part.name == name).map(|part| part.cost.seconds);
        let seconds_per_image = seconds(STEP)
            .zip(seconds(VAE_FORWARD))
            .map(|(step, decode)| (step * STEPS_PER_IMAGE as f64 + decode) / batch as f64);
        Ok(BatchReport {
            batch,
            memory: MemoryReport {
                limit: self.memory_limit,
                weights: footprint.weights,
                unet_keeps,
                vae_keeps,
                estimated_peak: footprint.peak(memory, batch, height * width),
                unet_recomputes: memory.unet == braindive::gradient::Keep::BlockInputs,
                vae_recomputes: memory.vae == braindive::gradient::Keep::BlockInputs,
            },
            parts,
            seconds_per_image,
        })
    }
}

const UNET_FORWARD: &str = "unet_forward";
const UNET_BOTH: &str = "unet_forward_backward";
const VAE_FORWARD: &str = "vae_forward";
const VAE_BOTH: &str = "vae_forward_backward";
const VIT_FORWARD: &str = "vit_forward";
const VIT_BOTH: &str = "vit_forward_backward";
const SAG: &str = "self_attention_guidance";
const SCHEDULER: &str = "scheduler";
const STEP: &str = "guided_step";
/// What can be measured, in the order in which it is.
pub const PARTS: [&str; 9] =
    [VIT_FORWARD, VIT_BOTH, UNET_FORWARD, UNET_BOTH, SAG, VAE_FORWARD, VAE_BOTH, SCHEDULER, STEP];

struct Parts<'a> {
    plan: &'a Plan,
    batch: usize,
    device: &'a Device,
    measured: Vec<Part>,
}

impl Parts<'_> {
    fn measure(&mut self, networks: &Networks, memory: Memory, latent_size: [usize; 2]) -> braindive::Result<()> {
        let Networks { diffusion, backbone } = networks;
        let [height, width] = latent_size;
        let timestep = diffusion.schedule.timesteps(STEPS_PER_IMAGE)?[STEPS_PER_IMAGE / 2];
        let level = NoiseLevel { timestep, alpha_bar: diffusion.schedule.alpha_bar(timestep) };
        let noise: Vec<Tensor> = (0..self.batch as u64)
            .map(|seed| starting_latents(NoiseLayout::default(), seed, height, width, self.device))
            .collect::<Result<_, _>>()?;
        let latents = Tensor::cat(&noise, 0)?;
        let context = diffusion.unet.config.cross_attention_dim;
        let prompt = Tensor::zeros((1, PROMPT_TOKENS, context), DType::F32, self.device)?;
        let back = |output: Tracked, input: &Tracked| -> braindive::Result<()> {
            let cotangent = output.value().ones_like()?;
            gradients(output, cotangent)?.reach(input)?;
            Ok(())
        };

        let side = self.plan.size;
        let image = Tensor::rand(0f32, 1f32, (self.batch, 3, side, side), self.device)?;
        self.part(VIT_FORWARD, || encode(backbone, &Tracked::from(&image)).map(drop).map_err(Into::into))?;
        self.part(VIT_BOTH, || {
            let input = Tracked::input(image.clone());
            back(encode(backbone, &input)?.features, &input)
        })?;

        let unet = |latents: &Tracked| diffusion.predict_noise(latents, level, &prompt, memory.unet, false);
        self.part(UNET_FORWARD, || unet(&Tracked::from(&latents)).map(drop).map_err(Into::into))?;
        self.part(UNET_BOTH, || {
            let input = Tracked::input(latents.clone());
            back(unet(&input)?.0, &input)
        })?;
        if self.wants(SAG) {
            let (noise_pred, attention) =
                diffusion.predict_noise(&Tracked::from(&latents), level, &prompt, memory.unet, true)?;
            if let Some(attention) = attention {
                self.part(SAG, || {
                    let noise_pred = noise_pred.value();
                    self_attention_guidance(diffusion, &latents, noise_pred, &attention, &prompt, level, SAG_SCALE)?;
                    Ok(())
                })?;
            }
        }

        let decode = |latents: &Tracked| diffusion.decode_raw(latents, memory.vae);
        self.part(VAE_FORWARD, || decode(&Tracked::from(&latents)).map(drop).map_err(Into::into))?;
        self.part(VAE_BOTH, || {
            let input = Tracked::input(latents.clone());
            back(decode(&input)?, &input)
        })?;

        let alpha_bars = diffusion.schedule.alpha_bars(STEPS_PER_IMAGE, FinalSigma::Zero)?;
        self.part(SCHEDULER, || {
            let mut solver = DpmSolver::new(&alpha_bars, FinalSigma::Zero);
            solver.step(0, &latents, &latents)?;
            Ok(())
        })?;

        let features = backbone.config.features;
        let item = |initial_latents: &Tensor| Item {
            target: Target::new((0..features).map(|i| (i as f64).sin()).collect(), 0.0),
            gamma: GAMMA,
            prompt_embeds: prompt.clone(),
            initial_latents: initial_latents.clone(),
        };
        let items: Vec<Item> = noise.iter().map(item).collect();
        let parameters = Parameters { steps: STEPS_PER_IMAGE, sag_scale: SAG_SCALE, memory, ..Parameters::default() };
        let batch = diffusion.batch(&items)?;
        self.part(STEP, || {
            predict(diffusion, backbone, &parameters, &batch, &latents, level)?;
            Ok(())
        })
    }

    fn wants(&self, name: &str) -> bool {
        self.plan.parts.is_empty() || self.plan.parts.iter().any(|part| part == name)
    }

    fn part(&mut self, name: &'static str, work: impl FnMut() -> braindive::Result<()>) -> braindive::Result<()> {
        if self.wants(name) {
            let cost = Cost::of(self.device, self.plan.steps, work)?;
            self.measured.push(Part { name, cost, giga_per_second: cost.giga_per_second() });
        }
        Ok(())
    }
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1u32 << 30)
}

fn or_dash(value: Option<f64>) -> String {
    value.map_or("–".to_owned(), |value| format!("{value:.2}"))
}

impl Report {
    /// Tables for people.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{}, {} precision, {}x{} pixels, on {} ({}, {} threads); loaded in {:.1} s\n",
            self.model,
            self.precision,
            self.size,
            self.size,
            self.device,
            self.hardware,
            self.threads,
            self.load_seconds
        );
        self.batches.iter().for_each(|batch| text += &batch.table());
        if self.batches.len() > 1 {
            text += &format!("\n{:<10}{:>14}{:>14}{:>10}\n", "batch", "s per image", "images per h", "peak GiB");
            for BatchReport { batch, memory, seconds_per_image, .. } in &self.batches {
                let per_hour = seconds_per_image.map(|seconds| 3600.0 / seconds);
                let peak = gib(memory.estimated_peak);
                text += &format!(
                    "{batch:<10}{:>14}{:>14}{peak:>10.2}\n",
                    or_dash(*seconds_per_image),
                    per_hour.map_or("–".to_owned(), |images| format!("{images:.0}"))
                );
            }
        }
        text
    }
}

impl BatchReport {
    fn table(&self) -> String {
        let mut text = format!(
            "\n{:<26}{:>10}{:>10}{:>10}{:>10}{:>12}\n",
            format!("batch of {}", self.batch),
            "s",
            "CPU s",
            "peak GiB",
            "TMAC",
            "GMAC/s"
        );
        for Part { name, cost, giga_per_second } in &self.parts {
            text += &format!(
                "{:<26}{:>10.3}{:>10}{:>10}{:>10.3}{:>12.1}",
                name.replace('_', " "),
                cost.seconds,
                or_dash(cost.cpu_seconds),
                or_dash(cost.peak_bytes.map(gib)),
                cost.multiply_adds as f64 / 1e12,
                giga_per_second
            );
            if let Some(Calls { launches, waits, allocations }) = cost.device {
                text += &format!("  {launches} launches, {waits} waits, {allocations} allocations");
            }
            text.push('\n');
        }
        let memory = &self.memory;
        text += &format!(
            "Memory, counted: weights {:.2} GiB, the UNet keeps {:.2}, the decoder {:.2}; peak of a step about {:.2} GiB\n",
            gib(memory.weights),
            gib(memory.unet_keeps),
            gib(memory.vae_keeps),
            gib(memory.estimated_peak)
        );
        if let Some(seconds) = self.seconds_per_image {
            text += &format!("{STEPS_PER_IMAGE} guided steps and the final decoding: {seconds:.1} s per image\n");
        }
        text
    }
}
