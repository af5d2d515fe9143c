//! Submitting again adds what is new and nothing else; the schema refuses what the state machine would not write.
#![allow(clippy::unwrap_used)]

mod queue_fixture;

use coordinator::queue::request::Cancel;
use coordinator::queue::{Filter, QueueError, open_database, view};
use protocol::ids::{Digest, Seed};
use protocol::job::Condition;
use queue_fixture::*;
use tempfile::tempdir;

#[tokio::test]
async fn submitting_again_adds_only_what_is_new_and_a_preview_says_so_before() {
    let folder = tempdir().unwrap();
    let queue = open(folder.path(), &settings()).await;
    let mut campaign = plan("campaign", 2, 3);
    let preview = queue.preview(campaign.clone()).await.unwrap();
    assert_eq!((preview.exists, preview.new_conditions, preview.new_jobs), (None, 2, 6));
    let first = queue.submit(campaign.clone()).await.unwrap();
    assert!(first.created);
    assert_eq!((first.new_conditions, first.new_jobs, first.existing_jobs, first.unlisted_conditions), (2, 6, 0, 0));

    let again = queue.submit(campaign.clone()).await.unwrap();
    assert!(!again.created);
    assert_eq!(again.experiment, first.experiment);
    assert_eq!((again.new_conditions, again.new_jobs, again.existing_jobs), (0, 0, 6));

    campaign.seeds.push(Seed(99));
    campaign.conditions[1].key = Digest::from_bytes(&[200; 32]);
    let preview = queue.preview(campaign.clone()).await.unwrap();
    let changed = queue.submit(campaign).await.unwrap();
    assert_eq!((changed.new_conditions, changed.new_jobs), (1, 5));
    assert_eq!(
        (changed.existing_jobs, changed.unlisted_conditions),
        (3, 1),
        "the replaced condition stays and is told of"
    );
    assert_eq!(preview.exists, Some(first.experiment));
    assert_eq!(
        (preview.new_conditions, preview.new_jobs, preview.existing_jobs, preview.unlisted_conditions),
        (changed.new_conditions, changed.new_jobs, changed.existing_jobs, changed.unlisted_conditions)
    );
}

#[tokio::test]
async fn a_preview_measures_finished_images() {
    let folder = tempdir().unwrap();
    let queue = open(folder.path(), &settings()).await;
    queue.record_artifact(image(), 1).await.unwrap();
    queue.submit(plan("timed", 1, 2)).await.unwrap();
    assert_eq!(queue.preview(plan("timed", 1, 2)).await.unwrap().measured_seconds_per_image, None);
    let worker = worker(&queue).await;
    let job = claim_one(&queue, worker).await;
    queue.complete(completed(worker, &job)).await.unwrap();
    assert_eq!(queue.preview(plan("timed", 1, 2)).await.unwrap().measured_seconds_per_image, Some(10.0));
}

#[tokio::test]
async fn a_moved_folder_reaches_the_workers_without_a_new_condition() {
    let folder = tempdir().unwrap();
    let queue = open(folder.path(), &settings()).await;
    let mut moved = plan("moved", 1, 1);
    queue.submit(moved.clone()).await.unwrap();
    let Condition::Sample(sample) = &mut moved.conditions[0].spec else { panic!("a plan of samples") };
    sample.models.backbone.path = "/elsewhere/clip".into();
    moved.experiment.priority = 9;
    assert_eq!(queue.submit(moved.clone()).await.unwrap().new_conditions, 0);
    let worker = worker(&queue).await;
    let claimed = queue.claim(claim(worker, 1)).await.unwrap();
    assert_eq!(claimed.conditions[0].spec, moved.conditions[0].spec);
    let pool = view::open(&folder.path().join("queue.db")).await.unwrap();
    let priority: i64 = sqlx::query_scalar("SELECT priority FROM experiment").fetch_one(&pool).await.unwrap();
    assert_eq!(priority, 9, "jobs that wait follow the file's priority");
}

#[tokio::test]
async fn a_misspelt_experiment_is_answered_with_the_nearest_name() {
    let folder = tempdir().unwrap();
    let queue = open(folder.path(), &settings()).await;
    queue.submit(plan("ofa_ffa", 1, 1)).await.unwrap();
    let error = queue.cancel(Cancel::Where(Filter::experiment("ofa_fa"))).await.unwrap_err();
    assert!(matches!(&error, QueueError::NoSuchExperiment { nearest: Some(name), .. } if name == "ofa_ffa"), "{error}");
}

#[tokio::test]
async fn an_illegal_row_cannot_be_written() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("queue.db");
    let queue = open(folder.path(), &settings()).await;
    queue.record_artifact(image(), 1).await.unwrap();
    queue.submit(plan("illegal", 1, 2)).await.unwrap();
    let worker = worker(&queue).await;
    let job = claim_one(&queue, worker).await;
    queue.complete(completed(worker, &job)).await.unwrap();
    queue.close().await;
    let mut connection = open_database(&path).await.unwrap();
    for illegal in [
        "UPDATE job SET state = 'running'",
        "UPDATE job SET state = 'waiting'",
        "UPDATE job SET worker_id = 1",
        "UPDATE job SET fence = fence - 1 WHERE fence > 0",
        "UPDATE job SET state = 'done' WHERE fence = 0",
        "UPDATE attempt SET outcome = 'running'",
        "UPDATE attempt SET class = 'io'",
        "INSERT INTO result SELECT NULL, job_id, condition_id, 2, 1, worker_id, image_sha256, 0, 0, '', '{}', 0 FROM result",
        "UPDATE result SET image_sha256 = 'none'",
    ] {
        assert!(sqlx::query(illegal).execute(&mut connection).await.is_err(), "{illegal}");
    }
}

#[tokio::test]
async fn readers_cannot_write_and_a_missing_database_is_named() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("queue.db");
    assert!(view::open(&path).await.unwrap_err().to_string().contains("queue.db"));
    let _queue = open(folder.path(), &settings()).await;
    let pool = view::open(&path).await.unwrap();
    assert!(sqlx::query("DELETE FROM job").execute(&pool).await.is_err());
}
