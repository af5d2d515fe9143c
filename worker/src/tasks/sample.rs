//! One guided sample: sampler, 8-bit image, scores, PNG. The same code serves jobs and `worker sample`.

use super::Product;
use super::facts::Facts;
use super::models::Loaded;
use super::scores::{Judging, Scores};
use super::start::start;
use braindive::encoder::Objective;
use braindive::image::from_tensor;
use braindive::sampler::schedule::FinalSigma;
use braindive::sampler::solver::Method;
use braindive::sampler::{self, Gradient, Item, Parameters, Sample, Step, TextGuidance};
use braindive::{Error, Tensor};
use protocol::ids::Digest;
use protocol::job;
use protocol::outcome::{JobResult, PhaseSeconds, SampleResult};
use protocol::probe::ProbeClass;
use protocol::version::SOFTWARE;
use sha2::{Digest as _, Sha256};
use std::ops::ControlFlow;
use std::time::Instant;
use subject::image::RgbImage8;

/// What to sample, with everything resolved that decides it.
#[derive(Debug)]
pub struct Order<'a> {
    pub objective: Objective,
    pub gamma: f64,
    pub initial_latents: Tensor,
    pub parameters: Parameters,
    pub classes: &'a [ProbeClass],
}

/// An image and what is said of it.
#[derive(Debug)]
pub struct Painted {
    pub sample: Sample,
    pub image: RgbImage8,
    pub scores: Scores,
}

impl<'a> Order<'a> {
    /// What `asked` means to the sampler. `noise`: [1, 4, h, w].
    pub fn new(
        asked: &job::Sampling,
        objective: Objective,
        noise: Tensor,
        classes: &'a [ProbeClass],
        models: &Loaded,
    ) -> Result<Self, Error> {
        let (first_step, initial_latents) = start(asked, noise, models)?;
        let [from, to] = asked.guidance_interval.unwrap_or([0.0, 1.0]);
        let null_embeds = &models.prompt.null;
        let parameters = Parameters {
            steps: asked.steps as usize,
            first_step,
            solver: match asked.solver {
                job::Solver::DpmSolverPp2m => Method::DpmSolverPp2m,
                job::Solver::Ddim => Method::Ddim,
                job::Solver::Euler => Method::Euler,
            },
            final_sigma: match asked.final_sigma {
                job::FinalSigma::Zero => FinalSigma::Zero,
                job::FinalSigma::SigmaMin => FinalSigma::SigmaMin,
            },
            sag_scale: asked.sag_scale,
            text_guidance: asked.text_guidance.map(|scale| TextGuidance { scale, null_embeds: null_embeds.clone() }),
            guidance_interval: from..to,
            gradient: match asked.gradient {
                job::Gradient::Full => Gradient::Full,
                job::Gradient::PredX0 => Gradient::PredX0,
            },
            ..Parameters::default()
        };
        Ok(Self { objective, gamma: asked.gamma, initial_latents, parameters, classes })
    }

    /// The order as one image of a batch.
    pub fn item(&self, models: &Loaded) -> Result<Item, Error> {
        Ok(Item {
            target: self.objective.target(&models.encoder.head)?,
            gamma: self.gamma,
            prompt_embeds: models.prompt.prompt.clone(),
            initial_latents: self.initial_latents.clone(),
        })
    }

    /// Samples and scores; adds what it took to `seconds`, also when it fails.
    pub fn paint(
        &self,
        models: &Loaded,
        seconds: &mut PhaseSeconds,
        observer: impl FnMut(&Step<'_>) -> Result<ControlFlow<()>, Error>,
    ) -> Result<Painted, Error> {
        let item = self.item(models)?;
        let backbone = &models.encoder.backbone;
        let samples = timed(&mut seconds.sampling, || {
            sampler::sample(&models.diffusion, backbone, &self.parameters, &[item], observer)
        })?;
        timed(&mut seconds.scoring, || judge(&[(self, models)], samples)?.remove(0))
    }
}

/// The images of `samples` in 8 bits, and what encoders and probes say of them; `orders`: of each.
pub fn judge(
    orders: &[(&Order<'_>, &Loaded)],
    samples: Vec<Result<Sample, Error>>,
) -> Result<Vec<Result<Painted, Error>>, Error> {
    let images: Vec<Result<(Sample, RgbImage8), Error>> = samples
        .into_iter()
        .map(|sample| {
            let sample = sample?;
            let image = from_tensor(&sample.image)?;
            Ok((sample, image))
        })
        .collect();
    let judged = images.iter().zip(orders).filter_map(|(image, (order, models))| {
        let (_, image) = image.as_ref().ok()?;
        let (encoder, probe) = (&*models.encoder, &*models.probe);
        Some(Judging { image, encoder, probe, objective: &order.objective, classes: order.classes })
    });
    let mut scores = Scores::of(&judged.collect::<Vec<_>>())?.into_iter();
    let painted = images.into_iter().map(|image| {
        let (sample, image) = image?;
        // There are as many as images.
        let scores = scores.next().unwrap_or(Err(Error::Stopped { step: 0 }))?;
        Ok(Painted { sample, image, scores })
    });
    Ok(painted.collect())
}

/// The PNG of an image with its facts, and the result that names it: work for the host alone.
pub fn product(
    facts: Facts,
    image: &RgbImage8,
    device: &str,
    deviations: Vec<String>,
    seconds: PhaseSeconds,
) -> Result<Product, Error> {
    let png = facts.png(image)?;
    let Scores { activation, roi_activation, probe } = facts.scores;
    let result = SampleResult {
        image_sha256: Digest::from_bytes(&Sha256::digest(&png).into()),
        activation,
        roi_activation,
        probe,
        models: facts.models.into_iter().map(|(role, digest)| (role.to_owned(), digest)).collect(),
        effective_gamma: facts.effective_gamma,
        seconds,
        device: device.to_owned(),
        deviations,
        software: SOFTWARE.to_owned(),
    };
    Ok(Product { png: Some(png), result: JobResult::Sample(Box::new(result)) })
}

/// Runs `work` and adds the wall seconds that it took.
pub fn timed<T>(seconds: &mut f64, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let done = work();
    *seconds += start.elapsed().as_secs_f64();
    done
}
