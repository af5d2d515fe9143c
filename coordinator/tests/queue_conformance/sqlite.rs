//! The real table: a SQLite file and its writer, on a clock that tests move.

use super::queue_fixture::{LEASE, claim, completed, failed, heartbeat, image, plan, register};
use super::table::{Dropped, Given, Grid, NOW, Row, Table, Which, Worker};
use coordinator::queue::request::{Cancel, Retry};
use coordinator::queue::state::Job;
use coordinator::queue::{Clock, Filter, Queue, Settings, view};
use protocol::claim::{ClaimedJob, Never};
use protocol::heartbeat::{Activity, Heartbeat, Release};
use protocol::ids::{ConditionId, Fence, JobId, Seed, WorkerId};
use protocol::outcome::{Disposition, FailureClass};
use sqlx::{Row as _, SqlitePool};
use std::collections::BTreeMap;
use std::time::Duration;

pub struct Sqlite {
    folder: tempfile::TempDir,
    settings: Settings,
    queue: Queue,
    pool: SqlitePool,
    workers: Vec<WorkerId>,
}

impl Sqlite {
    async fn open(folder: &tempfile::TempDir, settings: &Settings) -> Queue {
        Queue::open(&folder.path().join("queue.db"), settings.clone()).await.unwrap()
    }

    /// Asserts that no row answers `sql`, which says what is `broken`.
    pub async fn none(&self, broken: &str, sql: &'static str) {
        let rows: i64 = sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap();
        assert_eq!(rows, 0, "{broken}");
    }

    pub async fn close(self) {
        self.queue.close().await;
    }
}

/// The claim as a worker knows it.
fn known(given: Given) -> ClaimedJob {
    ClaimedJob { job: given.job, fence: given.fence, attempt: 1, condition: ConditionId(0), seed: Seed(0), image: None }
}

impl Table for Sqlite {
    async fn empty() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let heartbeat = Duration::from_secs(15);
        let settings = Settings { lease: LEASE, heartbeat, clock: Clock::manual(NOW) };
        let queue = Self::open(&folder, &settings).await;
        queue.record_artifact(image(), 1).await.unwrap();
        let pool = view::open(&folder.path().join("queue.db")).await.unwrap();
        Self { folder, settings, queue, pool, workers: Vec::new() }
    }

    async fn submit(&mut self, grid: Grid) {
        let mut plan = plan(grid.name, grid.conditions, grid.seeds);
        plan.experiment.priority = grid.priority;
        plan.experiment.needs = grid.needs.map(str::to_owned).into_iter().collect();
        self.queue.submit(plan).await.unwrap();
    }

    async fn register(&mut self) -> Worker {
        let mut body = register("node01/cpu");
        body.host = format!("node{}", self.workers.len());
        self.workers.push(self.queue.register(body).await.unwrap().worker);
        self.workers.len() - 1
    }

    async fn claim(&mut self, worker: Worker, max: u32) -> Option<Vec<Given>> {
        let claimed = self.queue.claim(claim(self.workers[worker], max)).await.unwrap();
        match claimed.never {
            Some(Never::Quarantined(_)) => None,
            Some(Never::Deadline) => panic!("these workers have no deadline"),
            None => Some(claimed.jobs.iter().map(|job| Given { job: job.job, fence: job.fence }).collect()),
        }
    }

    async fn heartbeat(&mut self, worker: Worker, held: &[Given]) -> Dropped {
        let worker = match held.first() {
            Some(given) => self.claimant(worker, *given).await,
            None => self.workers[worker],
        };
        let held: Vec<ClaimedJob> = held.iter().map(|given| known(*given)).collect();
        let beat = heartbeat(worker, &held.iter().collect::<Vec<_>>());
        let reply = self.queue.heartbeat(beat).await.unwrap();
        Dropped { cancelled: reply.cancelled, lost: reply.lost }
    }

    async fn leave(&mut self, worker: Worker) {
        let beat = Heartbeat { worker: self.workers[worker], activity: Activity::Gone, held: Vec::new() };
        self.queue.heartbeat(beat).await.unwrap();
        // The process is gone; the next one of this number registers anew.
        let mut body = register("node01/cpu");
        body.host = format!("node{worker}");
        self.workers[worker] = self.queue.register(body).await.unwrap().worker;
    }

    async fn complete(&mut self, worker: Worker, given: Given) -> Disposition {
        let worker = self.claimant(worker, given).await;
        self.queue.complete(completed(worker, &known(given))).await.unwrap().disposition
    }

    async fn fail(&mut self, worker: Worker, given: Given, class: FailureClass, message: &str) -> Disposition {
        let worker = self.claimant(worker, given).await;
        self.queue.fail(failed(worker, &known(given), class, message)).await.unwrap().disposition
    }

    async fn release(&mut self, worker: Worker, given: Given) -> bool {
        let worker = self.claimant(worker, given).await;
        let release = Release { worker, jobs: vec![(given.job, given.fence)] };
        !self.queue.release(release).await.unwrap().is_empty()
    }

    async fn cancel(&mut self, which: Which) -> u64 {
        let cancel = match which {
            Which::Job(id) => Cancel::Jobs(vec![id]),
            Which::Experiment(name) => Cancel::Where(Filter::experiment(name)),
        };
        self.queue.cancel(cancel).await.unwrap().jobs
    }

    async fn retry(&mut self, which: Which) -> u64 {
        let retry = match which {
            Which::Job(id) => Retry::Jobs(vec![id]),
            Which::Experiment(name) => Retry::Where(Filter::experiment(name)),
        };
        self.queue.retry(retry).await.unwrap().jobs
    }

    async fn expire(&mut self) -> Vec<JobId> {
        let mut lost = self.queue.expire().await.unwrap();
        lost.sort();
        lost
    }

    fn jump(&mut self, seconds: i64) {
        let Clock::Manual(time) = &self.settings.clock else { panic!("a clock that tests move") };
        time.send_modify(|now| *now += seconds * 1000);
    }

    async fn restart(&mut self) {
        self.queue.close().await;
        self.queue = Self::open(&self.folder, &self.settings).await;
        self.queue.renew_all_leases().await.unwrap();
    }

    async fn rows(&mut self) -> BTreeMap<JobId, Row> {
        let rows = sqlx::query(
            "SELECT job.id, job.state, job.fence, job.attempts, job.max_attempts, job.losses, experiment.max_losses
             FROM job JOIN experiment ON experiment.id = job.experiment_id",
        )
        .fetch_all(&self.pool)
        .await
        .unwrap();
        let mut table: BTreeMap<JobId, Row> = rows
            .iter()
            .map(|row| {
                let job = Job {
                    state: row.get::<&str, _>("state").parse().unwrap(),
                    fence: Fence(row.get("fence")),
                    attempts: row.get("attempts"),
                    max_attempts: row.get("max_attempts"),
                    losses: row.get("losses"),
                    max_losses: row.get("max_losses"),
                };
                (JobId(row.get("id")), Row { job, counted: None, superseded: Default::default() })
            })
            .collect();
        let results = sqlx::query("SELECT job_id, fence, counted FROM result").fetch_all(&self.pool).await.unwrap();
        for row in results {
            let (entry, fence) = (table.get_mut(&JobId(row.get("job_id"))).unwrap(), Fence(row.get("fence")));
            if row.get("counted") {
                assert_eq!(entry.counted.replace(fence), None, "two results count");
            } else {
                entry.superseded.insert(fence);
            }
        }
        table
    }
}

impl Sqlite {
    /// The process that got the claim; its successor of the same number knows nothing of it.
    async fn claimant(&self, worker: Worker, given: Given) -> WorkerId {
        let known = sqlx::query_scalar("SELECT worker_id FROM attempt WHERE job_id = ? AND fence = ?")
            .bind(given.job.0)
            .bind(given.fence.0)
            .fetch_optional(&self.pool)
            .await
            .unwrap();
        known.map_or(self.workers[worker], WorkerId)
    }
}
