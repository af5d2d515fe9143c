//! Random histories against the real store: whatever happens in whatever order, the books balance.
#![allow(clippy::unwrap_used)]

mod queue_fixture;

use coordinator::queue::request::{Cancel, Retry};
use coordinator::queue::state::{self, Event, Job, State};
use coordinator::queue::{Filter, Queue, Settings, view};
use proptest::prelude::*;
use protocol::claim::ClaimedJob;
use protocol::heartbeat::Release;
use protocol::ids::{ConditionId, Fence, JobId, WorkerId};
use protocol::outcome::{Disposition, FailureClass};
use queue_fixture::*;
use sqlx::{Row, SqlitePool};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One thing that happens. Numbers pick among what there is, modulo its length.
#[derive(Debug, Clone)]
enum Act {
    Claim {
        worker: usize,
        max: u32,
    },
    Complete {
        claim: usize,
    },
    Fail {
        claim: usize,
        class: usize,
        message: u8,
    },
    Release {
        claim: usize,
    },
    Heartbeat {
        claim: usize,
    },
    Pass {
        seconds: u64,
    },
    CancelJob {
        job: usize,
    },
    CancelExperiment,
    RetryJob {
        job: usize,
    },
    RetryFailed,
    Submit {
        seeds: u64,
    },
    /// The coordinator stops for a while and comes back.
    Restart {
        seconds: u64,
    },
}

fn act() -> impl Strategy<Value = Act> {
    let any = any::<usize>;
    prop_oneof![
        6 => (any(), 1..3u32).prop_map(|(worker, max)| Act::Claim { worker, max }),
        5 => any().prop_map(|claim| Act::Complete { claim }),
        5 => (any(), any(), prop_oneof![3 => Just(0u8), 1 => Just(1u8)]).prop_map(|(claim, class, message)| Act::Fail { claim, class, message }),
        1 => any().prop_map(|claim| Act::Release { claim }),
        2 => any().prop_map(|claim| Act::Heartbeat { claim }),
        4 => (0..90u64).prop_map(|seconds| Act::Pass { seconds }),
        1 => any().prop_map(|job| Act::CancelJob { job }),
        1 => Just(Act::CancelExperiment),
        2 => any().prop_map(|job| Act::RetryJob { job }),
        1 => Just(Act::RetryFailed),
        1 => (1..4u64).prop_map(|seeds| Act::Submit { seeds }),
        1 => (0..300u64).prop_map(|seconds| Act::Restart { seconds }),
    ]
}

/// What the pure state machine says of a job, and what the store must therefore hold.
#[derive(Debug, Clone)]
struct Expected {
    job: Job,
    condition: ConditionId,
    lease_until: i64,
    last_counted_failure: Option<(FailureClass, String)>,
}

struct History {
    folder: PathBuf,
    queue: Queue,
    settings: Settings,
    pool: SqlitePool,
    workers: Vec<WorkerId>,
    claims: Vec<(WorkerId, ClaimedJob)>,
    /// What closed each attempt that is not open.
    ended: BTreeMap<(JobId, Fence), Event>,
    jobs: BTreeMap<JobId, Expected>,
    seeds: u64,
}

const MAX_ATTEMPTS: u32 = 3;
const MAX_LOSSES: u32 = 5;

/// One that repeats often, one of each other kind of policy, and one that no retry mends.
const CLASSES: [FailureClass; 8] = {
    use FailureClass::*;
    [Io, Io, Io, Bug, OutOfMemory, DeviceFault, Drained, BadInput]
};

impl History {
    async fn begin(folder: &Path) -> Self {
        let settings = settings();
        let queue = open(folder, &settings).await;
        let pool = view::open(&folder.join("queue.db")).await.unwrap();
        queue.record_artifact(image(), 1).await.unwrap();
        let workers = vec![worker(&queue).await, worker(&queue).await];
        let mut history = Self {
            folder: folder.to_owned(),
            queue,
            settings,
            pool,
            workers,
            claims: Vec::new(),
            ended: BTreeMap::new(),
            jobs: BTreeMap::new(),
            seeds: 0,
        };
        history.submit(1).await;
        history
    }

    async fn submit(&mut self, seeds: u64) {
        self.seeds = self.seeds.max(seeds);
        self.queue.submit(plan("history", 2, self.seeds)).await.unwrap();
        for row in sqlx::query("SELECT id, condition_id FROM job").fetch_all(&self.pool).await.unwrap() {
            self.jobs.entry(JobId(row.get(0))).or_insert(Expected {
                job: Job {
                    state: State::Ready,
                    fence: Fence(0),
                    attempts: 0,
                    max_attempts: MAX_ATTEMPTS,
                    losses: 0,
                    max_losses: MAX_LOSSES,
                },
                condition: ConditionId(row.get(1)),
                lease_until: 0,
                last_counted_failure: None,
            });
        }
    }

    /// Takes the event in the model; `None` if the state machine refuses it.
    fn take(&mut self, id: JobId, event: Event) -> Option<state::Step> {
        let job = &mut self.jobs.get_mut(&id).unwrap().job;
        let step = state::apply(*job, event).ok()?;
        *job = step.job;
        if step.closes.is_some() {
            self.ended.insert((id, step.job.fence), event);
        }
        if step.blocks_condition {
            let condition = self.jobs[&id].condition;
            self.take_all(Event::Block, |job| job.condition == condition);
        }
        Some(step)
    }

    fn take_all(&mut self, event: Event, which: impl Fn(&Expected) -> bool) -> u64 {
        let chosen: Vec<JobId> = self.jobs.iter().filter(|(_, job)| which(job)).map(|(id, _)| *id).collect();
        chosen.into_iter().filter(|id| self.take(*id, event).is_some()).count() as u64
    }

    /// Mostly one of the last claims, sometimes one of long ago.
    fn pick(&self, claim: usize) -> Option<(WorkerId, ClaimedJob)> {
        let among = if claim.is_multiple_of(5) { self.claims.len() } else { self.claims.len().min(3) };
        (among > 0).then(|| self.claims[self.claims.len() - 1 - claim / 5 % among].clone())
    }

    fn pick_job(&self, job: usize) -> JobId {
        *self.jobs.keys().nth(job % self.jobs.len()).unwrap()
    }

    fn fail_event(&mut self, job: &ClaimedJob, class: FailureClass, message: &str) -> Option<state::Step> {
        let signature = (class, message.to_owned());
        let repeated = self.jobs[&job.job].last_counted_failure.as_ref() == Some(&signature);
        let step = self.take(job.job, Event::Fail { fence: job.fence, class, repeated, jitter: 0.0 })?;
        if step.counts() {
            self.jobs.get_mut(&job.job).unwrap().last_counted_failure = Some(signature);
        }
        Some(step)
    }

    async fn play(&mut self, act: &Act) {
        let now = self.settings.clock.now();
        let lease_until = now + LEASE.as_millis() as i64;
        match *act {
            Act::Claim { worker, max } => {
                let worker = self.workers[worker % self.workers.len()];
                let claimed = self.queue.claim(claim(worker, max)).await.unwrap();
                assert!(claimed.jobs.len() <= max as usize);
                for job in claimed.jobs {
                    let step = self.take(job.job, Event::Claim).expect("only ready jobs are handed out");
                    assert_eq!(job.fence, step.job.fence, "the fence of job {} grows by one", job.job);
                    self.jobs.get_mut(&job.job).unwrap().lease_until = lease_until;
                    self.claims.push((worker, job));
                }
            }
            Act::Complete { claim } => {
                let Some((worker, job)) = self.pick(claim) else { return };
                let before = self.jobs[&job.job].job;
                let accepted = self.take(job.job, Event::Complete { fence: job.fence }).is_some();
                let disposition = self.queue.complete(completed(worker, &job)).await.unwrap().disposition;
                let expected = match accepted {
                    true => Disposition::Accepted,
                    false if before.state == State::Done && before.fence == job.fence => Disposition::Duplicate,
                    false => Disposition::Superseded,
                };
                assert_eq!(disposition, expected);
            }
            Act::Fail { claim, class, message } => {
                let Some((worker, job)) = self.pick(claim) else { return };
                let class = CLASSES[class % CLASSES.len()];
                let message = format!("message {message}");
                let accepted = self.fail_event(&job, class, &message).is_some();
                let closed = self.queue.fail(failed(worker, &job, class, &message)).await.unwrap();
                assert_eq!(closed.disposition == Disposition::Accepted, accepted);
            }
            Act::Release { claim } => {
                let Some((worker, job)) = self.pick(claim) else { return };
                let held = self.fail_event(&job, FailureClass::Drained, "").is_some();
                let release = Release { worker, jobs: vec![(job.job, job.fence)] };
                assert_eq!(self.queue.release(release).await.unwrap().len(), usize::from(held));
            }
            Act::Heartbeat { claim } => {
                let Some((worker, job)) = self.pick(claim) else { return };
                let reply = self.queue.heartbeat(heartbeat(worker, &[&job])).await.unwrap();
                // The worker knows what it completed or failed itself.
                let expected = match self.ended.get(&(job.job, job.fence)) {
                    Some(Event::Cancel) => (1, 0),
                    Some(Event::Fail { class: FailureClass::Lost, .. }) => (0, 1),
                    _ => (0, 0),
                };
                assert_eq!((reply.cancelled.len(), reply.lost.len()), expected);
                if !self.ended.contains_key(&(job.job, job.fence)) {
                    self.jobs.get_mut(&job.job).unwrap().lease_until = lease_until;
                }
            }
            Act::Pass { seconds } => {
                self.settings.clock.advance(Duration::from_secs(seconds));
                let now = self.settings.clock.now();
                let mut lost = self.queue.expire().await.unwrap();
                lost.sort();
                let late = |job: &Expected| job.job.state == State::Running && job.lease_until <= now;
                let due: Vec<JobId> = self.jobs.iter().filter(|(_, job)| late(job)).map(|(id, _)| *id).collect();
                assert_eq!(lost, due);
                for id in lost {
                    let fence = self.jobs[&id].job.fence;
                    let event = Event::Fail { fence, class: FailureClass::Lost, repeated: false, jitter: 0.0 };
                    self.take(id, event).unwrap();
                }
            }
            Act::CancelJob { job } => {
                let id = self.pick_job(job);
                let taken = self.take(id, Event::Cancel).is_some();
                let changed = self.queue.cancel(Cancel::Jobs(vec![id])).await.unwrap();
                assert_eq!((changed.jobs, changed.unchanged.len()), (taken.into(), (!taken).into()));
            }
            Act::CancelExperiment => {
                let taken = self.take_all(Event::Cancel, |_| true);
                let everything = Cancel::Where(Filter::experiment("history"));
                assert_eq!(self.queue.cancel(everything).await.unwrap().jobs, taken);
            }
            Act::RetryJob { job } => {
                let id = self.pick_job(job);
                let condition = self.jobs[&id].condition;
                let anew = Event::Retry { attempts: MAX_ATTEMPTS };
                let mut taken = u64::from(self.take(id, anew).is_some());
                if taken == 1 {
                    taken += self.take_all(anew, |job| job.condition == condition && job.job.state == State::Blocked);
                }
                assert_eq!(self.queue.retry(Retry::Jobs(vec![id])).await.unwrap().jobs, taken);
            }
            Act::RetryFailed => {
                let stuck = |job: &Expected| matches!(job.job.state, State::Failed | State::Blocked);
                let taken = self.take_all(Event::Retry { attempts: MAX_ATTEMPTS }, stuck);
                let changed = self.queue.retry(Retry::Where(Filter::default())).await.unwrap();
                assert_eq!(changed.jobs, taken);
            }
            Act::Submit { seeds } => self.submit(seeds).await,
            Act::Restart { seconds } => {
                self.queue.close().await;
                self.settings.clock.advance(Duration::from_secs(seconds));
                self.queue = open(&self.folder, &self.settings).await;
                self.queue.renew_all_leases().await.unwrap();
                let renewed = self.settings.clock.now() + LEASE.as_millis() as i64;
                for expected in self.jobs.values_mut() {
                    expected.lease_until = renewed;
                }
            }
        }
    }

    async fn none(&self, broken: &str, sql: &'static str) {
        let rows: i64 = sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap();
        assert_eq!(rows, 0, "{broken}");
    }

    async fn audit(&self) {
        let rows = sqlx::query("SELECT id, state, fence, attempts, max_attempts, losses FROM job")
            .fetch_all(&self.pool)
            .await
            .unwrap();
        assert_eq!(rows.len(), self.jobs.len());
        for row in rows {
            let stored = Job {
                state: row.get::<&str, _>("state").parse().unwrap(),
                fence: Fence(row.get("fence")),
                attempts: row.get("attempts"),
                max_attempts: row.get("max_attempts"),
                losses: row.get("losses"),
                max_losses: MAX_LOSSES,
            };
            let id = JobId(row.get("id"));
            assert_eq!(stored, self.jobs[&id].job, "job {id}: stored against the state machine");
        }
        self.none(
            "counters differ from a recount",
            "SELECT count(*) FROM (SELECT condition_id, state, count(*) FROM job GROUP BY 1, 2
             EXCEPT SELECT condition_id, state, jobs FROM counter)",
        )
        .await;
        self.none(
            "a counter counts jobs that are not there",
            "SELECT count(*) FROM (SELECT condition_id, state, jobs FROM counter WHERE jobs > 0
             EXCEPT SELECT condition_id, state, count(*) FROM job GROUP BY 1, 2)",
        )
        .await;
        self.none(
            "a job has counted results and is not done, or is done and has not exactly one",
            "SELECT count(*) FROM job WHERE (state = 'done') <>
             (SELECT count(*) FROM result WHERE job_id = job.id AND counted = 1)",
        )
        .await;
        self.none(
            "a result with an old fence counted",
            "SELECT count(*) FROM result JOIN job ON job.id = job_id WHERE counted = 1 AND result.fence <> job.fence",
        )
        .await;
        self.none(
            "a counted result's attempt is not done, or a done attempt has no counted result",
            "SELECT count(*) FROM attempt WHERE (outcome = 'done') <>
             EXISTS (SELECT 1 FROM result WHERE result.job_id = attempt.job_id AND result.fence = attempt.fence AND result.counted = 1)",
        )
        .await;
        self.none(
            "attempts differ from a recount",
            "SELECT count(*) FROM job WHERE attempts <>
             (SELECT count(*) FROM attempt WHERE job_id = job.id AND counted = 1 AND outcome IN ('done', 'failed'))",
        )
        .await;
        self.none(
            "a running job has not exactly one running attempt of its fence and worker",
            "SELECT count(*) FROM job WHERE (state = 'running') <>
             (SELECT count(*) FROM attempt WHERE job_id = job.id AND outcome = 'running' AND attempt.fence = job.fence
                                                 AND (attempt.worker_id = job.worker_id))",
        )
        .await;
        self.none(
            "an attempt of an older fence still runs",
            "SELECT count(*) FROM attempt JOIN job ON job.id = job_id WHERE outcome = 'running' AND attempt.fence < job.fence",
        )
        .await;
        self.none(
            "scores differ from a recount",
            "SELECT count(*) FROM (SELECT condition_id, probe_class, count(*), sum(activation) FROM result WHERE counted = 1
             GROUP BY 1, 2 EXCEPT SELECT condition_id, probe_class, images, activation_sum FROM score)",
        )
        .await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_books_balance_after_any_history(acts in prop::collection::vec(act(), 1..120)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let mut history = History::begin(folder.path()).await;
            for act in &acts {
                history.play(act).await;
            }
            history.audit().await;
            history.queue.close().await;
        });
    }
}
