//! What the pages show of jobs that make folders.
#![allow(clippy::unwrap_used)]

use coordinator::dashboard;
use coordinator::plan::{Experiment, Plan, PlannedCondition, key};
use coordinator::queue::{Queue, Settings, view};
use protocol::claim::{Claim, Register};
use protocol::ids::{Digest, Seed};
use protocol::job::{Condition, Kind, ModelFile, Out, Precision, PrepareCondition, PrepareSettings};
use protocol::outcome::{Completed, FolderResult, JobResult, PhaseSeconds};
use protocol::version::{API_VERSION, SOFTWARE};
use std::collections::BTreeMap;
use std::path::Path;
use tokio::sync::watch;

fn prepared() -> Plan {
    let spec = Condition::Prepare(Box::new(PrepareCondition {
        subject: "subj01".to_owned(),
        settings: PrepareSettings { root: "/data/nsd".into(), ..PrepareSettings::default() },
        files: BTreeMap::new(),
        out: Out::new("/derived/prepared/subj01".into()),
    }));
    let condition = PlannedCondition {
        key: key(&spec),
        subject: "subj01".to_owned(),
        region: String::new(),
        axes: BTreeMap::new(),
        spec,
    };
    let experiment = Experiment {
        name: "prepared".to_owned(),
        description: String::new(),
        kind: Kind::Prepare,
        priority: 0,
        share: 1.0,
        max_losses: 5,
        needs: Vec::new(),
        max_attempts: 3,
        budget_gpu_hours: None,
        yaml: "name: prepared".to_owned(),
    };
    Plan { experiment, conditions: vec![condition], seeds: vec![Seed(0)] }
}

/// A job table whose only job has made a folder.
async fn done(db: &Path) {
    let queue = Queue::open(db, Settings::default()).await.unwrap();
    queue.submit(prepared()).await.unwrap();
    let introduction = Register {
        api_version: API_VERSION,
        name: "node01/cpu".to_owned(),
        host: "node01".to_owned(),
        pid: 1,
        device: "cpu".to_owned(),
        device_name: "test".to_owned(),
        device_uuid: None,
        slots: 1,
        batch: 1,
        kinds: vec![Kind::Prepare],
        precisions: Precision::ALL.to_vec(),
        remaining_ms: None,
        software: SOFTWARE.to_owned(),
    };
    let worker = queue.register(introduction).await.unwrap().worker;
    let claim = Claim { worker, max: 1, wait_ms: 0, loaded: Vec::new(), ahead: false, batch: None, remaining_ms: None };
    let job = queue.claim(claim).await.unwrap().jobs.pop().unwrap();
    let image = Digest::from_bytes(&[7; 32]);
    queue.record_artifact(image.clone(), 1).await.unwrap();
    let result = JobResult::Prepare(Box::new(FolderResult {
        image_sha256: image,
        out: "/derived/prepared/subj01".into(),
        files: vec![ModelFile {
            name: "betas.safetensors".to_owned(),
            bytes: 12_345,
            sha256: Digest::from_bytes(&[8; 32]),
        }],
        inputs: BTreeMap::from([("design".to_owned(), Digest::from_bytes(&[9; 32]))]),
        summary: BTreeMap::from([("held_out_images".to_owned(), 907.0)]),
        seconds: PhaseSeconds { sampling: 3.0, ..PhaseSeconds::default() },
        device: "cpu".to_owned(),
        software: SOFTWARE.to_owned(),
    }));
    queue.complete(Completed { worker, job: job.job, fence: job.fence, result }).await.unwrap();
    queue.close().await;
}

#[tokio::test]
async fn a_folder_is_shown_with_its_files_and_without_tables_of_scores() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("jobs.db");
    done(&db).await;
    let (_changed, changes) = watch::channel(1);
    let app = dashboard::router(dashboard::State { reader: view::open(&db).await.unwrap(), changes });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    let http = tls::client(None).unwrap().build().unwrap();
    let get = async |path: &str| http.get(format!("{url}{path}")).send().await.unwrap().text().await.unwrap();

    let job = get("/jobs/1").await;
    for text in [
        "betas.safetensors",
        "12,345",
        "held out images",
        "907",
        "/derived/prepared/subj01",
        "betas_fithrf_GLMdenoise_RR",
    ] {
        assert!(job.contains(text), "{text} is not in {job}");
    }
    for path in ["/experiments/prepared", "/conditions/1", "/"] {
        let page = get(path).await;
        assert!(page.contains("subj01") || path == "/", "{page}");
        for scores in ["Mean activation", "What the images show", "predicted activation", "mean activation"] {
            assert!(!page.contains(scores), "{path} speaks of {scores}");
        }
    }
}
