//! What people run on a campaign, through the real program: check, backup, gc, pause, priority, quarantine, filters, explanations.
#![allow(clippy::unwrap_used)]

mod queue_fixture;

use coordinator::artifacts::Artifacts;
use coordinator::plan::Plan;
use coordinator::queue::view::{self, Snapshot};
use coordinator::queue::{Queue, Settings, open_database};
use protocol::claim::Register;
use protocol::ids::{Digest, JobId, WorkerId};
use protocol::job::{Condition, Kind, Precision};
use protocol::outcome::FailureClass;
use queue_fixture::{claim, claim_one, completed, failed, open, plan, register, scores, settings, worker};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

/// A database with a store beside it.
struct Campaign {
    folder: TempDir,
    settings: Settings,
    queue: Queue,
    artifacts: Artifacts,
}

impl Campaign {
    async fn new(plans: &[Plan]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings();
        let queue = open(folder.path(), &settings).await;
        for plan in plans {
            queue.submit(plan.clone()).await.unwrap();
        }
        let artifacts = Artifacts::open(&folder.path().join("artifacts")).unwrap();
        Self { folder, settings, queue, artifacts }
    }

    fn db(&self) -> PathBuf {
        self.folder.path().join("queue.db")
    }

    fn pass(&self, seconds: u64) {
        self.settings.clock.advance(Duration::from_secs(seconds));
    }

    async fn store(&self, content: &str) -> Digest {
        let digest = Digest::from_bytes(&Sha256::digest(content).into());
        let mut upload = self.artifacts.upload(digest.clone()).unwrap();
        upload.write(&content.as_bytes().to_vec().into()).await.unwrap();
        let bytes = upload.finish().await.unwrap();
        self.queue.record_artifact(digest.clone(), bytes).await.unwrap();
        digest
    }

    /// Claims a job and delivers its image; gives the image's digest.
    async fn finish_one(&self, worker: WorkerId) -> Digest {
        let job = claim_one(&self.queue, worker).await;
        let digest = self.store(&format!("image of job {}", job.job)).await;
        self.pass(20);
        let mut done = completed(worker, &job);
        scores(&mut done).image_sha256 = digest.clone();
        self.queue.complete(done).await.unwrap();
        digest
    }

    /// Two jobs done, one failed, one lost and taken up by another worker, whose first one delivers late; one cancelled.
    async fn middle() -> Self {
        let campaign = Self::new(&[plan("small", 2, 4)]).await;
        let queue = &campaign.queue;
        let first = worker(queue).await;
        campaign.finish_one(first).await;
        campaign.finish_one(first).await;
        let bad = claim_one(queue, first).await;
        queue.fail(failed(first, &bad, FailureClass::Io, "no space left")).await.unwrap();
        let slow = claim_one(queue, first).await;
        campaign.pass(100);
        queue.expire().await.unwrap();
        let second = worker(queue).await;
        campaign.finish_one(second).await;
        let mut late = completed(first, &slow);
        scores(&mut late).image_sha256 = campaign.store("a late image").await;
        queue.complete(late).await.unwrap();
        queue.cancel(coordinator::queue::request::Cancel::Jobs(vec![JobId(8)])).await.unwrap();
        claim_one(queue, second).await;
        campaign
    }

    async fn change(&self, sql: &str) {
        let mut connection = open_database(&self.db()).await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.unwrap();
        sqlx::Connection::close(connection).await.unwrap();
    }

    /// Runs the program on the database: exit code, standard output, standard error.
    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        run(&self.db(), arguments)
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let (code, out, error) = self.run(&[arguments, &["--json"]].concat());
        assert!(code == 0 || arguments[0] == "check", "{arguments:?}: {error}");
        serde_json::from_str(&out).unwrap_or_else(|_| panic!("{arguments:?}: {out}{error}"))
    }

    /// Names of the checks that do not hold.
    fn broken(&self) -> Vec<String> {
        let report = self.json(&["check"]);
        let checks = report["checks"].as_array().unwrap();
        let broken = checks.iter().filter(|check| check["broken"] != 0);
        let names: Vec<String> = broken.map(|check| check["check"].as_str().unwrap().to_owned()).collect();
        assert_eq!(report["holds"], names.is_empty());
        names
    }

    async fn explanation(&self, job: i64) -> String {
        let reader = view::open(&self.db()).await.unwrap();
        let mut snapshot = Snapshot::at(&reader, self.settings.clock.now()).await.unwrap();
        snapshot.explained(JobId(job)).await.unwrap().unwrap().1
    }
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coordinator"));
    command.env_remove("BRAINDIVE_DB").env("RUST_LOG", "warn");
    command
}

fn run(db: &Path, arguments: &[&str]) -> (i32, String, String) {
    let output = program().args(arguments).arg("--db").arg(db).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn check_holds_in_the_middle_of_a_campaign_and_says_so() {
    let campaign = Campaign::middle().await;
    let (code, out, error) = campaign.run(&["check"]);
    assert_eq!(code, 0, "{out}{error}");
    assert!(
        out.lines().all(|line| line.starts_with("ok ") || line.starts_with("all 17 checks hold; 4 images read")),
        "{out}"
    );
    let (_, out, _) = campaign.run(&["check", "--quick"]);
    assert!(out.contains("found with their sizes, not read"), "{out}");
}

/// What was changed behind the writer's back is found by the check for it.
#[tokio::test]
async fn every_broken_promise_of_the_rows_is_found_by_its_check() {
    let campaign = Campaign::middle().await;
    campaign.queue.close().await;
    for (check, harm) in [
        ("counters", "UPDATE counter SET jobs = jobs + 1 WHERE state = 'done'"),
        ("counters", "DELETE FROM counter WHERE state = 'done'"),
        ("scores", "UPDATE score SET activation_sum = activation_sum + 0.5"),
        ("scores", "DELETE FROM score"),
        ("device time", "UPDATE spent SET gpu_seconds = gpu_seconds + 1 WHERE outcome = 'done'"),
        ("failures", "UPDATE failure SET attempts = 7 WHERE class = 'io'"),
        ("workers' time", "UPDATE worker SET useful_s = useful_s + 0.1"),
        ("time up", "UPDATE worker SET registered_at = heartbeat_at - 1000"),
        ("results", "UPDATE result SET counted = 0 WHERE id = 1"),
        ("done attempts", "UPDATE result SET counted = 0 WHERE id = 1"),
        ("fences", "UPDATE result SET fence = 9 WHERE id = 1"),
        ("fences", "UPDATE attempt SET outcome = 'cancelled' WHERE outcome = 'done'"),
        ("running jobs", "UPDATE attempt SET outcome = 'cancelled', ended_at = 0 WHERE outcome = 'running'"),
        ("running attempts", "UPDATE job SET fence = fence + 1 WHERE state = 'running'"),
        ("attempts", "UPDATE job SET attempts = 2 WHERE state = 'ready'"),
        ("blocked jobs", "UPDATE job SET state = 'blocked', not_before = 0 WHERE state = 'ready'"),
        ("experiments", "UPDATE job SET experiment_id = 2 WHERE id = 1"),
        ("references", "PRAGMA foreign_keys = 0; DELETE FROM artifact"),
        ("references", "PRAGMA foreign_keys = 0; UPDATE job SET worker_id = 3 WHERE state = 'running'"),
    ] {
        let before = fs::read(campaign.db()).unwrap();
        if check == "experiments" {
            campaign.change("INSERT INTO experiment SELECT 2, 'other', '', kind, 0, 1, 0, 3, 5, NULL, 0, 1, '', 0, 0 FROM experiment").await;
        }
        campaign.change(harm).await;
        let broken = campaign.broken();
        assert!(broken.iter().any(|name| name == check), "{harm}: {broken:?}");
        let (code, out, _) = campaign.run(&["check", "--quick"]);
        assert!(code == 1 && out.contains("WRONG ") && out.contains("coordinator backup"), "{harm}: {out}");
        fs::write(campaign.db(), before).unwrap();
        for log in ["queue.db-wal", "queue.db-shm"] {
            let _ = fs::remove_file(campaign.folder.path().join(log));
        }
        assert_eq!(campaign.broken(), Vec::<String>::new(), "after mending");
    }
}

#[tokio::test]
async fn check_finds_images_that_are_missing_cut_or_changed_and_orphans_harm_nothing() {
    let campaign = Campaign::new(&[plan("small", 1, 3)]).await;
    let worker = worker(&campaign.queue).await;
    let mut paths = Vec::new();
    for _ in 0..3 {
        paths.push(campaign.artifacts.path(&campaign.finish_one(worker).await));
    }
    let whole = fs::read(&paths[1]).unwrap();
    fs::remove_file(&paths[0]).unwrap();
    fs::write(&paths[1], &whole[1..]).unwrap();
    let changed: Vec<u8> = fs::read(&paths[2]).unwrap().iter().map(|byte| byte ^ 1).collect();
    fs::write(&paths[2], changed).unwrap();
    let (code, out, _) = campaign.run(&["check"]);
    assert_eq!(code, 1);
    for fault in ["is not there", "has 13 bytes, 14 are recorded", "has another content", "3 times not"] {
        assert!(out.contains(fault), "{fault:?} in {out}");
    }
    let (_, out, _) = campaign.run(&["check", "--quick"]);
    assert!(out.contains("2 times not"), "content is not read: {out}");

    let campaign = Campaign::new(&[]).await;
    let orphan = campaign.artifacts.path(&campaign.store("an image without a result").await);
    campaign.change("DELETE FROM artifact").await;
    age(&orphan, Duration::from_secs(3600));
    let (code, out, _) = campaign.run(&["check"]);
    assert!(code == 0 && out.contains("note   1 files") && out.contains("coordinator gc"), "{out}");
}

/// Makes a file as old as that.
fn age(path: &Path, age: Duration) {
    File::options().write(true).open(path).unwrap().set_modified(SystemTime::now() - age).unwrap();
}

#[tokio::test]
async fn a_backup_is_whole_is_nobodys_and_replaces_nothing() {
    let campaign = Campaign::middle().await;
    campaign.change("INSERT INTO owner VALUES (1, 'elsewhere', 1, 'http://x', '/x', 0, 0)").await;
    let copy = campaign.folder.path().join("copy.db");
    let (code, out, error) = campaign.run(&["backup", copy.to_str().unwrap()]);
    assert_eq!(code, 0, "{error}");
    let images = campaign.folder.path().join("artifacts");
    assert!(out.contains("8 jobs") && out.contains(&format!("copy {} too", images.display())), "{out}");
    let (code, out, error) = run(&copy, &["check", "--store", images.to_str().unwrap()]);
    assert_eq!(code, 0, "{out}{error}");
    let reader = view::open(&copy).await.unwrap();
    let owners: i64 = sqlx::query_scalar("SELECT count(*) FROM owner").fetch_one(&reader).await.unwrap();
    assert_eq!(owners, 0, "commands on the copy must not reach the coordinator of the original");

    let before = fs::read(&copy).unwrap();
    let (code, _, error) = campaign.run(&["backup", copy.to_str().unwrap()]);
    assert!(code == 1 && error.contains("is there already"), "{error}");
    assert_eq!(fs::read(&copy).unwrap(), before);
    let left = fs::read_dir(campaign.folder.path()).unwrap();
    assert!(left.flatten().all(|entry| !entry.file_name().to_string_lossy().starts_with(".backup")));
}

#[tokio::test]
async fn gc_removes_old_images_that_no_result_names_and_nothing_else() {
    let campaign = Campaign::new(&[plan("small", 1, 2)]).await;
    let worker = worker(&campaign.queue).await;
    let named = campaign.artifacts.path(&campaign.finish_one(worker).await);
    let old = campaign.artifacts.path(&campaign.store("old").await);
    let young = campaign.artifacts.path(&campaign.store("young").await);
    let day = Duration::from_secs(25 * 3600);
    age(&named, day);
    age(&old, day);
    let dry = campaign.json(&["gc", "--dry-run"]);
    assert_eq!((dry["images"].as_u64(), dry["bytes"].as_u64()), (Some(1), Some(3)));
    assert!(old.exists());
    assert_eq!(campaign.broken(), Vec::<String>::new());
    let (_, out, error) = campaign.run(&["gc"]);
    assert_eq!(out, "1 images removed, 0.0 MB\n", "{error}");
    assert!(named.exists() && young.exists() && !old.exists());
    assert_eq!(campaign.broken(), Vec::<String>::new());
    assert_eq!(campaign.json(&["gc"])["images"], 0);
    let (code, _, error) = campaign.run(&["gc", "--older-than", "1s"]);
    assert!(code == 1 && error.contains("a minute or more"), "{error}");
}

#[tokio::test]
async fn an_image_that_was_stored_anew_is_put_back() {
    let campaign = Campaign::new(&[]).await;
    let digest = campaign.store("stored anew").await;
    let removed = campaign.artifacts.remove_old(vec![digest.clone()], Duration::from_secs(60)).unwrap();
    assert_eq!(removed, []);
    assert_eq!(fs::read(campaign.artifacts.path(&digest)).unwrap(), b"stored anew");
    age(&campaign.artifacts.path(&digest), Duration::from_secs(120));
    let removed = campaign.artifacts.remove_old(vec![digest.clone()], Duration::from_secs(60)).unwrap();
    assert_eq!(removed, [digest]);
    assert_eq!(fs::read_dir(campaign.artifacts.folder().join("incoming")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_paused_experiment_gets_no_workers_until_it_is_resumed_beside_the_others() {
    let campaign = Campaign::new(&[plan("first", 1, 9), plan("second", 1, 9)]).await;
    let worker = worker(&campaign.queue).await;
    let (code, out, error) = campaign.run(&["pause", "first"]);
    assert_eq!(
        (code, out.as_str()),
        (0, "first: paused: jobs that run go on, others wait; priority 0, share 1\n"),
        "{error}"
    );
    let claimed = campaign.queue.claim(claim(worker, 6)).await.unwrap();
    assert!(claimed.jobs.iter().all(|job| job.job > JobId(9)), "{claimed:?}");
    assert!(campaign.run(&["status"]).1.contains("first         paused"), "{}", campaign.run(&["status"]).1);
    assert_eq!(campaign.json(&["status", "first"])["experiment"]["paused"], true);
    let expected = "Waits because first is paused: `coordinator resume first` lets it go on.";
    assert_eq!(campaign.explanation(1).await, expected);
    campaign.json(&["resume", "first"]);
    let mut turns = Vec::new();
    for _ in 0..4 {
        turns.push(claim_one(&campaign.queue, worker).await.job <= JobId(9));
    }
    turns.sort_unstable();
    assert_eq!(turns, [false, false, true, true], "the pause gives no claim on the future");
    let (code, _, error) = campaign.run(&["pause", "frst"]);
    assert!(code == 1 && error.contains("did you mean `first`?"), "{error}");
}

#[tokio::test]
async fn priority_and_share_change_who_is_served_next() {
    let campaign = Campaign::new(&[plan("first", 1, 20), plan("second", 1, 20)]).await;
    let worker = worker(&campaign.queue).await;
    let served = campaign.json(&["set-priority", "second", "7", "--share", "2.5"]);
    assert_eq!((served["priority"].as_i64(), served["share"].as_f64()), (Some(7), Some(2.5)));
    let claimed = campaign.queue.claim(claim(worker, 8)).await.unwrap();
    assert!(claimed.jobs.iter().all(|job| job.job > JobId(20)));
    let behind = campaign.explanation(2).await;
    assert_eq!(
        behind,
        "Ready: 1 ready job stands before it in its experiment after 12 of experiments with a higher priority, and 1 worker \
         claims jobs now."
    );
    campaign.json(&["set-priority", "second", "-1"]);
    assert!(claim_one(&campaign.queue, worker).await.job <= JobId(20));
    for wrong in [&["set-priority", "second"][..], &["set-priority", "second", "--share", "0"]] {
        assert_eq!(campaign.run(wrong).0, 2);
    }
}

#[tokio::test]
async fn a_quarantined_device_is_shown_with_its_reason_and_released() {
    let campaign = Campaign::new(&[plan("small", 1, 3)]).await;
    let queue = &campaign.queue;
    let worker = worker(queue).await;
    let job = claim_one(queue, worker).await;
    queue.fail(failed(worker, &job, FailureClass::DeviceFault, "Xid 79: fell off the bus")).await.unwrap();
    assert_eq!(
        campaign.explanation(2).await,
        "Waits for a worker that can take it: every one that claims jobs now has a quarantined device, see `coordinator \
         workers` (1)."
    );
    let (_, out, _) = campaign.run(&["workers", "--all"]);
    assert!(out.contains("quarantined: node01/cpu gets no jobs, because: Xid 79: fell off the bus"), "{out}");
    assert_eq!(campaign.json(&["workers", "--all"])[0]["quarantine"], "Xid 79: fell off the bus");
    let (code, _, error) = campaign.run(&["release-device", "node1/cpu"]);
    assert!(code == 1 && error.contains("these are: node01/cpu"), "{error}");
    assert_eq!(campaign.json(&["release-device", "node01/cpu"])["reason"], "Xid 79: fell off the bus");
    claim_one(queue, worker).await;
}

#[tokio::test]
async fn a_job_in_a_precision_that_no_device_computes_in_is_explained() {
    let mut bfloat16 = plan("bfloat16", 1, 1);
    let Condition::Sample(sample) = &mut bfloat16.conditions[0].spec else { panic!("it samples") };
    sample.sampling.precision = Precision::Bfloat16;
    let campaign = Campaign::new(&[bfloat16]).await;
    let v100 = Register { precisions: vec![Precision::Single, Precision::Half], ..register("node02/cuda:0") };
    campaign.queue.register(v100).await.unwrap();
    let told = campaign.explanation(1).await;
    assert!(told.ends_with("and a worker built for it (1)."), "{told}");
    worker(&campaign.queue).await;
    assert!(campaign.explanation(1).await.starts_with("Ready: it is the next"));
}

#[tokio::test]
async fn a_waiting_job_is_explained_by_what_it_waits_for() {
    let needing = Plan {
        experiment: coordinator::plan::Experiment {
            needs: vec!["first".to_owned()],
            ..plan("second", 1, 1).experiment
        },
        ..plan("second", 1, 1)
    };
    let campaign = Campaign::new(&[plan("first", 1, 3), needing]).await;
    let queue = &campaign.queue;
    let waits = "Waits for condition 1 of first (subj01 region0), which it needs: 3 jobs there are not done.";
    assert_eq!(campaign.explanation(4).await, waits);
    assert!(campaign.explanation(1).await.starts_with("Waits for a worker: none claims jobs now."));

    let other = Register { kinds: vec![Kind::Simulate], ..register("node02/cpu") };
    let other = queue.register(other).await.unwrap().worker;
    let refused = "Waits for a worker that can take it: every one that claims jobs now does other work (1).";
    assert_eq!(campaign.explanation(1).await, refused);
    queue.release(protocol::heartbeat::Release { worker: other, jobs: Vec::new() }).await.unwrap();

    let leaving = Register { remaining_ms: Some(30_000), ..register("node03/cpu") };
    let leaving = queue.register(leaving).await.unwrap().worker;
    assert!(campaign.explanation(1).await.starts_with("Ready: it is the next"), "nobody knows how long it takes");
    campaign.finish_one(leaving).await;
    campaign.pass(8);
    let late = campaign.explanation(2).await;
    assert!(late.ends_with("does other work (1), or must end before the job would be done (1)."), "{late}");

    let able = worker(queue).await;
    let bad = claim_one(queue, able).await;
    queue.fail(failed(able, &bad, FailureClass::BadInput, "head.safetensors is cut short.")).await.unwrap();
    assert_eq!(
        campaign.explanation(3).await,
        "Held back by bad input: job 2 of its condition found head.safetensors is cut short. Mend it, then `coordinator retry 3`."
    );
    assert!(campaign.explanation(4).await.ends_with(
        "2 jobs there are not done; 1 of them failed or were cancelled: see `coordinator jobs --condition 1` and retry them."
    ));
    let told = campaign.json(&["explain", "3"]);
    assert_eq!((told["state"].as_str(), told["job"].as_i64()), (Some("blocked"), Some(3)));
}

#[tokio::test]
async fn jobs_are_retried_and_cancelled_by_a_filter_and_a_rehearsal_changes_nothing() {
    let campaign = Campaign::new(&[plan("small", 2, 5)]).await;
    let queue = &campaign.queue;
    let worker = worker(queue).await;
    let claimed = queue.claim(claim(worker, 6)).await.unwrap().jobs;
    for job in &claimed {
        let message = if job.seed.0 < 2 { "no space left on /scratch" } else { "read error" };
        // The same failure twice in a row is for good.
        queue.fail(failed(worker, job, FailureClass::Io, message)).await.unwrap();
    }
    campaign.pass(3600);
    for job in queue.claim(claim(worker, 6)).await.unwrap().jobs {
        let message = if job.seed.0 < 2 { "no space left on /scratch" } else { "read error" };
        queue.fail(failed(worker, &job, FailureClass::Io, message)).await.unwrap();
    }
    let full = r#"class=io message~"NO SPACE" seed=0-1"#;
    assert_eq!(campaign.json(&["jobs", "--where", &format!("state=failed {full}")]).as_array().unwrap().len(), 3);
    for _ in 0..2 {
        assert_eq!(campaign.json(&["retry", "--where", full, "--dry-run"])["jobs"], 3);
    }
    let (_, out, error) = campaign.run(&["retry", "--where", full]);
    assert_eq!(out, "3 jobs ready again\n", "{error}");
    assert_eq!(campaign.json(&["cancel", "--where", "region=region1 seed=2-4", "--dry-run"])["jobs"], 3);
    assert_eq!(campaign.json(&["cancel", "--where", "region=region1 seed=2-4"])["jobs"], 3);
    assert_eq!(campaign.json(&["retry", "--where", "region=region1"])["jobs"], 0, "cancelled jobs stay so");
    assert_eq!(campaign.json(&["retry", "--where", "region=region1 state=cancelled"])["jobs"], 3);
    assert_eq!(campaign.json(&["retry", "--failed", "--experiment", "small"])["jobs"], 3);
    assert_eq!(campaign.broken(), ["time up"; 0]);

    for (arguments, expected) in [
        (&["retry", "--where", "stat=failed"][..], "did you mean `state`?"),
        (&["cancel", "--where", ""], "an empty filter would cancel every job"),
        (&["cancel", "--where", "experiment=smal"], "did you mean `small`?"),
        (&["cancel", "3", "--where", "seed=1"], "cannot be used with"),
        (&["retry"], "required"),
    ] {
        let (code, _, error) = campaign.run(arguments);
        assert!(code != 0 && error.contains(expected), "{arguments:?}: {error}");
    }
}

#[tokio::test]
async fn everything_works_while_a_coordinator_serves() {
    let campaign = Campaign::middle().await;
    let old = campaign.artifacts.path(&campaign.store("no result names this").await);
    age(&old, Duration::from_secs(90_000));
    campaign.queue.close().await;
    let endpoint = campaign.folder.path().join("endpoint.json");
    let mut serve = program();
    serve.args(["serve", "--listen", "127.0.0.1:0", "--endpoint"]).arg(&endpoint).arg("--db").arg(campaign.db());
    let mut serving = serve.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(serving.stdout.take().unwrap()).lines();
    lines.next().expect("it serves").unwrap();
    let copy = campaign.folder.path().join("copy.db");
    assert_eq!(campaign.json(&["pause", "small"])["paused"], true);
    assert_eq!(campaign.json(&["set-priority", "small", "3"])["priority"], 3);
    assert_eq!(campaign.json(&["resume", "small"])["paused"], false);
    assert_eq!(campaign.json(&["cancel", "--where", "state=ready", "--dry-run"])["jobs"], 3);
    assert_eq!(campaign.json(&["retry", "--where", "state=cancelled"])["jobs"], 1);
    assert_eq!(campaign.json(&["gc"])["images"], 1);
    assert!(!old.exists());
    let (code, _, error) = campaign.run(&["release-device", "x"]);
    assert!(code == 1 && error.contains("none is"), "{error}");
    assert_eq!(campaign.broken(), Vec::<String>::new());
    assert_eq!(campaign.json(&["backup", copy.to_str().unwrap()])["jobs"], 8);
    serving.kill().unwrap();
    serving.wait().unwrap();
}
