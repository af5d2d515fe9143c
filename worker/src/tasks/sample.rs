//! One guided sample: sampler, 8-bit image, scores, PNG. The same code serves jobs and `worker sample`.

use super::facts::Facts;
use super::models::{Loaded, Shelf, ShelfError};
use super::objective::resolve;
use super::score::Scores;
use super::{Product, TaskError, class_of};
use crate::control::Control;
use braindive::encoder::Objective;
use braindive::image::RgbImage8;
use braindive::sampler::noise::{NoiseLayout, starting_latents};
use braindive::sampler::schedule::FinalSigma;
use braindive::sampler::{self, Item, Parameters, Sample, Step};
use braindive::{Error, ErrorKind, Tensor};
use protocol::ids::{Digest, Seed};
use protocol::job::{self, SampleCondition};
use protocol::outcome::{FailureClass, PhaseSeconds, SampleResult};
use protocol::probe::ProbeClass;
use protocol::version::SOFTWARE;
use sha2::{Digest as _, Sha256};
use std::ops::ControlFlow;
use std::time::Instant;

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

impl Order<'_> {
    /// The order as one image of a batch.
    pub fn item(&self, models: &Loaded) -> Result<Item, Error> {
        Ok(Item {
            target: self.objective.target(&models.encoder.head)?,
            gamma: self.gamma,
            prompt_embeds: models.prompt_embeds.clone(),
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
        let sample = timed(&mut seconds.sampling, || {
            sampler::sample(&models.diffusion, backbone, &self.parameters, &[item], observer)?.remove(0)
        })?;
        timed(&mut seconds.scoring, || {
            let image = RgbImage8::from_tensor(&sample.image)?;
            let scores = Scores::of(&image, models, &self.objective, self.classes)?;
            Ok(Painted { sample, image, scores })
        })
    }
}

/// The PNG of a painted image and the result that names it.
pub fn product(facts: &Facts<'_>, image: &RgbImage8, device: &str, seconds: PhaseSeconds) -> Result<Product, Error> {
    let png = facts.png(image)?;
    let Scores { activation, roi_activation, probe } = facts.scores.clone();
    let result = SampleResult {
        image_sha256: Digest::from_bytes(&Sha256::digest(&png).into()),
        activation,
        roi_activation,
        probe,
        models: facts.models.iter().map(|(role, digest)| ((*role).to_owned(), digest.clone())).collect(),
        effective_gamma: facts.effective_gamma,
        seconds,
        device: device.to_owned(),
        deviations: Vec::new(),
        software: SOFTWARE.to_owned(),
    };
    Ok(Product { png, result })
}

/// Runs one job: `condition` with `seed`, on models from the shelf.
pub fn run(
    shelf: &Shelf,
    device: &str,
    condition: &SampleCondition,
    seed: Seed,
    control: &Control,
) -> Result<Product, TaskError> {
    let mut seconds = PhaseSeconds::default();
    attempt(shelf, device, condition, seed, control, &mut seconds).map_err(|error| match error {
        ShelfError::Load(error) if error.kind() == ErrorKind::Stopped => TaskError::Stopped,
        error => {
            let class = match &error {
                ShelfError::Changed { .. } | ShelfError::Missing { .. } => FailureClass::BadInput,
                ShelfError::Unreadable { .. } => FailureClass::Io,
                ShelfError::Load(error) => class_of(error),
            };
            TaskError::Failed { class, message: error.to_string(), seconds }
        }
    })
}

fn attempt(
    shelf: &Shelf,
    device: &str,
    condition: &SampleCondition,
    seed: Seed,
    control: &Control,
    seconds: &mut PhaseSeconds,
) -> Result<Product, ShelfError> {
    let (models, objective) = timed(&mut seconds.loading, || {
        let models = shelf.get(condition)?;
        let objective = resolve(&condition.objective, &condition.region, &models.encoder)?;
        Ok::<_, ShelfError>((models, objective))
    })?;
    let asked = &condition.sampling;
    let [width, height] = asked.size.map(|side| side as usize);
    let [_, _, rows, columns] = models.diffusion.latent_shape(width, height)?;
    let order = Order {
        objective,
        gamma: asked.gamma,
        initial_latents: starting_latents(NoiseLayout::TorchCuda, seed.0, rows, columns, &models.diffusion.device)
            .map_err(Error::from)?,
        parameters: Parameters {
            steps: asked.steps as usize,
            sag_scale: asked.sag_scale,
            final_sigma: final_sigma(asked.final_sigma),
            ..Parameters::default()
        },
        classes: &condition.probes,
    };
    let painted = order.paint(&models, seconds, |step| {
        control.report(step.index as u32 + 1, step.steps as u32);
        Ok(if control.is_stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    let facts = Facts {
        subject: Some(&condition.subject),
        region: Some(&condition.region),
        seed: Some(seed),
        sampling: asked,
        effective_gamma: order.objective.effective_gamma(asked.gamma),
        scores: &painted.scores,
        models: condition.models.folders().map(|(role, folder)| (role, folder.digest.clone())).into(),
        software: SOFTWARE,
    };
    Ok(product(&facts, &painted.image, device, *seconds)?)
}

/// The sampler's name for the solver's last target.
pub fn final_sigma(asked: job::FinalSigma) -> FinalSigma {
    match asked {
        job::FinalSigma::Zero => FinalSigma::Zero,
        job::FinalSigma::SigmaMin => FinalSigma::SigmaMin,
    }
}

/// Runs `work` and adds the wall seconds that it took.
pub fn timed<T>(seconds: &mut f64, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let done = work();
    *seconds += start.elapsed().as_secs_f64();
    done
}
