//! What waits for what: conditions that read what other conditions make, and scores that wait for their own image alone.
#![allow(clippy::unwrap_used)]

mod queue_fixture;

use coordinator::plan::{Plan, key};
use coordinator::queue::request::{Cancel, Retry};
use coordinator::queue::view::{self, JobPage, Snapshot, State};
use coordinator::queue::{Filter, Queue};
use protocol::claim::ClaimedJob;
use protocol::ids::{Digest, JobId, Seed, WorkerId};
use protocol::job::{Condition, Input, Kind, MadeFolder, Origin, ScoreCondition};
use protocol::outcome::{Completed, FailureClass, JobResult};
use queue_fixture::*;
use std::path::Path;
use tempfile::tempdir;

/// Scores of every condition of `images`.
fn scores_of(images: &Plan) -> Plan {
    let mut scores = images.clone();
    scores.experiment.name = "scores".to_owned();
    scores.experiment.kind = Kind::Score;
    scores.experiment.needs = vec![images.experiment.name.clone()];
    for condition in &mut scores.conditions {
        let Condition::Sample(sample) = &condition.spec else { panic!("a plan of samples") };
        condition.spec =
            Condition::Score(Box::new(ScoreCondition { images: condition.key.clone(), scored: (**sample).clone() }));
        condition.key = key(&condition.spec);
    }
    scores
}

/// States of an experiment's jobs, by condition and seed.
async fn states(folder: &Path, experiment: &str) -> Vec<State> {
    let reader = view::open(&folder.join("queue.db")).await.unwrap();
    let mut snapshot = Snapshot::take(&reader).await.unwrap();
    let page = JobPage { filter: Filter::experiment(experiment), after: None, limit: 100 };
    let mut jobs = snapshot.jobs(&page).await.unwrap();
    jobs.sort_by_key(|job| (job.condition.0, job.seed.0));
    jobs.into_iter().map(|job| job.state).collect()
}

async fn explanation(folder: &Path, job: JobId) -> String {
    let reader = view::open(&folder.join("queue.db")).await.unwrap();
    let mut snapshot = Snapshot::take(&reader).await.unwrap();
    snapshot.explained(job).await.unwrap().unwrap().1
}

/// Completes a job with an image of its own.
async fn sample(queue: &Queue, worker: WorkerId, job: &ClaimedJob) -> Digest {
    let image = Digest::from_bytes(&[100 + job.job.0 as u8; 32]);
    queue.record_artifact(image.clone(), 1).await.unwrap();
    let result = JobResult::Sample(Box::new(result(image.clone(), 0.5)));
    queue.complete(Completed { result, ..completed(worker, job) }).await.unwrap();
    image
}

#[tokio::test]
async fn a_score_waits_for_its_own_image_and_is_told_which() {
    let folder = tempdir().unwrap();
    let queue = open(folder.path(), &settings()).await;
    let images = plan("images", 2, 3);
    queue.submit(images.clone()).await.unwrap();
    let submitted = queue.submit(scores_of(&images)).await.unwrap();
    assert_eq!((submitted.new_conditions, submitted.new_jobs), (2, 6));
    assert_eq!(states(folder.path(), "scores").await, [State::Blocked; 6]);

    let worker = worker(&queue).await;
    let claimed = queue.claim(claim(worker, 10)).await.unwrap();
    assert_eq!(claimed.jobs.len(), 6, "images only");
    assert_eq!(
        claimed.conditions.iter().map(|known| &known.key).collect::<Vec<_>>(),
        [&images.conditions[0].key, &images.conditions[1].key]
    );
    let second = claimed.jobs.iter().find(|job| job.condition.0 == 1 && job.seed == Seed(1)).unwrap();
    let image = sample(&queue, worker, second).await;
    let mut expected = [State::Blocked; 6];
    expected[1] = State::Ready;
    assert_eq!(states(folder.path(), "scores").await, expected, "the other images are not waited for");

    let score = claim_one(&queue, worker).await;
    let named = score.image.clone().expect("the image to score");
    assert_eq!((score.seed, named.sha256, named.effective_gamma), (Seed(1), image.clone(), 14.0));
    let done = JobResult::Score(Box::new(result(image, 0.25)));
    queue.complete(Completed { result: done, ..completed(worker, &score) }).await.unwrap();

    // One that failed holds nobody up but its own score.
    let third = claimed.jobs.iter().find(|job| job.condition.0 == 1 && job.seed == Seed(2)).unwrap();
    queue.cancel(Cancel::Jobs(vec![third.job])).await.unwrap();
    let first = claimed.jobs.iter().find(|job| job.condition.0 == 1 && job.seed == Seed(0)).unwrap();
    sample(&queue, worker, first).await;
    let expected = [State::Ready, State::Done, State::Blocked, State::Blocked, State::Blocked, State::Blocked];
    assert_eq!(states(folder.path(), "scores").await, expected);
    let waits = "Waits for condition 1 of images (subj01 region0), which it needs: 1 job there is not done; \
                 1 of them failed or were cancelled: see `coordinator jobs --condition 1` and retry them.";
    assert_eq!(explanation(folder.path(), JobId(9)).await, waits);
    queue.retry(Retry::Where(Filter::experiment("scores"))).await.unwrap();
    assert_eq!(states(folder.path(), "scores").await, expected, "a retry does not make the image");
}

#[tokio::test]
async fn scores_submitted_later_begin_with_the_images_that_are_there_and_follow_new_seeds() {
    let folder = tempdir().unwrap();
    let queue = open(folder.path(), &settings()).await;
    let mut images = plan("images", 1, 2);
    queue.submit(images.clone()).await.unwrap();
    let worker = worker(&queue).await;
    let job = claim_one(&queue, worker).await;
    sample(&queue, worker, &job).await;
    queue.submit(scores_of(&images)).await.unwrap();
    assert_eq!(states(folder.path(), "scores").await, [State::Ready, State::Blocked]);

    images.seeds.push(Seed(7));
    let early = queue.submit(scores_of(&images)).await.unwrap();
    assert_eq!(early.new_jobs, 0, "there is no job for that seed's image yet");
    queue.submit(images.clone()).await.unwrap();
    assert_eq!(queue.submit(scores_of(&images)).await.unwrap().new_jobs, 1);
    assert_eq!(states(folder.path(), "scores").await, [State::Ready, State::Blocked, State::Blocked]);
}

/// `images`, of which the first condition reads the encoder that the second condition of `encoders` makes.
fn reading(mut images: Plan, encoders: &Plan) -> Plan {
    images.experiment.needs = vec![encoders.experiment.name.clone()];
    let Condition::Sample(sample) = &mut images.conditions[0].spec else { panic!("a plan of samples") };
    let made_by = Origin { condition: encoders.conditions[1].key.clone(), seed: Seed(0) };
    sample.models.encoder = Input::Made(MadeFolder { path: "/derived/encoder".into(), made_by });
    images
}

#[tokio::test]
async fn a_condition_waits_for_what_makes_its_folder_and_for_nothing_else() {
    let folder = tempdir().unwrap();
    let queue = open(folder.path(), &settings()).await;
    queue.record_artifact(image(), 1).await.unwrap();
    let encoders = plan("encoders", 3, 1);
    queue.submit(encoders.clone()).await.unwrap();
    queue.submit(reading(plan("images", 2, 1), &encoders)).await.unwrap();
    assert_eq!(states(folder.path(), "images").await, [State::Blocked, State::Ready], "the second reads nothing");
    let worker = worker(&queue).await;
    let claimed = queue.claim(claim(worker, 10)).await.unwrap();
    for (job, expected) in
        claimed.jobs.iter().filter(|job| job.condition.0 <= 3).zip([State::Blocked, State::Ready, State::Ready])
    {
        queue.complete(completed(worker, job)).await.unwrap();
        assert_eq!(states(folder.path(), "images").await[0], expected, "after condition {}", job.condition);
    }
}

#[tokio::test]
async fn a_failed_maker_can_be_retried_and_then_what_waits_goes_on() {
    let folder = tempdir().unwrap();
    let queue = open(folder.path(), &settings()).await;
    queue.record_artifact(image(), 1).await.unwrap();
    let encoders = plan("encoders", 2, 1);
    queue.submit(encoders.clone()).await.unwrap();
    queue.submit(reading(plan("images", 1, 2), &encoders)).await.unwrap();
    let worker = worker(&queue).await;
    let claimed = queue.claim(claim(worker, 10)).await.unwrap();
    let maker = claimed.jobs.iter().find(|job| job.condition.0 == 2).unwrap();
    queue.fail(failed(worker, maker, FailureClass::BadInput, "NaN in betas")).await.unwrap();
    assert_eq!(states(folder.path(), "images").await, [State::Blocked; 2]);
    queue.retry(Retry::Jobs(vec![maker.job])).await.unwrap();
    let again = claim_one(&queue, worker).await;
    assert_eq!(again.job, maker.job);
    queue.complete(completed(worker, &again)).await.unwrap();
    assert_eq!(states(folder.path(), "images").await, [State::Ready; 2]);
}
