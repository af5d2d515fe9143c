//! A job table filled by plain SQL, the way that a campaign fills it, for tests and examples of what people see.
#![allow(clippy::unwrap_used, dead_code)]

use protocol::ids::Digest;
use protocol::job::{Condition, Input, ModelFolder, Models, Objective, SampleCondition, Sampling, Term, VoxelSet};
use protocol::outcome::{JobResult, PhaseSeconds, ProbeResult, SampleResult};
use protocol::probe::ProbeClass;
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};
use std::path::{Path, PathBuf};

/// The time at which the fixtures' pages are looked at: 2026-03-14 15:09:26 UTC.
pub const NOW: i64 = 1_773_500_966_000;
pub const CLASSES: [&str; 5] = ["face", "body", "scene", "food", "text"];

/// A database, in a temporary folder unless created elsewhere, with a writer for the fixture and a reader for what is tested.
pub struct Fixture {
    pub folder: Option<tempfile::TempDir>,
    pub path: PathBuf,
    pub writer: SqlitePool,
    pub reader: SqlitePool,
    clock: i64,
}

impl Fixture {
    pub async fn empty() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let fixture = Self::create(&folder.path().join("braindive.db")).await;
        Self { folder: Some(folder), ..fixture }
    }

    pub async fn create(path: &Path) -> Self {
        let path = path.to_owned();
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .foreign_keys(true);
        let writer = SqlitePoolOptions::new().max_connections(1).connect_with(options).await.unwrap();
        sqlx::migrate!("../migrations").run(&writer).await.unwrap();
        let reader = coordinator::queue::view::open(&path).await.unwrap();
        Self { folder: None, path, writer, reader, clock: NOW - 7_200_000 }
    }

    /// Moves the fixture's clock; everything after happens then.
    pub fn at(&mut self, now: i64) {
        self.clock = now;
    }

    async fn insert(&self, sql: &'static str, bind: impl for<'q> FnOnce(Query<'q>) -> Query<'q>) -> i64 {
        bind(sqlx::query(sql)).execute(&self.writer).await.unwrap().last_insert_rowid()
    }

    pub async fn experiment(&self, name: &str, budget_gpu_hours: Option<f64>) -> i64 {
        let (name, budget, clock) = (name.to_owned(), budget_gpu_hours.map(|hours| hours * 3600.0), self.clock);
        self.insert(
            "INSERT INTO experiment (name, description, kind, priority, max_attempts, budget_gpu_seconds, yaml, created_at,
                                     submitted_at)
             VALUES (?, 'Guided and unguided images of category regions', 'sample', 0, 3, ?, 'name: x', ?, ?)",
            |q| q.bind(name).bind(budget).bind(clock).bind(clock),
        )
        .await
    }

    pub async fn condition(&self, experiment: i64, subject: &str, region: &str, gamma: f64) -> i64 {
        let spec = serde_json::to_string(&spec(subject, region, gamma)).unwrap();
        let key = digest(&format!("{experiment} {subject} {region} {gamma}")).to_string();
        let (subject, region) = (subject.to_owned(), region.to_owned());
        let axes = format!("{{\"gamma\": {gamma:.1}}}");
        let clock = self.clock;
        self.insert(
            "INSERT INTO condition (experiment_id, key, subject, region, axes, spec, created_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
            |q| q.bind(experiment).bind(key).bind(subject).bind(region).bind(axes).bind(spec).bind(clock),
        )
        .await
    }

    pub async fn worker(&self, name: &str, slots: u32) -> i64 {
        let (host, name, clock) = (name.split('/').next().unwrap().to_owned(), name.to_owned(), self.clock);
        self.insert(
            "INSERT INTO worker (name, host, pid, device, device_name, device_key, slots, kinds, software, activity, registered_at,
                                 heartbeat_at)
             VALUES (?1, ?2, 4711, 'cuda:0', 'Tesla V100-SXM2-16GB', ?1, ?3, '[\"sample\"]', 'braindive-rs 0.1.0', 'working', ?4, ?5)",
            |q| q.bind(name).bind(host).bind(slots).bind(clock).bind(clock),
        )
        .await
    }

    pub async fn job(&self, condition: i64, seed: u64) -> i64 {
        let clock = self.clock;
        self.insert(
            "INSERT INTO job (experiment_id, condition_id, seed, state, max_attempts, updated_at)
             SELECT experiment_id, id, ?2, 'ready', 3, ?3 FROM condition WHERE id = ?1",
            |q| q.bind(condition).bind(seed.cast_signed()).bind(clock),
        )
        .await
    }

    /// A worker takes the job; gives the attempt's number.
    pub async fn claim(&self, job: i64, worker: i64, step: u32) -> i64 {
        let clock = self.clock;
        self.run(
            "UPDATE job SET state = 'running', fence = fence + 1, attempts = attempts + 1, worker_id = ?, lease_until = ?,
                            step = ?, steps = 50, computing_ms = 18000, updated_at = ? WHERE id = ?",
            |q| q.bind(worker).bind(clock + 60_000).bind(step).bind(clock).bind(job),
        )
        .await;
        self.insert(
            "INSERT INTO attempt (job_id, fence, worker_id, device, started_at, outcome)
             SELECT id, fence, worker_id, 'cuda:0', ?, 'running' FROM job WHERE id = ?",
            |q| q.bind(clock).bind(job),
        )
        .await
    }

    /// The running attempt ends after `seconds` with an image.
    pub async fn complete(&mut self, job: i64, seconds: i64, activation: f64, class: &str, image: &Digest) {
        self.clock += seconds * 1000;
        let (clock, class, sha) = (self.clock, class.to_owned(), image.to_string());
        let result = SampleResult {
            image_sha256: image.clone(),
            activation,
            roi_activation: CLASSES.iter().map(|class| ((*class).to_owned(), activation / 3.0)).collect(),
            probe: ProbeResult { class: class.clone(), class_similarity: vec![0.2; 5], similarity: vec![0.2; 5] },
            models: Default::default(),
            effective_gamma: 14.0,
            seconds: PhaseSeconds {
                waiting: 0.0,
                loading: 0.0,
                sampling: seconds as f64 - 1.5,
                scoring: 1.0,
                uploading: 0.5,
            },
            device: "cuda:0".to_owned(),
            deviations: Vec::new(),
            software: "braindive-rs 0.1.0".to_owned(),
        };
        let body = serde_json::to_string(&JobResult::Sample(Box::new(result))).unwrap();
        let sha_again = sha.clone();
        self.insert("INSERT OR IGNORE INTO artifact (sha256, bytes, created_at) VALUES (?, 3000, ?)", |q| {
            q.bind(sha_again).bind(clock)
        })
        .await;
        self.insert(
            "INSERT INTO result (job_id, condition_id, fence, counted, worker_id, image_sha256, activation, effective_gamma,
                                 probe_class, body, created_at)
             SELECT id, condition_id, fence, 1, worker_id, ?, ?, 14.0, ?, ?, ? FROM job WHERE id = ?",
            |q| q.bind(sha).bind(activation).bind(class).bind(body).bind(clock).bind(job),
        )
        .await;
        self.run(
            "UPDATE attempt SET outcome = 'done', ended_at = ?1, sampling_s = ?2, scoring_s = 1.0, uploading_s = 0.5,
                                device_s = (?1 - started_at) / 1000.0 / (SELECT slots FROM worker WHERE id = worker_id)
             WHERE job_id = ?3 AND outcome = 'running'",
            |q| q.bind(clock).bind(seconds as f64 - 1.5).bind(job),
        )
        .await;
        self.leave(job, "done", 0).await;
    }

    /// The running attempt ends after `seconds` with a failure, and the job goes to `state`.
    pub async fn fail(&mut self, job: i64, seconds: i64, class: &str, message: &str, state: &str, not_before: i64) {
        self.clock += seconds * 1000;
        let (clock, class, message) = (self.clock, class.to_owned(), message.to_owned());
        self.run(
            "UPDATE attempt SET outcome = 'failed', ended_at = ?1, class = ?2, message = ?3,
                                device_s = (?1 - started_at) / 1000.0 / (SELECT slots FROM worker WHERE id = worker_id)
             WHERE job_id = ?4 AND outcome = 'running'",
            |q| q.bind(clock).bind(class).bind(message).bind(job),
        )
        .await;
        self.leave(job, state, not_before).await;
    }

    /// The job leaves its worker, or the queue, for `state`.
    pub async fn leave(&self, job: i64, state: &str, not_before: i64) {
        let (clock, state) = (self.clock, state.to_owned());
        self.run(
            "UPDATE job SET state = ?, worker_id = NULL, lease_until = NULL, not_before = ?, updated_at = ? WHERE id = ?",
            |q| q.bind(state).bind(not_before).bind(clock).bind(job),
        )
        .await;
    }

    pub async fn run(&self, sql: &'static str, bind: impl for<'q> FnOnce(Query<'q>) -> Query<'q>) {
        bind(sqlx::query(sql)).execute(&self.writer).await.unwrap();
    }

    /// A campaign in the middle: five regions, guided and unguided, 16 seeds; 120 images done, 2 jobs running on two
    /// workers, 3 failed for good with the same message, 1 waits after an out-of-memory, 34 ready.
    pub async fn campaign(mut image: impl FnMut(usize, usize) -> Digest) -> Self {
        let mut fixture = Self::empty().await;
        let experiment = fixture.experiment("miniature", Some(2.0)).await;
        let (first, second) = (fixture.worker("node07/cuda:0", 1).await, fixture.worker("node08/cuda:1", 1).await);
        let mut jobs = Vec::new();
        for (region, name) in CLASSES.into_iter().enumerate() {
            for gamma in [14.0, 0.0] {
                let condition = fixture.condition(experiment, "sim01", name, gamma).await;
                for seed in 0..16_usize {
                    jobs.push((region, gamma, seed, fixture.job(condition, seed as u64).await));
                }
            }
        }
        for &(region, gamma, seed, job) in jobs.iter().filter(|(.., seed, _)| *seed < 12) {
            let hit = if gamma > 0.0 { seed % 6 != 5 } else { seed % 5 == 0 };
            let class = CLASSES[if hit { region } else { (region + 1 + seed % 4) % 5 }];
            let activation = gamma / 8.0 + (seed as f64 * 0.73 + region as f64).sin() * 0.4;
            fixture.claim(job, if seed % 2 == 0 { first } else { second }, 50).await;
            fixture.complete(job, 45, activation, class, &image(region, seed)).await;
        }
        let rest: Vec<i64> = jobs.iter().filter(|(.., seed, _)| *seed >= 12).map(|&(.., job)| job).collect();
        for &job in &rest[..3] {
            fixture.claim(job, second, 0).await;
            let message = "reading head.safetensors of sim01: 812 bytes, expected 1,048,576; copy the file again";
            fixture.fail(job, 2, "bad_input", message, "failed", 0).await;
        }
        fixture.at(NOW - 70_000);
        fixture.claim(rest[3], first, 7).await;
        fixture
            .fail(
                rest[3],
                40,
                "out_of_memory",
                "CUDA out of memory: tried 512 MiB, 210 MiB free",
                "ready",
                NOW + 30_000,
            )
            .await;
        fixture.at(NOW - 18_000);
        fixture.claim(rest[4], first, 21).await;
        fixture.claim(rest[5], second, 43).await;
        fixture.run("UPDATE worker SET heartbeat_at = ? + 14000", |q| q.bind(NOW - 18_000)).await;
        fixture
    }
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>;

/// A digest that stands for `text`.
pub fn digest(text: &str) -> Digest {
    digest_of(text.as_bytes())
}

pub fn digest_of(bytes: &[u8]) -> Digest {
    use sha2::Digest as _;
    Digest::from_bytes(&sha2::Sha256::digest(bytes).into())
}

/// The spec of a condition with the miniature's settings.
pub fn spec(subject: &str, region: &str, gamma: f64) -> Condition {
    let folder =
        |name: &str| ModelFolder { path: format!("/models/{name}").into(), digest: digest(name), files: Vec::new() };
    Condition::Sample(Box::new(SampleCondition {
        subject: subject.to_owned(),
        region: region.to_owned(),
        models: Models {
            diffusion: folder("sd"),
            backbone: folder("clip"),
            encoder: Input::Content(folder("encoder")),
            probe: folder("coca"),
        },
        objective: Objective {
            terms: vec![Term { weight: 1.0, voxels: VoxelSet::Rows { rows: (0..60).collect(), denominator: 60 } }],
        },
        sampling: Sampling { steps: 50, gamma, sag_scale: 0.75, size: [32, 32], ..Sampling::default() },
        probes: CLASSES
            .iter()
            .map(|class| ProbeClass { name: (*class).to_owned(), prompts: vec![format!("a picture of {class}")] })
            .collect(),
        prefers: Some(region.to_owned()),
        init_image: None,
    }))
}
