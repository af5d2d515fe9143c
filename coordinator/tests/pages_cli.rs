//! The reading commands and the demo, over a job table filled by SQL.
#![allow(clippy::unwrap_used)]

mod pages_fixture;

use clap::Parser;
use coordinator::cli::demo::{self, Setting, Started};
use coordinator::cli::{job, jobs, status, workers};
use pages_fixture::{CLASSES, Fixture, digest};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio::sync::watch;

#[derive(Debug, Parser)]
enum Command {
    Status(status::Args),
    Jobs(jobs::Args),
    Job(job::Args),
    Workers(workers::Args),
    Demo(demo::Args),
}

fn parse(line: &str) -> Result<Command, clap::Error> {
    Command::try_parse_from(std::iter::once("coordinator").chain(line.split_whitespace()))
}

async fn run(line: &str) -> anyhow::Result<ExitCode> {
    match parse(line)? {
        Command::Status(args) => args.run().await,
        Command::Jobs(args) => args.run().await,
        Command::Job(args) => args.run().await,
        Command::Workers(args) => args.run().await,
        Command::Demo(args) => args.run_with(async |_: &Setting| anyhow::bail!("no coordinator here")).await,
    }
}

#[tokio::test]
async fn every_reading_command_answers_for_people_and_as_json() {
    let fixture = Fixture::campaign(|region, seed| digest(&format!("image {region} {seed}"))).await;
    let db = fixture.path.display();
    for line in ["status", "status miniature", "jobs --state failed --limit 2", "job 13", "job 1", "workers"] {
        for json in ["", " --json"] {
            let line = format!("{line} --db {db}{json}");
            assert_eq!(run(&line).await.unwrap(), ExitCode::SUCCESS, "{line}");
        }
    }
}

#[tokio::test]
async fn a_wrong_name_is_answered_with_what_would_be_right() {
    let fixture = Fixture::campaign(|region, seed| digest(&format!("image {region} {seed}"))).await;
    let db = fixture.path.display();
    let error = run(&format!("status miniatur --db {db}")).await.unwrap_err();
    assert_eq!(error.to_string(), "there is no experiment `miniatur`; the nearest name is `miniature`");
    let error = run(&format!("job 4711 --db {db}")).await.unwrap_err();
    assert!(error.to_string().contains("coordinator jobs"), "{error}");
    let error = parse("jobs --state finished").unwrap_err().to_string();
    assert!(error.contains("done") && error.contains("cancelled"), "{error}");
    let error = run("status --db /nowhere/braindive.db").await.unwrap_err();
    assert!(error.to_string().contains("coordinator serve"), "{error}");
}

/// A program that stands for the worker, and the demo's command line with it.
fn demo_line(folder: &Path, script: &str) -> String {
    let program = folder.join("fake-worker");
    std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let experiment = folder.join("experiment.yaml");
    std::fs::write(&experiment, "name: x").unwrap();
    format!("demo --dir {}/demo --worker {} --experiment {}", folder.display(), program.display(), experiment.display())
}

/// A coordinator that stands for the real one: its jobs end as `outcome` says while the demo watches.
async fn stand_in(setting: &Setting, outcome: Outcome) -> Started {
    let mut fixture = Fixture::create(&setting.database).await;
    let experiment = fixture.experiment("x", None).await;
    let mut jobs = Vec::new();
    for region in CLASSES {
        for gamma in [14.0, 0.0] {
            let condition = fixture.condition(experiment, "sim01", region, gamma).await;
            jobs.push((fixture.job(condition, 1).await, region));
        }
    }
    let (changed, changes) = watch::channel(0_u64);
    let worker = fixture.worker("here/cpu", 1).await;
    let started = setting.folder.join("pid");
    let task = tokio::spawn(async move {
        while !started.exists() {
            tokio::task::yield_now().await;
        }
        for (job, region) in jobs {
            match outcome {
                Outcome::Images => {
                    fixture.claim(job, worker, 0).await;
                    fixture.complete(job, 3, 1.0, region, &digest(&format!("{job}"))).await;
                }
                Outcome::Failures => {
                    fixture.claim(job, worker, 0).await;
                    fixture.fail(job, 1, "non_finite", "NaN in the latents at step 3", "failed", 0).await;
                }
                Outcome::Nothing => std::future::pending().await,
            }
            changed.send_modify(|version| *version += 1);
        }
        // Serves until it is stopped.
        std::future::pending::<()>().await;
    });
    let image = setting.folder.join("image.png");
    image::RgbImage::new(32, 32).save(&image).unwrap();
    let stopped = setting.folder.join("stopped");
    Started {
        url: "http://127.0.0.1:1".to_owned(),
        changes,
        image: Box::new(move |_| image.clone()),
        stop: Box::pin(async move {
            task.abort();
            std::fs::write(stopped, "")?;
            Ok(())
        }),
    }
}

#[derive(Clone, Copy)]
enum Outcome {
    Images,
    Failures,
    Nothing,
}

async fn run_demo(line: &str, outcome: Outcome) -> anyhow::Result<ExitCode> {
    let Command::Demo(args) = parse(line)? else { panic!("not a demo: {line}") };
    args.run_with(async |setting: &Setting| Ok(stand_in(setting, outcome).await)).await
}

/// Says its process number, then waits to be told to stop.
const PATIENT: &str = "trap 'echo drained; exit 0' TERM; cd \"$(dirname \"$2\")\"; echo $$ > new; mv new pid; while :; do sleep 0.05; done";

#[tokio::test]
async fn a_demo_ends_with_a_contact_sheet_and_leaves_no_process_behind() {
    let folder = tempfile::tempdir().unwrap();
    let line = demo_line(folder.path(), PATIENT);
    assert_eq!(run_demo(&line, Outcome::Images).await.unwrap(), ExitCode::SUCCESS);
    let demo: PathBuf = folder.path().join("demo");
    let sheet = image::open(demo.join("contact_sheet.png")).unwrap();
    assert!(sheet.height() > 5 * 96);
    assert!(demo.join("stopped").exists(), "the coordinator was stopped");
    let pid = std::fs::read_to_string(demo.join("pid")).unwrap();
    assert!(!Path::new("/proc").join(pid.trim()).exists(), "the worker has ended");
    assert_eq!(std::fs::read_to_string(demo.join("worker-1.log")).unwrap(), "drained\n", "and was asked to");
    let again = run_demo(&line, Outcome::Images).await.unwrap_err().to_string();
    assert!(again.contains("already holds a demo") && again.contains("--dir"), "{again}");
}

#[tokio::test]
async fn a_worker_that_ends_early_is_an_error_with_the_end_of_its_log() {
    let folder = tempfile::tempdir().unwrap();
    let line = demo_line(folder.path(), "echo reading head.safetensors: no such file >&2; exit 3");
    let error = run_demo(&line, Outcome::Nothing).await.unwrap_err().to_string();
    assert!(error.contains("exit status: 3") && error.contains("reading head.safetensors: no such file"), "{error}");
    assert!(folder.path().join("demo/stopped").exists(), "the coordinator was stopped");
}

#[tokio::test]
async fn failed_jobs_are_an_error_that_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let line = demo_line(folder.path(), PATIENT);
    let error = run_demo(&line, Outcome::Failures).await.unwrap_err().to_string();
    assert_eq!(error, "10 jobs gave no image\n  10 × non_finite: NaN in the latents at step 3");
}

#[tokio::test]
async fn a_demo_without_its_worker_or_its_experiment_says_where_it_looked() {
    let folder = tempfile::tempdir().unwrap();
    let line = demo_line(folder.path(), "");
    std::fs::remove_file(folder.path().join("fake-worker")).unwrap();
    let error = run_demo(&line, Outcome::Nothing).await.unwrap_err().to_string();
    assert!(error.contains("fake-worker") && error.contains("cargo build"), "{error}");
    let error = run_demo("demo --experiment /nowhere.yaml", Outcome::Nothing).await.unwrap_err().to_string();
    assert!(error.contains("/nowhere.yaml"), "{error}");
    assert!(!folder.path().join("demo").exists(), "nothing is made before everything is found");
}
