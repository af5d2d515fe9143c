//! Random histories: messages are lost, delayed, reordered and repeated, workers die, the clock jumps, the coordinator restarts, people
//! cancel and retry. After every step the store says what the model says, and in the end its books balance.

use super::memory::Memory;
use super::sqlite::Sqlite;
use super::table::{Given, Grid, Table, Which, Worker};
use proptest::prelude::*;
use protocol::ids::JobId;
use protocol::outcome::FailureClass;

/// One thing that happens. Numbers pick among what there is, modulo its length.
#[derive(Debug, Clone)]
enum Act {
    /// The answer may be lost on its way: then the worker never knows what it holds.
    Claim {
        worker: usize,
        max: u32,
        answer_lost: bool,
    },
    /// A worker says something of a job that it got, which arrives later, or never.
    Say {
        claim: usize,
        word: Word,
    },
    /// One of the messages on their way arrives; `again` leaves a copy behind.
    Arrive {
        message: usize,
        again: bool,
    },
    Die {
        worker: usize,
    },
    Leave {
        worker: usize,
    },
    Expire,
    Jump {
        seconds: i64,
    },
    Restart {
        seconds: i64,
    },
    Cancel {
        which: usize,
    },
    Retry {
        which: usize,
    },
    Submit {
        grid: usize,
        seeds: u64,
    },
}

#[derive(Debug, Clone, Copy)]
enum Word {
    Complete,
    Fail { class: usize, message: u8 },
    Release,
    Heartbeat,
}

#[derive(Debug, Clone, Copy)]
struct Message {
    worker: Worker,
    given: Given,
    word: Word,
}

/// Classes of every kind of policy; those that happen often more than once.
const CLASSES: [FailureClass; 9] = {
    use FailureClass::*;
    [Io, Io, Io, Bug, OutOfMemory, Preempted, Drained, BadInput, DeviceFault]
};
const WORKERS: usize = 6;
const GRIDS: [Grid; 3] = [
    Grid { name: "encoders", conditions: 2, seeds: 1, priority: 0, needs: None },
    Grid { name: "images", conditions: 2, seeds: 1, priority: 0, needs: Some("encoders") },
    Grid { name: "urgent", conditions: 1, seeds: 1, priority: 5, needs: None },
];

fn act() -> impl Strategy<Value = Act> {
    let word = prop_oneof![
        6 => Just(Word::Complete),
        4 => (any::<usize>(), 0..2u8).prop_map(|(class, message)| Word::Fail { class, message }),
        1 => Just(Word::Release),
        2 => Just(Word::Heartbeat),
    ];
    prop_oneof![
        8 => (any::<usize>(), 1..4u32, prop::bool::weighted(0.1)).prop_map(|(worker, max, answer_lost)| Act::Claim { worker, max, answer_lost }),
        10 => (any::<usize>(), word).prop_map(|(claim, word)| Act::Say { claim, word }),
        10 => (any::<usize>(), prop::bool::weighted(0.3)).prop_map(|(message, again)| Act::Arrive { message, again }),
        1 => any::<usize>().prop_map(|worker| Act::Die { worker }),
        1 => any::<usize>().prop_map(|worker| Act::Leave { worker }),
        3 => Just(Act::Expire),
        4 => (1..120i64).prop_map(|seconds| Act::Jump { seconds }),
        1 => (-4_000..4_000i64).prop_map(|seconds| Act::Jump { seconds }),
        1 => (0..300i64).prop_map(|seconds| Act::Restart { seconds }),
        1 => any::<usize>().prop_map(|which| Act::Cancel { which }),
        2 => any::<usize>().prop_map(|which| Act::Retry { which }),
        1 => (any::<usize>(), 1..4u64).prop_map(|(grid, seeds)| Act::Submit { grid, seeds }),
    ]
}

/// Both tables, and what the workers know.
struct History {
    store: Sqlite,
    model: Memory,
    /// What workers know that they got, newest last; the dead know nothing.
    claims: Vec<(Worker, Given)>,
    on_their_way: Vec<Message>,
    seeds: [u64; 3],
}

impl History {
    async fn begin() -> Self {
        let (store, model) = (Sqlite::empty().await, Memory::empty().await);
        let mut history = Self { store, model, claims: Vec::new(), on_their_way: Vec::new(), seeds: [0; 3] };
        for _ in 0..WORKERS {
            assert_eq!(history.store.register().await, history.model.register().await);
        }
        history.submit(0, 1).await;
        history.submit(1, 1).await;
        history
    }

    async fn submit(&mut self, grid: usize, seeds: u64) {
        self.seeds[grid] = self.seeds[grid].max(seeds);
        let grid = Grid { seeds: self.seeds[grid], ..GRIDS[grid] };
        self.store.submit(grid).await;
        self.model.submit(grid).await;
    }

    async fn which(&mut self, which: usize) -> Which {
        let jobs: Vec<JobId> = self.model.rows().await.into_keys().collect();
        match which % 4 {
            0 => Which::Experiment(GRIDS[which / 4 % 2].name),
            _ => Which::Job(jobs[which / 4 % jobs.len()]),
        }
    }

    async fn play(&mut self, act: &Act) {
        match *act {
            Act::Claim { worker, max, answer_lost } => {
                let worker = worker % WORKERS;
                let given = self.store.claim(worker, max).await;
                self.model.follow(worker, max, given.as_deref());
                if !answer_lost {
                    self.claims.extend(given.into_iter().flatten().map(|given| (worker, given)));
                }
            }
            Act::Say { claim, word } => {
                // Mostly of one of the last claims, sometimes of one of long ago.
                let among = if claim.is_multiple_of(5) { self.claims.len() } else { self.claims.len().min(3) };
                if among > 0 {
                    let (worker, given) = self.claims[self.claims.len() - 1 - claim / 5 % among];
                    self.on_their_way.push(Message { worker, given, word });
                }
            }
            Act::Arrive { message, again } => {
                if self.on_their_way.is_empty() {
                    return;
                }
                let at = message % self.on_their_way.len();
                let message = if again { self.on_their_way[at] } else { self.on_their_way.swap_remove(at) };
                self.arrive(message).await;
            }
            Act::Die { worker } => self.claims.retain(|(holder, _)| *holder != worker % WORKERS),
            Act::Leave { worker } => {
                let worker = worker % WORKERS;
                self.store.leave(worker).await;
                self.model.leave(worker).await;
            }
            Act::Expire => assert_eq!(self.store.expire().await, self.model.expire().await),
            Act::Jump { seconds } => {
                self.store.jump(seconds);
                self.model.jump(seconds);
            }
            Act::Restart { seconds } => {
                self.store.jump(seconds);
                self.model.jump(seconds);
                self.store.restart().await;
                self.model.restart().await;
            }
            Act::Cancel { which } => {
                let which = self.which(which).await;
                assert_eq!(self.store.cancel(which).await, self.model.cancel(which).await, "cancel {which:?}");
            }
            Act::Retry { which } => {
                let which = self.which(which).await;
                assert_eq!(self.store.retry(which).await, self.model.retry(which).await, "retry {which:?}");
            }
            Act::Submit { grid, seeds } => self.submit(grid % GRIDS.len(), seeds).await,
        }
    }

    async fn arrive(&mut self, message: Message) {
        let Message { worker, given, word } = message;
        let (store, model) = (&mut self.store, &mut self.model);
        match word {
            Word::Complete => {
                assert_eq!(store.complete(worker, given).await, model.complete(worker, given).await, "{message:?}");
            }
            Word::Fail { class, message: number } => {
                let (class, text) = (CLASSES[class % CLASSES.len()], format!("message {number}"));
                let answer = store.fail(worker, given, class, &text).await;
                assert_eq!(answer, model.fail(worker, given, class, &text).await, "{message:?}");
            }
            Word::Release => {
                assert_eq!(store.release(worker, given).await, model.release(worker, given).await, "{message:?}");
            }
            Word::Heartbeat => {
                let answer = store.heartbeat(worker, &[given]).await;
                assert_eq!(answer, model.heartbeat(worker, &[given]).await, "{message:?}");
            }
        }
    }

    async fn audit(&mut self) {
        assert_eq!(self.store.rows().await, self.model.rows().await, "what stands in the table");
        for (broken, sql) in BOOKS {
            self.store.none(broken, sql).await;
        }
    }
}

/// What must hold of every job table at every moment: what is broken, and how many are.
const BOOKS: [(&str, &str); 9] = [
    (
        "counters differ from a recount",
        "SELECT count(*) FROM (SELECT condition_id, state, count(*) FROM job GROUP BY 1, 2
         EXCEPT SELECT condition_id, state, jobs FROM counter)",
    ),
    (
        "a counter counts jobs that are not there",
        "SELECT count(*) FROM (SELECT condition_id, state, jobs FROM counter WHERE jobs > 0
         EXCEPT SELECT condition_id, state, count(*) FROM job GROUP BY 1, 2)",
    ),
    (
        "a job has counted results and is not done, or is done and has not exactly one",
        "SELECT count(*) FROM job WHERE (state = 'done') <>
         (SELECT count(*) FROM result WHERE job_id = job.id AND counted = 1)",
    ),
    (
        "a result with an old fence counts",
        "SELECT count(*) FROM result JOIN job ON job.id = job_id WHERE counted = 1 AND result.fence <> job.fence",
    ),
    (
        "a counted result's attempt is not done, or a done attempt has no counted result",
        "SELECT count(*) FROM attempt WHERE (outcome = 'done') <>
         EXISTS (SELECT 1 FROM result WHERE result.job_id = attempt.job_id AND result.fence = attempt.fence AND result.counted = 1)",
    ),
    (
        "a running job has not exactly one running attempt, of its fence and worker; or another has one",
        "SELECT count(*) FROM job WHERE (state = 'running') <>
         (SELECT count(*) FROM attempt WHERE job_id = job.id AND outcome = 'running' AND attempt.fence = job.fence
                                             AND (attempt.worker_id = job.worker_id))",
    ),
    (
        "attempts differ from a recount",
        "SELECT count(*) FROM job WHERE attempts <>
         (SELECT count(*) FROM attempt WHERE job_id = job.id AND counted = 1 AND outcome IN ('done', 'failed'))",
    ),
    (
        "scores differ from a recount",
        "SELECT count(*) FROM (SELECT condition_id, probe_class, count(*), sum(activation) FROM result WHERE counted = 1
         GROUP BY 1, 2 EXCEPT SELECT condition_id, probe_class, images, activation_sum FROM score)",
    ),
    (
        "the ledger differs from a recount",
        "SELECT count(*) FROM (
            SELECT condition_id AS id, 'spent ' || outcome AS what, gpu_seconds AS sum FROM spent
            UNION ALL SELECT id, 'useful', useful_s FROM worker UNION ALL SELECT id, 'wasted', wasted_s FROM worker) AS kept
         WHERE abs(kept.sum - (
            SELECT coalesce(sum(device_s), 0) FROM attempt JOIN job ON job.id = attempt.job_id
            WHERE attempt.outcome <> 'running' AND CASE kept.what
                WHEN 'useful' THEN attempt.worker_id = kept.id AND outcome = 'done'
                WHEN 'wasted' THEN attempt.worker_id = kept.id AND outcome <> 'done'
                ELSE job.condition_id = kept.id AND kept.what = 'spent ' || outcome END)) > 1e-6",
    ),
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_does_what_the_model_does_whatever_happens(acts in prop::collection::vec(act(), 1..160)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut history = History::begin().await;
            for act in &acts {
                history.play(act).await;
            }
            history.audit().await;
            history.store.close().await;
        });
    }
}
