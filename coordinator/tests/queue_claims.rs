//! Who gets which job when, and what becomes of it.
#![allow(clippy::unwrap_used)]

mod queue_fixture;

use coordinator::queue::request::{Cancel, Retry};
use coordinator::queue::state::State;
use coordinator::queue::{Filter, Queue, QueueError, view};
use protocol::claim::{Claim, Claimed, Never, Register};
use protocol::heartbeat::{Activity, Heartbeat};
use protocol::ids::{ConditionId, Digest, Fence, JobId, Seed, WorkerId};
use protocol::outcome::{Disposition, FailureClass};
use queue_fixture::*;
use std::path::Path;
use std::time::Duration;
use tempfile::{TempDir, tempdir};

const MINUTE: Duration = Duration::from_secs(60);

/// A queue with an image recorded, and its clock.
async fn queue() -> (TempDir, Queue, coordinator::queue::Clock) {
    let folder = tempdir().unwrap();
    let settings = settings();
    let queue = open(folder.path(), &settings).await;
    queue.record_artifact(image(), 1).await.unwrap();
    (folder, queue, settings.clock)
}

async fn states(folder: &Path) -> Vec<State> {
    let pool = view::open(&folder.join("queue.db")).await.unwrap();
    let names: Vec<String> = sqlx::query_scalar("SELECT state FROM job ORDER BY id").fetch_all(&pool).await.unwrap();
    pool.close().await;
    names.iter().map(|name| name.parse().unwrap()).collect()
}

async fn activity(folder: &Path, worker: WorkerId) -> String {
    let pool = view::open(&folder.join("queue.db")).await.unwrap();
    sqlx::query_scalar("SELECT activity FROM worker WHERE id = ?").bind(worker.0).fetch_one(&pool).await.unwrap()
}

/// A long poll that has found nothing and sleeps.
async fn waiting_claim(queue: &Queue, worker: WorkerId) -> tokio::task::JoinHandle<Result<Claimed, QueueError>> {
    let poll = Claim { wait_ms: 30_000, ..claim(worker, 1) };
    let task = tokio::spawn({
        let queue = queue.clone();
        async move { queue.claim(poll).await }
    });
    // The writer serves in order: once this claim is answered, the poll's first look is behind it.
    tokio::task::yield_now().await;
    assert_eq!(queue.claim(claim(worker, 1)).await.unwrap(), Claimed::default());
    task
}

#[tokio::test]
async fn claims_go_by_priority_then_loaded_conditions_then_age() {
    let (_folder, queue, _) = queue().await;
    queue.submit(plan("low", 3, 1)).await.unwrap();
    let mut high = plan("high", 2, 1);
    high.experiment.priority = 5;
    queue.submit(high).await.unwrap();
    let worker = worker(&queue).await;
    let loaded = [ConditionId(3), ConditionId(5), ConditionId(2)];
    let claimed = queue.claim(claim_loaded(worker, 4, &loaded)).await.unwrap();
    let order: Vec<i64> = claimed.jobs.iter().map(|job| job.condition.0).collect();
    assert_eq!(
        order,
        [5, 4, 3, 2],
        "both of priority 5 first, the loaded one before the older; then the loaded low ones"
    );
    let mut listed: Vec<i64> = claimed.conditions.iter().map(|known| known.id.0).collect();
    listed.sort();
    assert_eq!(listed, [2, 3, 4, 5], "every condition once");
}

#[tokio::test]
async fn every_bit_of_a_seed_survives_the_table() {
    let (_folder, queue, _) = queue().await;
    let mut wide = plan("wide", 1, 0);
    wide.seeds = vec![Seed(u64::MAX), Seed(1 << 63), Seed(42)];
    queue.submit(wide.clone()).await.unwrap();
    let worker = worker(&queue).await;
    let mut seeds: Vec<Seed> = queue.claim(claim(worker, 9)).await.unwrap().jobs.iter().map(|job| job.seed).collect();
    seeds.sort();
    wide.seeds.sort();
    assert_eq!(seeds, wide.seeds);
}

#[tokio::test]
async fn a_waiting_claim_gets_a_job_that_is_submitted() {
    let (_folder, queue, _) = queue().await;
    let worker = worker(&queue).await;
    let poll = waiting_claim(&queue, worker).await;
    queue.submit(plan("late", 1, 1)).await.unwrap();
    assert_eq!(poll.await.unwrap().unwrap().jobs.len(), 1);
}

#[tokio::test]
async fn a_waiting_claim_gets_a_job_when_its_backoff_ends() {
    let (_folder, queue, clock) = queue().await;
    queue.submit(plan("flaky", 1, 1)).await.unwrap();
    let worker = worker(&queue).await;
    let job = claim_one(&queue, worker).await;
    queue.fail(failed(worker, &job, FailureClass::Io, "no route to host")).await.unwrap();
    let poll = waiting_claim(&queue, worker).await;
    clock.advance(Duration::from_secs(6));
    let again = poll.await.unwrap().unwrap().jobs;
    assert_eq!((again[0].job, again[0].fence, again[0].attempt), (job.job, Fence(2), 2));
}

#[tokio::test]
async fn a_waiting_claim_returns_empty_at_its_deadline_and_is_refused_when_the_queue_stops() {
    let (_folder, queue, clock) = queue().await;
    let worker = worker(&queue).await;
    let poll = waiting_claim(&queue, worker).await;
    clock.advance(Duration::from_secs(30));
    assert_eq!(poll.await.unwrap().unwrap(), Claimed::default());
    let poll = waiting_claim(&queue, worker).await;
    queue.stop_claims();
    assert!(matches!(poll.await.unwrap(), Err(QueueError::Stopping)));
}

#[tokio::test]
async fn a_failing_command_leaves_the_others_of_its_transaction_alone() {
    let (folder, queue, _) = queue().await;
    queue.submit(plan("batch", 1, 4)).await.unwrap();
    let worker = worker(&queue).await;
    let jobs = queue.claim(claim(worker, 2)).await.unwrap().jobs;
    let mut unknown = completed(worker, &jobs[1]);
    scores(&mut unknown).image_sha256 = Digest::from_bytes(&[9; 32]);
    let half_good = Cancel::Jobs(vec![JobId(3), JobId(99)]);
    let (good, bad, cancel) =
        tokio::join!(queue.complete(completed(worker, &jobs[0])), queue.complete(unknown), queue.cancel(half_good));
    assert_eq!(good.unwrap().disposition, Disposition::Accepted);
    assert!(matches!(bad, Err(QueueError::MissingArtifact { .. })));
    assert!(matches!(cancel, Err(QueueError::NoSuchJob(JobId(99)))));
    assert_eq!(states(folder.path()).await, [State::Done, State::Running, State::Ready, State::Ready]);
}

#[tokio::test]
async fn late_result_with_old_fence_is_superseded_and_kept() {
    let (folder, queue, clock) = queue().await;
    queue.submit(plan("late", 1, 1)).await.unwrap();
    let (slow, fast) = (worker(&queue).await, worker(&queue).await);
    let first = claim_one(&queue, slow).await;
    clock.advance(LEASE);
    assert_eq!(queue.expire().await.unwrap(), [first.job]);
    let second = claim_one(&queue, fast).await;
    assert!(second.fence > first.fence);
    let late = queue.complete(completed(slow, &first)).await.unwrap();
    assert_eq!(late.disposition, Disposition::Superseded);
    assert_eq!(states(folder.path()).await, [State::Running], "the late result changed nothing");
    assert_eq!(queue.complete(completed(fast, &second)).await.unwrap().disposition, Disposition::Accepted);
    assert_eq!(queue.complete(completed(fast, &second)).await.unwrap().disposition, Disposition::Duplicate);
    let pool = view::open(&folder.path().join("queue.db")).await.unwrap();
    let kept: Vec<(i64, i64)> =
        sqlx::query_as("SELECT fence, counted FROM result ORDER BY fence").fetch_all(&pool).await.unwrap();
    assert_eq!(kept, [(first.fence.0, 0), (second.fence.0, 1)]);
}

#[tokio::test]
async fn a_result_under_a_fence_that_was_never_given_is_refused() {
    let (_folder, queue, _) = queue().await;
    queue.submit(plan("forged", 1, 1)).await.unwrap();
    let (holder, other) = (worker(&queue).await, worker(&queue).await);
    let mut job = claim_one(&queue, holder).await;
    let stolen = queue.complete(completed(other, &job)).await;
    assert!(matches!(stolen, Err(QueueError::NeverClaimed { .. })), "{stolen:?}");
    job.fence = Fence(job.fence.0 + 1);
    let forged = queue.complete(completed(holder, &job)).await;
    assert!(matches!(forged, Err(QueueError::NeverClaimed { .. })), "{forged:?}");
}

#[tokio::test]
async fn numbers_that_are_not_finite_are_refused() {
    let (folder, queue, _) = queue().await;
    queue.submit(plan("nan", 1, 1)).await.unwrap();
    let worker = worker(&queue).await;
    let job = claim_one(&queue, worker).await;
    let mut nan = completed(worker, &job);
    scores(&mut nan).roi_activation.insert("OFA".to_owned(), f64::NAN);
    assert!(matches!(queue.complete(nan).await, Err(QueueError::NonFinite { field: "roi_activation", .. })));
    let mut infinite = completed(worker, &job);
    scores(&mut infinite).activation = f64::INFINITY;
    assert!(matches!(queue.complete(infinite).await, Err(QueueError::NonFinite { field: "activation", .. })));
    assert_eq!(states(folder.path()).await, [State::Running]);
}

#[tokio::test]
async fn heartbeats_keep_exactly_what_they_list() {
    let (folder, queue, clock) = queue().await;
    queue.submit(plan("beats", 1, 2)).await.unwrap();
    let worker = worker(&queue).await;
    let jobs = queue.claim(claim(worker, 2)).await.unwrap().jobs;
    clock.advance(LEASE / 2);
    let reply = queue.heartbeat(heartbeat(worker, &[&jobs[0]])).await.unwrap();
    assert_eq!(reply, Default::default());
    clock.advance(LEASE / 2);
    assert_eq!(queue.expire().await.unwrap(), [jobs[1].job]);
    let reply = queue.heartbeat(heartbeat(worker, &[&jobs[0], &jobs[1]])).await.unwrap();
    assert_eq!((reply.cancelled, reply.lost), (vec![], vec![jobs[1].job]));
    assert_eq!(states(folder.path()).await, [State::Running, State::Ready]);
}

#[tokio::test]
async fn a_worker_that_says_nothing_is_silent_until_it_speaks_again() {
    let (folder, queue, clock) = queue().await;
    let worker = worker(&queue).await;
    clock.advance(LEASE);
    queue.expire().await.unwrap();
    assert_eq!(activity(folder.path(), worker).await, "silent");
    queue.heartbeat(heartbeat(worker, &[])).await.unwrap();
    assert_eq!(activity(folder.path(), worker).await, "working");
}

#[tokio::test]
async fn a_worker_that_leaves_gives_back_what_it_never_knew_it_had() {
    let (folder, queue, _) = queue().await;
    queue.submit(plan("gone", 1, 1)).await.unwrap();
    let worker = worker(&queue).await;
    claim_one(&queue, worker).await;
    let last = Heartbeat { worker, activity: Activity::Gone, held: Vec::new() };
    queue.heartbeat(last).await.unwrap();
    assert_eq!(states(folder.path()).await, [State::Ready]);
    assert_eq!(activity(folder.path(), worker).await, "gone");
}

#[tokio::test]
async fn a_claim_that_still_waits_when_its_worker_drains_gets_nothing() {
    let (folder, queue, _) = queue().await;
    let worker = worker(&queue).await;
    let poll = waiting_claim(&queue, worker).await;
    let drains = Heartbeat { worker, activity: Activity::Draining, held: Vec::new() };
    queue.heartbeat(drains).await.unwrap();
    queue.submit(plan("drains", 1, 1)).await.unwrap();
    assert_eq!(queue.claim(claim(worker, 1)).await.unwrap(), Claimed::default());
    assert_eq!(states(folder.path()).await, [State::Ready]);
    queue.stop_claims();
    assert!(matches!(poll.await.unwrap(), Err(QueueError::Stopping)));
}

#[tokio::test]
async fn a_heartbeat_that_crosses_the_workers_own_result_or_failure_calls_nothing_lost() {
    let (_folder, queue, _) = queue().await;
    queue.submit(plan("crossing", 1, 3)).await.unwrap();
    let worker = worker(&queue).await;
    let jobs = queue.claim(claim(worker, 3)).await.unwrap().jobs;
    queue.complete(completed(worker, &jobs[0])).await.unwrap();
    queue.fail(failed(worker, &jobs[1], FailureClass::Io, "no file")).await.unwrap();
    let reply = queue.heartbeat(heartbeat(worker, &[&jobs[0], &jobs[1], &jobs[2]])).await.unwrap();
    assert_eq!(reply, Default::default());
}

#[tokio::test]
async fn a_worker_of_a_database_that_was_replaced_is_a_stranger_to_its_successor() {
    let (_former, former, _) = queue().await;
    let (_folder, queue, _) = queue().await;
    let stranger = worker(&former).await;
    let native = worker(&queue).await;
    queue.submit(plan("successor", 1, 1)).await.unwrap();
    let job = claim_one(&queue, native).await;
    let refused = queue.complete(completed(stranger, &job)).await;
    assert!(matches!(refused, Err(QueueError::UnknownWorker(worker)) if worker == stranger), "{refused:?}");
    assert_eq!(queue.register(register("next")).await.unwrap().worker.0, native.0 + 1, "numbers that people can read");
}

#[tokio::test]
async fn a_cancelled_job_is_heard_of_at_the_next_heartbeat_and_its_result_does_not_count() {
    let (folder, queue, _) = queue().await;
    queue.submit(plan("stop", 2, 1)).await.unwrap();
    let worker = worker(&queue).await;
    let job = claim_one(&queue, worker).await;
    let condition = Cancel::Where(Filter::experiment("stop").and_condition(job.condition));
    assert_eq!(queue.cancel(condition).await.unwrap().jobs, 1);
    let reply = queue.heartbeat(heartbeat(worker, &[&job])).await.unwrap();
    assert_eq!((reply.cancelled, reply.lost), (vec![job.job], vec![]));
    let late = queue.complete(completed(worker, &job)).await.unwrap();
    assert_eq!(late.disposition, Disposition::Superseded);
    assert_eq!(states(folder.path()).await, [State::Cancelled, State::Ready]);
}

#[tokio::test]
async fn a_job_fails_when_its_attempts_are_used_up_or_the_same_failure_comes_twice() {
    let (folder, queue, clock) = queue().await;
    queue.submit(plan("retry", 1, 2)).await.unwrap();
    let worker = worker(&queue).await;
    for (attempt, message) in ["one", "two", "three"].into_iter().enumerate() {
        for job in queue.claim(claim(worker, 2)).await.unwrap().jobs {
            let message = if job.job == JobId(1) { message } else { "again" };
            queue.fail(failed(worker, &job, FailureClass::Bug, message)).await.unwrap();
        }
        let expected = match attempt {
            0 => [State::Ready, State::Ready],
            1 => [State::Ready, State::Failed],
            _ => [State::Failed, State::Failed],
        };
        assert_eq!(states(folder.path()).await, expected, "after attempt {}", attempt + 1);
        clock.advance(10 * MINUTE);
    }
}

#[tokio::test]
async fn bad_input_blocks_the_condition_until_somebody_retries() {
    let (folder, queue, _) = queue().await;
    queue.submit(plan("missing", 2, 3)).await.unwrap();
    let worker = worker(&queue).await;
    let job = claim_one(&queue, worker).await;
    queue.fail(failed(worker, &job, FailureClass::BadInput, "no such file: head.safetensors")).await.unwrap();
    use State::*;
    assert_eq!(states(folder.path()).await, [Failed, Blocked, Blocked, Ready, Ready, Ready]);
    let changed = queue.retry(Retry::Jobs(vec![job.job])).await.unwrap();
    assert_eq!(changed.jobs, 3);
    assert_eq!(states(folder.path()).await, [Ready; 6]);
}

#[tokio::test]
async fn an_outage_of_the_coordinator_costs_no_worker_its_jobs() {
    let (folder, queue, clock) = queue().await;
    queue.submit(plan("outage", 1, 1)).await.unwrap();
    let worker = worker(&queue).await;
    let job = claim_one(&queue, worker).await;
    queue.close().await;
    clock.advance(100 * MINUTE);
    let restarted = open(folder.path(), &coordinator::queue::Settings { clock: clock.clone(), ..settings() }).await;
    restarted.renew_all_leases().await.unwrap();
    assert_eq!(restarted.expire().await.unwrap(), []);
    let closed = restarted.complete(completed(worker, &job)).await.unwrap();
    assert_eq!(closed.disposition, Disposition::Accepted);
}

#[tokio::test]
async fn a_lease_from_a_longer_setting_or_a_fast_clock_does_not_outlive_a_restart() {
    let (folder, queue, clock) = queue().await;
    queue.submit(plan("restart", 1, 1)).await.unwrap();
    let worker = worker(&queue).await;
    let job = claim_one(&queue, worker).await;
    queue.close().await;
    let shorter = coordinator::queue::Settings { clock: clock.clone(), lease: LEASE / 10, ..settings() };
    let restarted = open(folder.path(), &shorter).await;
    restarted.renew_all_leases().await.unwrap();
    clock.advance(LEASE / 10);
    assert_eq!(restarted.expire().await.unwrap(), [job.job]);
}

#[tokio::test]
async fn watchers_hear_of_commits_that_change_something_and_of_no_others() {
    let (_folder, queue, _) = queue().await;
    let worker = worker(&queue).await;
    let mut changes = queue.changes();
    changes.mark_unchanged();
    queue.claim(claim(worker, 1)).await.unwrap();
    assert!(!changes.has_changed().unwrap(), "an empty claim changes nothing");
    queue.submit(plan("news", 1, 1)).await.unwrap();
    assert!(changes.has_changed().unwrap());
}

#[tokio::test]
async fn a_card_that_failed_is_known_wherever_it_is_plugged_in() {
    let (_folder, queue, _) = queue().await;
    queue.submit(plan("small", 1, 3)).await.unwrap();
    let card = |host: &str, device: &str, uuid: &str| Register {
        host: host.to_owned(),
        device: device.to_owned(),
        device_uuid: Some(uuid.to_owned()),
        ..register(host)
    };
    let failing = queue.register(card("node01", "cuda:0", "GPU-7c1e")).await.unwrap().worker;
    let job = claim_one(&queue, failing).await;
    queue.fail(failed(failing, &job, FailureClass::DeviceFault, "Xid 79")).await.unwrap();
    let moved = queue.register(card("node02", "cuda:3", "GPU-7c1e")).await.unwrap().worker;
    let never = queue.claim(claim(moved, 1)).await.unwrap().never;
    assert_eq!(never, Some(Never::Quarantined("Xid 79".to_owned())));
    let other = queue.register(card("node01", "cuda:0", "GPU-a552")).await.unwrap().worker;
    claim_one(&queue, other).await;
}
