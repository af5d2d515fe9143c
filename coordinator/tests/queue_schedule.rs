//! Who gets which job: shares, deadlines, kinds, claims ahead of need, and what a job is charged.
#![allow(clippy::unwrap_used)]

mod queue_fixture;

use coordinator::queue::{Clock, Queue, view};
use protocol::claim::{Claim, Claimed, Never, Register};
use protocol::heartbeat::{Activity, Heartbeat};
use protocol::ids::{ConditionId, WorkerId};
use protocol::job::{Condition, Kind, Precision};
use protocol::outcome::{Disposition, FailureClass};
use queue_fixture::*;
use sqlx::SqlitePool;
use std::collections::BTreeSet;
use std::time::Duration;
use tempfile::{TempDir, tempdir};

struct Bench {
    queue: Queue,
    clock: Clock,
    pool: SqlitePool,
    _folder: TempDir,
}

async fn bench() -> Bench {
    let folder = tempdir().unwrap();
    let settings = settings();
    let queue = open(folder.path(), &settings).await;
    queue.record_artifact(image(), 1).await.unwrap();
    let pool = view::open(&folder.path().join("queue.db")).await.unwrap();
    Bench { queue, clock: settings.clock, pool, _folder: folder }
}

impl Bench {
    async fn submit(&self, name: &str, jobs: u64, share: f64) {
        let mut plan = plan(name, 1, jobs);
        plan.experiment.share = share;
        self.queue.submit(plan).await.unwrap();
    }

    /// Which experiment the worker's next job is of; the job takes `seconds`.
    async fn serve(&self, worker: WorkerId, seconds: impl Fn(&str) -> f64) -> String {
        let job = claim_one(&self.queue, worker).await;
        let name: String = sqlx::query_scalar(
            "SELECT name FROM experiment JOIN job ON job.experiment_id = experiment.id WHERE job.id = ?",
        )
        .bind(job.job.0)
        .fetch_one(&self.pool)
        .await
        .unwrap();
        let took = seconds(&name);
        self.clock.advance(Duration::from_secs_f64(took));
        let mut done = completed(worker, &job);
        *done.result.seconds_mut() = protocol::outcome::PhaseSeconds { sampling: took, ..Default::default() };
        assert_eq!(self.queue.complete(done).await.unwrap().disposition, Disposition::Accepted);
        name
    }

    async fn number(&self, sql: &'static str) -> f64 {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap()
    }
}

#[tokio::test]
async fn experiments_of_one_priority_share_device_time_by_weight() {
    let bench = bench().await;
    bench.submit("short", 400, 1.0).await;
    bench.submit("long", 400, 1.0).await;
    bench.submit("heavy", 400, 2.0).await;
    let worker = worker(&bench.queue).await;
    let seconds = |name: &str| match name {
        "short" => 2.0,
        "long" => 20.0,
        _ => 5.0,
    };
    let (mut used, mut total) = (std::collections::BTreeMap::<String, f64>::new(), 0.0);
    while total < 1_500.0 {
        let name = bench.serve(worker, seconds).await;
        *used.entry(name.clone()).or_default() += seconds(&name);
        total += seconds(&name);
    }
    for (name, weight) in [("short", 0.25), ("long", 0.25), ("heavy", 0.5)] {
        assert!((used[name] / total - weight).abs() < 0.03, "{used:?}");
    }
}

#[tokio::test]
async fn an_experiment_submitted_late_takes_turns_from_then_on() {
    let bench = bench().await;
    bench.submit("early", 200, 1.0).await;
    let worker = worker(&bench.queue).await;
    for _ in 0..50 {
        bench.serve(worker, |_| 10.0).await;
    }
    bench.submit("late", 200, 1.0).await;
    let mut late = 0;
    for _ in 0..40 {
        late += usize::from(bench.serve(worker, |_| 10.0).await == "late");
    }
    assert!((18..=24).contains(&late), "{late} of 40");
}

#[tokio::test]
async fn a_claim_takes_nothing_that_its_worker_cannot_finish() {
    let bench = bench().await;
    bench.submit("slow", 50, 1.0).await;
    let measuring = worker(&bench.queue).await;
    let before = |remaining_ms| Claim { remaining_ms: Some(remaining_ms), ..claim(measuring, 1) };
    let first = bench.queue.claim(before(1_000)).await.unwrap();
    assert_eq!(first.jobs.len(), 1, "nobody knows yet how long a job takes");
    for _ in 0..20 {
        bench.serve(measuring, |_| 30.0).await;
    }
    let asked = async |remaining_ms: u64, ahead: bool| {
        bench.queue.claim(Claim { ahead, ..before(remaining_ms) }).await.unwrap()
    };
    let none = asked(25_000, false).await;
    assert_eq!((none.jobs.len(), none.never), (0, Some(Never::Deadline)));
    assert_eq!(asked(34_000, false).await.jobs.len(), 1);
    let ahead = asked(34_000, true).await;
    assert_eq!((ahead.jobs.len(), ahead.never), (0, None), "what runs now comes first");
    assert_eq!(asked(70_000, true).await.jobs.len(), 1);
}

#[tokio::test]
async fn a_worker_is_given_only_kinds_that_it_can_do() {
    let bench = bench().await;
    bench.submit("samples", 1, 1.0).await;
    let simulating = Register { kinds: vec![Kind::Simulate], ..register("node02/cpu") };
    let simulating = bench.queue.register(simulating).await.unwrap().worker;
    assert_eq!(bench.queue.claim(claim(simulating, 1)).await.unwrap(), Claimed::default());
    assert_eq!(bench.queue.claim(claim(worker(&bench.queue).await, 1)).await.unwrap().jobs.len(), 1);
}

#[tokio::test]
async fn a_worker_is_given_only_precisions_that_its_device_computes_in() {
    let bench = bench().await;
    let mut mixed = plan("mixed", 3, 2);
    for (condition, precision) in mixed.conditions.iter_mut().zip([Precision::Bfloat16, Precision::Half]) {
        let Condition::Sample(sample) = &mut condition.spec else { panic!("it samples") };
        sample.sampling.precision = precision;
    }
    bench.queue.submit(mixed).await.unwrap();
    let v100 = Register { precisions: vec![Precision::Single, Precision::Half], ..register("node02/cuda:0") };
    let v100 = bench.queue.register(v100).await.unwrap().worker;
    let asked = Claim { loaded: vec![ConditionId(2)], ..claim(v100, 1) };
    assert_eq!(bench.queue.claim(asked).await.unwrap().jobs[0].condition, ConditionId(2), "what is loaded first");
    let given = bench.queue.claim(claim(v100, 10)).await.unwrap();
    let conditions: BTreeSet<_> = given.jobs.iter().map(|job| job.condition.0).collect();
    assert_eq!((given.jobs.len(), conditions), (3, BTreeSet::from([2, 3])), "never behind what it can't do");
    assert_eq!(bench.queue.claim(claim(v100, 10)).await.unwrap(), Claimed::default());

    // A job that failed comes back to who can do it, too.
    let h100 = worker(&bench.queue).await;
    let job = claim_one(&bench.queue, h100).await;
    assert_eq!(job.condition, ConditionId(1));
    bench.queue.fail(failed(h100, &job, FailureClass::Io, "the disk is away")).await.unwrap();
    bench.clock.advance(Duration::from_secs(3600));
    assert_eq!(bench.queue.claim(claim(v100, 10)).await.unwrap(), Claimed::default());
    assert_eq!(bench.queue.claim(claim(h100, 10)).await.unwrap().jobs.len(), 2);
}

#[tokio::test]
async fn a_claim_ahead_of_need_leaves_the_last_jobs_to_idle_workers() {
    let bench = bench().await;
    bench.submit("few", 3, 1.0).await;
    let (busy, idle) = (worker(&bench.queue).await, worker(&bench.queue).await);
    let ahead = |worker| Claim { ahead: true, ..claim(worker, 1) };
    assert_eq!(bench.queue.claim(ahead(busy)).await.unwrap().jobs.len(), 1, "three jobs for two slots");
    assert_eq!(bench.queue.claim(ahead(busy)).await.unwrap().jobs.len(), 0, "two jobs for two slots");
    assert_eq!(bench.queue.claim(claim(idle, 1)).await.unwrap().jobs.len(), 1);
}

#[tokio::test]
async fn a_worker_that_finds_how_many_jobs_it_holds_counts_for_as_many() {
    let bench = bench().await;
    bench.submit("few", 5, 1.0).await;
    let (busy, _idle) = (worker(&bench.queue).await, worker(&bench.queue).await);
    let ahead = |batch| Claim { ahead: true, batch, ..claim(busy, 1) };
    assert_eq!(bench.queue.claim(ahead(Some(4))).await.unwrap().jobs.len(), 0, "five jobs for a batch of four and one");
    assert_eq!(bench.queue.claim(ahead(None)).await.unwrap().jobs.len(), 0, "nothing new");
    assert_eq!(bench.queue.claim(ahead(Some(2))).await.unwrap().jobs.len(), 1);
}

#[tokio::test]
async fn a_paused_experiment_gives_nothing_and_a_condition_that_cannot_be_read_stands_in_nobodys_way() {
    let folder = tempdir().unwrap();
    let queue = open(folder.path(), &settings()).await;
    queue.submit(plan("damaged", 1, 2)).await.unwrap();
    queue.submit(plan("whole", 1, 1)).await.unwrap();
    queue.submit(plan("paused", 1, 1)).await.unwrap();
    let worker = worker(&queue).await;
    queue.close().await;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(folder.path().join("queue.db"));
    let pool = SqlitePool::connect_with(options).await.unwrap();
    for sql in [
        "UPDATE condition SET spec = '{\"kind\": \"dream\"}' WHERE id = 1",
        "UPDATE experiment SET paused = 1 WHERE name = 'paused'",
    ] {
        sqlx::query(sql).execute(&pool).await.unwrap();
    }
    pool.close().await;
    let queue = open(folder.path(), &settings()).await;
    let claimed = queue.claim(claim(worker, 10)).await.unwrap();
    assert_eq!(claimed.jobs.iter().map(|job| job.job.0).collect::<Vec<_>>(), [3]);
    let pool = view::open(&folder.path().join("queue.db")).await.unwrap();
    let states: Vec<String> = sqlx::query_scalar("SELECT state FROM job ORDER BY id").fetch_all(&pool).await.unwrap();
    assert_eq!(states, ["blocked", "blocked", "running", "ready"]);
}

#[tokio::test]
async fn device_time_is_charged_to_the_second_and_never_exceeds_what_a_worker_was_up() {
    let bench = bench().await;
    bench.submit("ledger", 5, 1.0).await;
    let register = Register { slots: 2, ..register("node03/cpu") };
    let worker = bench.queue.register(register).await.unwrap().worker;

    let done = claim_one(&bench.queue, worker).await;
    bench.clock.advance(Duration::from_secs(10));
    let mut result = completed(worker, &done);
    *result.result.seconds_mut() =
        protocol::outcome::PhaseSeconds { loading: 3.0, sampling: 6.0, scoring: 1.0, ..Default::default() };
    bench.queue.complete(result).await.unwrap();

    let broken = claim_one(&bench.queue, worker).await;
    bench.clock.advance(Duration::from_secs(4));
    let mut failure = failed(worker, &broken, FailureClass::Io, "the disk is gone");
    failure.seconds.sampling = 4.0;
    bench.queue.fail(failure).await.unwrap();

    // Begun and told by a heartbeat, then silence; told at last by a result that came too late.
    let lost = claim_one(&bench.queue, worker).await;
    bench.clock.advance(Duration::from_secs(2));
    bench.queue.heartbeat(heartbeat(worker, &[&lost])).await.unwrap();
    bench.clock.advance(LEASE);
    assert_eq!(bench.queue.expire().await.unwrap(), [lost.job]);
    let ledger = "SELECT wasted_s FROM worker WHERE slots = 2";
    assert_eq!(bench.number(ledger).await, 4.0 / 2.0 + 2.0 / 2.0, "what the last heartbeat told");
    let mut late = completed(worker, &lost);
    *late.result.seconds_mut() = protocol::outcome::PhaseSeconds { sampling: 62.0, ..Default::default() };
    assert_eq!(bench.queue.complete(late).await.unwrap().disposition, Disposition::Superseded);
    assert_eq!(bench.number(ledger).await, 4.0 / 2.0 + 62.0 / 2.0, "what it really took");

    let beat = Heartbeat { worker, activity: Activity::Gone, held: Vec::new() };
    bench.queue.heartbeat(beat).await.unwrap();
    assert_eq!(bench.number("SELECT useful_s FROM worker WHERE slots = 2").await, 10.0 / 2.0);
    assert_eq!(bench.number("SELECT sum(gpu_seconds) FROM spent WHERE outcome = 'done'").await, 5.0);
    assert_eq!(bench.number("SELECT sum(gpu_seconds) FROM spent WHERE outcome = 'failed'").await, 33.0);
    let up = bench.number("SELECT (heartbeat_at - registered_at) / 1000.0 FROM worker WHERE slots = 2").await;
    assert_eq!(up, 10.0 + 4.0 + 2.0 + 60.0);
    assert!(5.0 + 33.0 <= up);
}
