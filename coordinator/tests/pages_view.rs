//! What the read-only queries promise: exact numbers, right order, index use.
#![allow(clippy::unwrap_used)]

mod pages_fixture;

use coordinator::queue::Filter;
use coordinator::queue::view::{JobPage, Snapshot, State, ViewError};
use pages_fixture::{Fixture, NOW, digest};
use protocol::ids::{ConditionId, JobId};

async fn campaign() -> Fixture {
    Fixture::campaign(|region, seed| digest(&format!("image {region} {seed}"))).await
}

#[tokio::test]
async fn experiment_counts_equal_a_recount_of_the_jobs() {
    let fixture = campaign().await;
    let mut snapshot = Snapshot::at(&fixture.reader, NOW).await.unwrap();
    let experiments = snapshot.experiments().await.unwrap();
    let [experiment] = experiments.as_slice() else { panic!("one experiment, found {}", experiments.len()) };
    for state in State::ALL {
        let recount: u64 = sqlx::query_scalar("SELECT count(*) FROM job WHERE state = ?")
            .bind(state.as_str())
            .fetch_one(&fixture.reader)
            .await
            .unwrap();
        assert_eq!(experiment.counts.of(state), recount, "{state}");
    }
    assert_eq!(experiment.counts.total(), 160);
    assert_eq!(experiment.counts.done, 120);
    let conditions = snapshot.conditions(Some(experiment.id)).await.unwrap();
    assert_eq!(conditions.len(), 10);
    assert_eq!(conditions.iter().map(|c| c.counts.done).sum::<u64>(), 120);
    assert_eq!(conditions[0].axes.to_string(), "γ 14");
}

#[tokio::test]
async fn gpu_time_is_slot_time_by_outcome_and_running_attempts_count_up_to_their_last_heartbeat() {
    let fixture = campaign().await;
    let mut snapshot = Snapshot::at(&fixture.reader, NOW).await.unwrap();
    let spent = snapshot.experiments().await.unwrap()[0].gpu_seconds;
    assert_eq!(spent.useful, 120.0 * 45.0);
    assert_eq!(spent.wasted, 3.0 * 2.0 + 40.0);
    assert_eq!(spent.running, 2.0 * 18.0);

    let mut fixture = Fixture::empty().await;
    let experiment = fixture.experiment("batched", None).await;
    let condition = fixture.condition(experiment, "s", "face", 1.0).await;
    let (worker, job) = (fixture.worker("node/cuda:0", 4).await, fixture.job(condition, 0).await);
    fixture.claim(job, worker, 0).await;
    fixture.complete(job, 40, 1.0, "face", &digest("a")).await;
    let spent = Snapshot::at(&fixture.reader, NOW).await.unwrap().experiments().await.unwrap()[0].gpu_seconds;
    assert_eq!(spent.useful, 10.0, "one of four slots for 40 s");
}

#[tokio::test]
async fn the_rate_of_images_counts_from_the_first_one_of_its_window() {
    let mut fixture = Fixture::empty().await;
    let experiment = fixture.experiment("x", None).await;
    let condition = fixture.condition(experiment, "s", "face", 1.0).await;
    let worker = fixture.worker("node/cpu", 1).await;
    fixture.at(NOW - 100_000);
    for seed in 0..6 {
        let job = fixture.job(condition, seed).await;
        fixture.claim(job, worker, 0).await;
        fixture.complete(job, 10, 1.0, "face", &digest(&seed.to_string())).await;
    }
    let mut snapshot = Snapshot::at(&fixture.reader, NOW).await.unwrap();
    assert_eq!(snapshot.images_per_hour(600_000).await.unwrap(), Some(200.0), "5 more in the 90 s since the first");
    assert_eq!(snapshot.images_per_hour(45_000).await.unwrap(), None, "one image says nothing of a rate");
}

#[tokio::test]
async fn failures_are_grouped_by_class_and_message_and_the_newest_group_is_first() {
    let fixture = campaign().await;
    let groups = Snapshot::at(&fixture.reader, NOW).await.unwrap().failures().await.unwrap();
    let told: Vec<(String, u64)> = groups.iter().map(|g| (g.class.to_string(), g.attempts)).collect();
    assert_eq!(told, [("out_of_memory".to_owned(), 1), ("bad_input".to_owned(), 3)]);
    assert_eq!(groups[0].last_at, NOW - 30_000);
}

#[tokio::test]
async fn pages_of_jobs_meet_without_gap_or_overlap_for_every_filter() {
    let fixture = campaign().await;
    let mut snapshot = Snapshot::at(&fixture.reader, NOW).await.unwrap();
    let filters = [
        ("", 160),
        ("state=done", 120),
        ("state=failed", 3),
        ("condition=2", 16),
        ("experiment=miniature state=ready", 35),
        ("experiment=other", 0),
        ("state!=done", 40),
        ("gamma=14", 80),
        ("gamma!=14 seed=3-5", 15),
        ("region~AC subject=sim01", 32),
        ("class=bad_input", 3),
        ("state!=done class!=bad_input", 37),
        ("message~\"cuda out\"", 1),
        ("message='no such thing'", 0),
        ("worker=node08/cuda:1 state=failed", 3),
        ("job=1-20", 20),
        ("steps=50", 0),
    ];
    for (filter, expected) in filters {
        let mut seen = std::collections::BTreeSet::new();
        let mut after = None;
        loop {
            let page = snapshot.jobs(&JobPage { filter: filter.parse().unwrap(), after, limit: 7 }).await.unwrap();
            assert!(page.iter().all(|job| seen.insert(job.id)), "a job is on two pages");
            match page.last() {
                Some(last) => after = Some(last.id),
                None => break,
            }
        }
        assert_eq!(seen.len(), expected, "{filter:?}");
    }
}

#[tokio::test]
async fn top_bottom_and_newest_images_come_in_their_order() {
    let fixture = campaign().await;
    let mut snapshot = Snapshot::at(&fixture.reader, NOW).await.unwrap();
    let condition = ConditionId(1);
    let top = snapshot.top_of(condition, 5).await.unwrap();
    let bottom = snapshot.bottom_of(condition, 5).await.unwrap();
    let newest = snapshot.newest_of(condition, 5).await.unwrap();
    assert!(top.is_sorted_by(|a, b| a.activation >= b.activation));
    assert!(bottom.is_sorted_by(|a, b| a.activation <= b.activation));
    assert!(newest.is_sorted_by(|a, b| a.created_at >= b.created_at));
    assert!(top[0].activation > bottom[0].activation);
    let best = snapshot.best_of_each(protocol::ids::ExperimentId(1)).await.unwrap();
    assert_eq!(best.len(), 10);
    assert_eq!(best[0].job, top[0].job);
}

#[tokio::test]
async fn a_worker_shows_the_jobs_that_it_holds() {
    let fixture = campaign().await;
    let workers = Snapshot::at(&fixture.reader, NOW).await.unwrap().workers(0).await.unwrap();
    let told: Vec<(&str, Vec<u32>)> =
        workers.iter().map(|w| (w.name.as_str(), w.running.iter().map(|r| r.step).collect())).collect();
    assert_eq!(told, [("node07/cuda:0", vec![21]), ("node08/cuda:1", vec![43])]);
}

#[tokio::test]
async fn every_state_of_a_job_has_its_sentence() {
    let mut fixture = campaign().await;
    let sentence = async |fixture: &Fixture, id: i64| {
        let mut snapshot = Snapshot::at(&fixture.reader, NOW).await.unwrap();
        snapshot.explained(JobId(id)).await.unwrap().unwrap().1
    };
    let first = async |fixture: &Fixture, state: State| {
        let filter = JobPage { filter: Filter::default().and_state(state), after: None, limit: 2 };
        let jobs = Snapshot::at(&fixture.reader, NOW).await.unwrap().jobs(&filter).await.unwrap();
        jobs.iter().map(|job| job.id.0).collect::<Vec<_>>()
    };
    let running = first(&fixture, State::Running).await[0];
    assert_eq!(
        sentence(&fixture, running).await,
        "Runs on node07/cuda:0 for 18 s, step 21 of 50; its lease holds for another 42 s."
    );
    let done = first(&fixture, State::Done).await[0];
    assert_eq!(sentence(&fixture, done).await, "Done on node07/cuda:0 at 2026-03-14 13:10:11 UTC, in 45 s.");
    let failed = first(&fixture, State::Failed).await[0];
    assert_eq!(
        sentence(&fixture, failed).await,
        format!(
            "Failed for good after 1 of 3 attempts: bad_input: reading head.safetensors of sim01: 812 bytes, expected \
             1,048,576; copy the file again. Mend the cause, then `coordinator retry {failed}`."
        )
    );
    let [waiting, ready] = first(&fixture, State::Ready).await[..] else { panic!("two ready jobs") };
    assert_eq!(
        sentence(&fixture, waiting).await,
        "Waits 30 s more before attempt 2 of 3, because the last one failed: out_of_memory: CUDA out of memory: tried 512 \
         MiB, 210 MiB free."
    );
    assert_eq!(sentence(&fixture, ready).await, "Ready: it is the next to be claimed, and 2 workers claim jobs now.");
    fixture.at(NOW);
    fixture.leave(ready, "cancelled", 0).await;
    assert_eq!(
        sentence(&fixture, ready).await,
        format!("Cancelled at 2026-03-14 15:09:26 UTC. `coordinator retry {ready}` makes it ready again.")
    );
    fixture.leave(ready, "blocked", 0).await;
    fixture.run("UPDATE condition SET breaker = 'open'", |q| q).await;
    let blocked = sentence(&fixture, ready).await;
    assert!(blocked.starts_with("Held back by bad input: its condition cannot be read"), "{blocked}");
    fixture.leave(ready, "ready", 0).await;
    fixture.run("UPDATE worker SET activity = 'silent'", |q| q).await;
    assert!(sentence(&fixture, ready).await.starts_with("Waits for a worker: none claims jobs now."));
    fixture.run("UPDATE job SET lease_until = 1 WHERE state = 'running'", |q| q).await;
    assert!(sentence(&fixture, running).await.contains("its lease has run out"));
}

#[tokio::test]
async fn a_missing_database_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let error = coordinator::queue::view::open(&folder.path().join("none.db")).await.unwrap_err();
    assert!(matches!(error, ViewError::NoDatabase(_)));
    assert!(error.to_string().contains("coordinator serve"), "{error}");
}
