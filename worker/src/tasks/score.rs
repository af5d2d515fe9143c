//! Jobs that score an image of another job with other models: what encoder and probe say of the very file that is stored.

use super::models::{Shelf, ShelfError, digests};
use super::objective::resolve;
use super::sample::timed;
use super::scores::{Judging, Scores};
use super::{Computed, Product, TaskError, Work};
use protocol::job::ScoreCondition;
use protocol::outcome::{FailureClass, JobResult, PhaseSeconds, SampleResult};
use protocol::version::SOFTWARE;
use subject::image::png;

/// Runs one job, whose image has been fetched.
pub fn run(shelf: &Shelf, device: &str, work: &Work, condition: &ScoreCondition) -> Result<Computed, TaskError> {
    let (Some(named), Some(file)) = (&work.job.image, &work.image) else {
        let message = "the coordinator did not say which image to score".to_owned();
        return Err(TaskError::Failed { class: FailureClass::Bug, message, seconds: PhaseSeconds::default() });
    };
    let scored = &condition.scored;
    let mut seconds = PhaseSeconds::default();
    let judged = timed(&mut seconds.loading, || -> Result<_, ShelfError> {
        let (encoder, probe) = shelf.judges(scored)?;
        let objective = resolve(&scored.objective, &scored.region, &encoder)?;
        // Names rows that the head lacks, as guidance would.
        objective.target(&encoder.head)?;
        Ok((encoder, probe, objective, digests(&scored.models)?))
    });
    let (encoder, probe, objective, models) = judged.map_err(|error| error.end(seconds))?;
    let scores = timed(&mut seconds.scoring, || -> Result<_, braindive::Error> {
        let (image, _) = png::decode(file)?;
        let (encoder, probe) = (&*encoder, &*probe);
        let judging = Judging { image: &image, encoder, probe, objective: &objective, classes: &scored.probes };
        Scores::of(&[judging])?.remove(0)
    });
    let Scores { activation, roi_activation, probe } = scores.map_err(|error| ShelfError::from(error).end(seconds))?;
    work.control.report(1, 1);
    let result = SampleResult {
        image_sha256: named.sha256.clone(),
        activation,
        roi_activation,
        probe,
        models: models
            .into_iter()
            .filter(|(role, _)| *role != "diffusion")
            .map(|(role, digest)| (role.to_owned(), digest))
            .collect(),
        effective_gamma: named.effective_gamma,
        seconds,
        device: device.to_owned(),
        deviations: Vec::new(),
        software: SOFTWARE.to_owned(),
    };
    let product = Product { png: None, result: JobResult::Score(Box::new(result)) };
    Ok(Computed::new(seconds, || Ok(product)))
}
