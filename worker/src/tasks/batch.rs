//! Jobs that are sampled together: one pass through the networks serves images of other seeds, regions, subjects and scales.

use super::deviations::deviations;
use super::facts::Facts;
use super::models::{Loaded, Shelf, ShelfError, digests};
use super::objective::resolve;
use super::pass::{self, Passes};
use super::sample::{Order, Painted, judge, product, timed};
use super::start::noise;
use super::{Computed, TaskError, Work};
use braindive::Error;
use braindive::sampler::{self, Memory, Parameters, Sample, Step};
use protocol::ids::Digest;
use protocol::job::{SampleCondition, Sampling};
use protocol::outcome::PhaseSeconds;
use protocol::version::SOFTWARE;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// Whether jobs of two conditions can be sampled together: the same networks, and the same of everything that a batch shares.
pub fn share_a_pass(one: &SampleCondition, other: &SampleCondition) -> bool {
    /// Without what every image of a batch has for itself.
    fn shared(sampling: &Sampling) -> Sampling {
        let Sampling { preset, gamma, prompt, noise, .. } = Sampling::default();
        Sampling { preset, gamma, prompt, noise, ..sampling.clone() }
    }
    one.models.diffusion.digest == other.models.diffusion.digest
        && one.models.backbone.digest == other.models.backbone.digest
        && shared(&one.sampling) == shared(&other.sampling)
}

/// Runs jobs of which all share a pass, on models from the shelf; one outcome per job.
pub fn run(
    shelf: &Shelf,
    passes: &Passes,
    device: &str,
    batch: &[(&Work, &SampleCondition)],
) -> Vec<Result<Computed, TaskError>> {
    let mut jobs: Vec<Result<Job<'_>, TaskError>> =
        batch.iter().map(|(work, condition)| Job::prepare(shelf, work, condition)).collect();
    let mut ready: Vec<&mut Job<'_>> = jobs.iter_mut().filter_map(|job| job.as_mut().ok()).collect();
    let mut painted = paint(shelf, passes, &mut ready).into_iter();
    jobs.into_iter()
        .map(|job| {
            let job = job?;
            match painted.next().unwrap_or(Err(TaskError::Stopped)) {
                Ok(painted) => Ok(job.computed(painted, device)),
                Err(error) => Err(error.after(job.seconds)),
            }
        })
        .collect()
}

/// A job with its models, and all resolved that decides its image.
struct Job<'a> {
    work: &'a Work,
    condition: &'a SampleCondition,
    models: Loaded,
    /// Of the models, by role.
    digests: BTreeMap<&'static str, Digest>,
    order: Order<'a>,
    seconds: PhaseSeconds,
}

impl<'a> Job<'a> {
    fn prepare(shelf: &Shelf, work: &'a Work, condition: &'a SampleCondition) -> Result<Self, TaskError> {
        let mut seconds = PhaseSeconds::default();
        let prepared = timed(&mut seconds.loading, || -> Result<_, ShelfError> {
            let models = shelf.get(condition)?;
            let objective = resolve(&condition.objective, &condition.region, &models.encoder)?;
            let noise = noise(&condition.sampling, work.job.seed, &models)?;
            let order = Order::new(&condition.sampling, objective, noise, &condition.probes, &models)?;
            Ok((models, order, digests(&condition.models)?))
        });
        match prepared {
            Ok((models, order, digests)) => Ok(Self { work, condition, models, digests, order, seconds }),
            Err(error) => Err(error.end(seconds)),
        }
    }

    fn computed(self, painted: Painted, device: &str) -> Computed {
        let (order, asked, seconds) = (self.order, &self.condition.sampling, self.seconds);
        let Painted { image, scores, .. } = painted;
        let facts = Facts {
            subject: Some(self.condition.subject.clone()),
            region: Some(self.condition.region.clone()),
            seed: Some(self.work.job.seed),
            sampling: asked.clone(),
            effective_gamma: order.objective.effective_gamma(asked.gamma),
            scores,
            models: self.digests,
            software: SOFTWARE,
        };
        let deviations = deviations(asked, &order.objective, self.models.diffusion.dtype);
        let device = device.to_owned();
        Computed::new(seconds, move || {
            product(facts, &image, &device, deviations, seconds).map_err(|error| ShelfError::from(error).end(seconds))
        })
    }
}

/// One scored image per job, in order; every job is charged its share of the time.
fn paint(shelf: &Shelf, passes: &Passes, jobs: &mut [&mut Job<'_>]) -> Vec<Result<Painted, TaskError>> {
    let Some(first) = jobs.first() else { return Vec::new() };
    let (condition, models) = (first.condition, first.models.clone());
    let failed = |error: Error| ShelfError::from(error).end(PhaseSeconds::default());
    let painted = match passes.find(shelf, condition, &models) {
        Ok(found) => {
            let mut pass = found;
            let painted = pass::run(&mut pass, jobs, &mut |jobs: &mut [&mut Job<'_>], memory| {
                let painted = together(jobs, memory).map_err(failed)?;
                Ok(painted.into_iter().map(|painted| painted.map_err(failed)).collect())
            });
            if pass != found {
                passes.keep(condition, pass);
            }
            painted
        }
        Err(error) => {
            let error = failed(error);
            jobs.iter().map(|_| Err(error.clone())).collect()
        }
    };
    painted
        .into_iter()
        .map(|painted| painted.map_err(|error| passes.explain(error, shelf, condition, &models)))
        .collect()
}

/// One pass through sampler, encoder and probe.
fn together(jobs: &mut [&mut Job<'_>], memory: Memory) -> Result<Vec<Result<Painted, Error>>, Error> {
    let mut seconds = PhaseSeconds::default();
    let samples = timed(&mut seconds.sampling, || sample(jobs, memory));
    let painted = samples.and_then(|samples| {
        let orders: Vec<_> = jobs.iter().map(|job| (&job.order, &job.models)).collect();
        timed(&mut seconds.scoring, || judge(&orders, samples))
    });
    let share = 1.0 / jobs.len() as f64;
    for job in jobs {
        job.seconds.sampling += share * seconds.sampling;
        job.seconds.scoring += share * seconds.scoring;
    }
    painted
}

fn sample(jobs: &[&mut Job<'_>], memory: Memory) -> Result<Vec<Result<Sample, Error>>, Error> {
    let Some(first) = jobs.first() else { return Ok(Vec::new()) };
    let items = jobs.iter().map(|job| job.order.item(&job.models)).collect::<Result<Vec<_>, _>>()?;
    let parameters = Parameters { memory, ..first.order.parameters.clone() };
    let observer = |step: &Step<'_>| {
        jobs.iter().for_each(|job| job.work.control.report(step.index as u32 + 1, step.steps as u32));
        let stopped = jobs.iter().all(|job| job.work.control.is_stopped());
        Ok(if stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    };
    sampler::sample(&first.models.diffusion, &first.models.encoder.backbone, &parameters, &items, observer)
}
