//! The commands that read, over a job table filled by SQL, and the demo with a program that stands for its worker.
#![allow(clippy::unwrap_used)]

mod pages_fixture;

use clap::Parser;
use coordinator::api::client::Client;
use coordinator::cli::{demo, job, jobs, status, workers};
use pages_fixture::{Fixture, digest};
use protocol::claim::{Claim, Claimed, Register, Registered};
use protocol::endpoint::Endpoint;
use protocol::job::{Kind, Precision};
use protocol::outcome::{Closed, Completed, Failed, FailureClass, JobResult, PhaseSeconds, ProbeResult, SampleResult};
use protocol::version::{API_VERSION, SOFTWARE};
use std::io::Cursor;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

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
        Command::Demo(args) => args.run().await,
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

/// A program that stands for the worker, and the command line of a demo of one region, guided and unguided, with it.
fn demo_line(folder: &Path, script: &str) -> String {
    let program = folder.join("stand-in");
    std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let bundle = concat!(env!("CARGO_MANIFEST_DIR"), "/../miniature/bundle");
    let experiment = folder.join("experiment.yaml");
    let text = format!(
        "name: x\nkind: sample\n\
         models: {{ diffusion: {bundle}/sd, backbone: {bundle}/clip, encoder: {bundle}/encoder, probe: {bundle}/coca }}\n\
         grid: {{ subject: sim01, region: face, gamma: [14, 0], seed: 1 }}\nsampling: {{ size: 32 }}\n"
    );
    std::fs::write(&experiment, text).unwrap();
    format!("demo --dir {}/demo --worker {} --experiment {}", folder.display(), program.display(), experiment.display())
}

/// Says its process number, then waits to be told to stop.
const PATIENT: &str = "trap 'echo drained; exit 0' TERM; cd \"$(dirname \"$2\")\"; echo $$ > new; mv new pid; while :; do sleep 0.05; done";

/// How the jobs of a demo end.
#[derive(Clone, Copy)]
enum Outcome {
    Images,
    Failures,
}

/// Does the work of the demo's worker over HTTP, once the program that stands for it runs.
async fn work(demo: PathBuf, outcome: Outcome) {
    while !demo.join("pid").exists() {
        tokio::task::yield_now().await;
    }
    let endpoint: Endpoint = serde_json::from_slice(&std::fs::read(demo.join("endpoint.json")).unwrap()).unwrap();
    let mut png = Cursor::new(Vec::new());
    image::RgbImage::new(32, 32).write_to(&mut png, image::ImageFormat::Png).unwrap();
    let png = png.into_inner();
    let image_sha256 = pages_fixture::digest_of(&png);
    let upload = format!("{}/api/v1/artifacts/{image_sha256}", endpoint.url);
    let uploaded = tls::client(None)
        .unwrap()
        .build()
        .unwrap()
        .put(upload)
        .bearer_auth(&endpoint.token)
        .body(png)
        .send()
        .await
        .unwrap();
    assert!(uploaded.status().is_success());

    let client = Client::new(endpoint).unwrap();
    let register = Register {
        api_version: API_VERSION,
        name: "here/cpu".to_owned(),
        host: "here".to_owned(),
        pid: 1,
        device: "cpu".to_owned(),
        device_name: "a test".to_owned(),
        device_uuid: None,
        batch: 1,
        kinds: Kind::ALL.to_vec(),
        precisions: Precision::ALL.to_vec(),
        remaining_ms: None,
        slots: 2,
        software: SOFTWARE.to_owned(),
    };
    let Registered { worker, .. } = client.post("register", &register).await.unwrap();
    let claim = Claim { worker, max: 2, wait_ms: 0, loaded: Vec::new(), ahead: false, batch: None, remaining_ms: None };
    let Claimed { jobs, .. } = client.post("claim", &claim).await.unwrap();
    assert_eq!(jobs.len(), 2);
    let seconds = PhaseSeconds::default();
    for claimed in jobs {
        let (job, fence) = (claimed.job, claimed.fence);
        let closed: Result<Closed, _> = match outcome {
            Outcome::Images => {
                let probe =
                    ProbeResult { class: "face".to_owned(), class_similarity: vec![0.2], similarity: vec![0.2] };
                let result = SampleResult {
                    image_sha256: image_sha256.clone(),
                    activation: 1.0,
                    roi_activation: Default::default(),
                    probe,
                    models: Default::default(),
                    effective_gamma: 14.0,
                    seconds,
                    device: "cpu".to_owned(),
                    deviations: Vec::new(),
                    software: SOFTWARE.to_owned(),
                };
                client
                    .post("result", &Completed { worker, job, fence, result: JobResult::Sample(Box::new(result)) })
                    .await
            }
            Outcome::Failures => {
                let message = "reading head.safetensors: no such file".to_owned();
                let failed = Failed { worker, job, fence, class: FailureClass::BadInput, message, seconds };
                client.post("fail", &failed).await
            }
        };
        closed.unwrap();
    }
}

/// Runs the demo while its jobs end as `outcome` says.
async fn run_demo(folder: &Path, outcome: Outcome) -> anyhow::Result<ExitCode> {
    let working = tokio::spawn(work(folder.join("demo"), outcome));
    let ended = run(&demo_line(folder, PATIENT)).await;
    working.await.unwrap();
    ended
}

/// The coordinator's endpoint file is there while it serves.
fn serves(folder: &Path) -> bool {
    folder.join("demo/endpoint.json").exists()
}

#[tokio::test]
async fn a_demo_ends_with_a_contact_sheet_and_leaves_no_process_behind() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(run_demo(folder.path(), Outcome::Images).await.unwrap(), ExitCode::SUCCESS);
    let demo = folder.path().join("demo");
    assert!(image::open(demo.join("contact_sheet.png")).unwrap().height() > 2 * 32);
    assert!(!serves(folder.path()), "the coordinator was stopped");
    let pid = std::fs::read_to_string(demo.join("pid")).unwrap();
    assert!(!Path::new("/proc").join(pid.trim()).exists(), "the worker has ended");
    assert_eq!(std::fs::read_to_string(demo.join("worker-1.log")).unwrap(), "drained\n", "and was asked to");
    let again = run(&demo_line(folder.path(), PATIENT)).await.unwrap_err().to_string();
    assert!(again.contains("already holds a demo") && again.contains("--dir"), "{again}");
}

#[tokio::test]
async fn a_worker_that_ends_early_is_an_error_with_the_end_of_its_log() {
    let folder = tempfile::tempdir().unwrap();
    let line = demo_line(folder.path(), "echo reading head.safetensors: no such file >&2; exit 3");
    let error = run(&line).await.unwrap_err().to_string();
    assert!(error.contains("exit status: 3") && error.contains("reading head.safetensors: no such file"), "{error}");
    assert!(!serves(folder.path()), "the coordinator was stopped");
}

#[tokio::test]
async fn failed_jobs_are_an_error_that_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let error = run_demo(folder.path(), Outcome::Failures).await.unwrap_err().to_string();
    assert_eq!(error, "2 jobs gave no image\n  2 × bad_input: reading head.safetensors: no such file");
}

#[tokio::test]
async fn a_demo_without_its_worker_or_its_experiment_says_where_it_looked() {
    let folder = tempfile::tempdir().unwrap();
    let line = demo_line(folder.path(), "");
    std::fs::remove_file(folder.path().join("stand-in")).unwrap();
    let error = run(&line).await.unwrap_err().to_string();
    assert!(error.contains("stand-in") && error.contains("cargo build"), "{error}");
    let error = run("demo --experiment /nowhere.yaml").await.unwrap_err().to_string();
    assert!(error.contains("/nowhere.yaml"), "{error}");
    assert!(!folder.path().join("demo").exists(), "nothing is made before everything is found");
}
