//! The worker API over real HTTP: what it grants, and how it refuses.
#![allow(clippy::unwrap_used)]

mod queue_fixture;

use coordinator::api::listener::Limits;
use coordinator::cli::serve::{Options, Running, start};
use coordinator::queue::{Clock, Settings};
use protocol::claim::{Claimed, ClaimedJob, Registered};
use protocol::error::{Refusal, RefusalCode};
use protocol::heartbeat::{HeartbeatReply, Release};
use protocol::ids::{Digest, JobId, WorkerId};
use protocol::outcome::{Closed, Disposition, FailureClass, JobResult};
use queue_fixture::*;
use reqwest::{Method, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::time::Duration;
use tempfile::{TempDir, tempdir};

const PICTURE: &[u8] = b"\x89PNG\r\n\x1a\nnot much of a picture";

fn digest_of(bytes: &[u8]) -> Digest {
    Digest::from_bytes(&Sha256::digest(bytes).into())
}

/// A coordinator on a free port, and a client that has its token.
struct Served {
    folder: TempDir,
    running: Running,
    clock: Clock,
    http: reqwest::Client,
}

impl Served {
    async fn start() -> Self {
        let folder = tempdir().unwrap();
        let settings: Settings = settings();
        let clock = settings.clock.clone();
        let running = start(Options {
            db: folder.path().join("queue.db"),
            listen: "127.0.0.1:0".parse().unwrap(),
            store: None,
            endpoint: Some(folder.path().join("endpoint.json")),
            settings,
            limits: Limits::default(),
        })
        .await
        .unwrap();
        Self {
            folder,
            running,
            clock,
            http: tls::client(None).unwrap().redirect(reqwest::redirect::Policy::none()).build().unwrap(),
        }
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}/api/v1/{path}", self.running.url))
    }

    async fn send(&self, path: &str, body: &impl Serialize) -> Response {
        self.request(Method::POST, path).bearer_auth(self.running.token.as_str()).json(body).send().await.unwrap()
    }

    async fn ask<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> T {
        let response = self.send(path, body).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        response.json().await.unwrap()
    }

    async fn upload(&self, name: &Digest, bytes: &'static [u8]) -> Response {
        let request = self.request(Method::PUT, &format!("artifacts/{name}"));
        request.bearer_auth(self.running.token.as_str()).body(bytes).send().await.unwrap()
    }

    /// The cookie of a browser that opened the printed link.
    async fn cookie(&self) -> String {
        let entered = self.http.get(self.running.dashboard()).send().await.unwrap();
        entered.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned()
    }

    async fn worker(&self) -> WorkerId {
        self.ask::<Registered>("register", &register("node01/cpu")).await.worker
    }

    /// Lets time go by as a coordinator sees it that hears `worker` all the while.
    async fn pass(&self, time: Duration, worker: WorkerId) {
        let step = settings().heartbeat / 3;
        for _ in 0..time.div_duration_f64(step) as u32 {
            self.clock.advance(step);
            let _: HeartbeatReply = self.ask("heartbeat", &heartbeat(worker, &[])).await;
        }
    }

    async fn claim(&self, worker: WorkerId) -> ClaimedJob {
        self.ask::<Claimed>("claim", &claim(worker, 1)).await.jobs.pop().expect("a ready job")
    }

    fn stored_files(&self) -> usize {
        fn below(folder: &std::path::Path) -> usize {
            let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
            entries.map(|path| if path.is_dir() { below(&path) } else { 1 }).sum()
        }
        below(&self.folder.path().join("artifacts"))
    }
}

async fn refusal(response: Response) -> (StatusCode, RefusalCode, String) {
    let status = response.status();
    let refusal: Refusal = response.json().await.expect("a refusal in the API's own form");
    (status, refusal.code, refusal.message)
}

#[tokio::test]
async fn a_job_goes_from_submission_to_its_image_over_http() {
    let served = Served::start().await;
    let submitted: serde_json::Value = served.ask("submit", &plan("small", 1, 1)).await;
    assert_eq!(submitted["new_jobs"], 1);
    let registered: Registered = served.ask("register", &register("node01/cpu")).await;
    assert_eq!((registered.lease_ms, registered.heartbeat_ms), (60_000, 15_000));
    let worker = registered.worker;
    let claimed: Claimed = served.ask("claim", &claim(worker, 4)).await;
    assert_eq!((claimed.jobs.len(), claimed.conditions.len()), (1, 1));
    let job = &claimed.jobs[0];
    let reply: HeartbeatReply = served.ask("heartbeat", &heartbeat(worker, &[job])).await;
    assert_eq!(reply, HeartbeatReply::default());

    let digest = digest_of(PICTURE);
    for _ in 0..2 {
        assert_eq!(served.upload(&digest, PICTURE).await.status(), StatusCode::NO_CONTENT);
    }
    let mut done = completed(worker, job);
    done.result = JobResult::Sample(Box::new(result(digest.clone(), 1.0)));
    let closed: Closed = served.ask("result", &done).await;
    assert_eq!(closed.disposition, Disposition::Accepted);
    let closed: Closed = served.ask("result", &done).await;
    assert_eq!(closed.disposition, Disposition::Duplicate, "a repeated message changes nothing");

    let request = served.request(Method::GET, &format!("artifacts/{digest}"));
    let image = request.bearer_auth(served.running.viewer_token.as_str()).send().await.unwrap();
    assert_eq!(image.headers()["content-type"], "image/png");
    assert_eq!(image.bytes().await.unwrap(), PICTURE);
    served.running.stop().await.unwrap();
}

#[tokio::test]
async fn a_result_that_comes_after_its_lease_ran_out_is_superseded() {
    let served = Served::start().await;
    let _: serde_json::Value = served.ask("submit", &plan("slow", 1, 1)).await;
    served.upload(&digest_of(PICTURE), PICTURE).await;
    let (slow, fast) = (served.worker().await, served.worker().await);
    let first = served.claim(slow).await;
    let waiting = protocol::claim::Claim { wait_ms: 600_000, ..claim(fast, 1) };
    served.pass(LEASE / 2, fast).await;
    let (second, ()) = tokio::join!(served.ask::<Claimed>("claim", &waiting), served.pass(LEASE / 2, fast));
    let second = &second.jobs[0];
    assert_eq!(second.job, first.job, "the coordinator took the job back by itself and gave it to the one who waited");
    let mut late = completed(slow, &first);
    late.result = JobResult::Sample(Box::new(result(digest_of(PICTURE), 1.0)));
    assert_eq!(served.ask::<Closed>("result", &late).await.disposition, Disposition::Superseded);
    let mut good = completed(fast, second);
    good.result = JobResult::Sample(Box::new(result(digest_of(PICTURE), 1.0)));
    assert_eq!(served.ask::<Closed>("result", &good).await.disposition, Disposition::Accepted);
}

#[tokio::test]
async fn failures_and_releases_give_jobs_back() {
    let served = Served::start().await;
    let _: serde_json::Value = served.ask("submit", &plan("back", 1, 1)).await;
    let worker = served.worker().await;
    let job = served.claim(worker).await;
    let release = Release { worker, jobs: vec![(job.job, job.fence)] };
    assert_eq!(served.ask::<Vec<JobId>>("release", &release).await, [job.job]);
    assert_eq!(served.ask::<Vec<JobId>>("release", &release).await, [], "it is not the worker's any more");
    let job = served.claim(worker).await;
    let failure = failed(worker, &job, FailureClass::Preempted, "the node goes down");
    for expected in [Disposition::Accepted, Disposition::Duplicate] {
        assert_eq!(served.ask::<Closed>("fail", &failure).await.disposition, expected);
    }
    assert_eq!(served.claim(worker).await.attempt, 3);
}

#[tokio::test]
async fn every_verb_wants_the_workers_token_and_nothing_less() {
    let served = Served::start().await;
    let digest = digest_of(PICTURE);
    let artifact = format!("artifacts/{digest}");
    for path in ["register", "claim", "heartbeat", "result", "fail", "release", "submit", "preview", "cancel", "retry"]
    {
        let unauthorized = (StatusCode::UNAUTHORIZED, RefusalCode::Unauthorized);
        let forbidden = (StatusCode::FORBIDDEN, RefusalCode::Forbidden);
        let viewer = served.running.viewer_token.as_str();
        for (token, refused) in [(None, unauthorized), (Some("wrong"), unauthorized), (Some(viewer), forbidden)] {
            let mut request = served.request(Method::POST, path).json(&json!({}));
            if let Some(token) = token {
                request = request.bearer_auth(token);
            }
            let (status, code, _) = refusal(request.send().await.unwrap()).await;
            assert_eq!((status, code), refused, "{path}");
        }
        let with_cookie = served.request(Method::POST, path).header("cookie", served.cookie().await).json(&json!({}));
        let (status, ..) = refusal(with_cookie.send().await.unwrap()).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{path}: a cookie changes nothing");
    }
    let (status, ..) = refusal(served.request(Method::PUT, &artifact).body(PICTURE).send().await.unwrap()).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert_eq!(served.stored_files(), 0);
}

#[tokio::test]
async fn pages_images_and_the_feed_open_to_either_token_and_to_nobody_else() {
    let served = Served::start().await;
    served.upload(&digest_of(PICTURE), PICTURE).await;
    let image = format!("/api/v1/artifacts/{}", digest_of(PICTURE));
    let Running { url, token, viewer_token, .. } = &served.running;
    for path in ["/", "/workers", "/failures", "/events", &image] {
        let get = || served.http.get(format!("{url}{path}"));
        assert_eq!(get().send().await.unwrap().status(), StatusCode::UNAUTHORIZED, "{path}");
        assert_eq!(get().bearer_auth("wrong").send().await.unwrap().status(), StatusCode::UNAUTHORIZED, "{path}");
        let wrong = served.http.get(format!("{url}{path}?token=wrong")).header("cookie", "token=wrong");
        assert_eq!(wrong.send().await.unwrap().status(), StatusCode::UNAUTHORIZED, "{path}");
        for right in [token, viewer_token] {
            assert_eq!(get().bearer_auth(right.as_str()).send().await.unwrap().status(), StatusCode::OK, "{path}");
        }
        assert_eq!(
            get().header("cookie", served.cookie().await).send().await.unwrap().status(),
            StatusCode::OK,
            "{path}"
        );
    }
    let refused = served.http.get(url).send().await.unwrap();
    assert_eq!(refused.headers()["content-type"], "text/html; charset=utf-8", "people get a page");
    assert!(refused.text().await.unwrap().contains("open the link"));
}

#[tokio::test]
async fn the_link_that_serve_prints_opens_the_pages_and_leaves_no_token_in_the_address() {
    let served = Served::start().await;
    let entered = served.http.get(served.running.dashboard()).send().await.unwrap();
    assert_eq!((entered.status(), &entered.headers()["location"]), (StatusCode::SEE_OTHER, &"/".parse().unwrap()));
    let cookie = entered.headers()["set-cookie"].to_str().unwrap();
    assert!(cookie.contains("; HttpOnly") && cookie.contains("; SameSite=Strict"), "{cookie}");
    assert!(!cookie.contains(served.running.token.as_str()));
    served.running.stop().await.unwrap();
}

#[tokio::test]
async fn an_upload_must_have_the_digest_that_names_it() {
    let served = Served::start().await;
    let (status, code, message) = refusal(served.upload(&digest_of(b"something else"), PICTURE).await).await;
    assert_eq!((status, code), (StatusCode::UNPROCESSABLE_ENTITY, RefusalCode::WrongDigest));
    assert!(message.contains(digest_of(PICTURE).as_str()), "{message}");
    assert_eq!(served.stored_files(), 0, "nothing is left");
}

#[tokio::test]
async fn a_path_from_the_network_is_never_a_path_on_disk() {
    let served = Served::start().await;
    let secret = served.folder.path().join("queue.db.token");
    assert!(secret.exists());
    let absolute = secret.display().to_string().replace('/', "%2F");
    let paths =
        ["..%2Fqueue.db.token", "%2e%2e%2Fqueue.db.token", "..%5Cqueue.db.token", "..%252Fqueue.db.token", &absolute];
    for path in paths {
        for method in [Method::GET, Method::PUT] {
            let request = served.request(method, &format!("artifacts/{path}"));
            let answer = request.bearer_auth(served.running.token.as_str()).body(PICTURE).send().await.unwrap();
            let (status, code, message) = refusal(answer).await;
            assert_eq!((status, code), (StatusCode::BAD_REQUEST, RefusalCode::Malformed), "{path}");
            assert!(message.contains("sha256"), "{message}");
        }
    }
    assert_eq!(served.stored_files(), 0);
    served.running.stop().await.unwrap();
}

#[tokio::test]
async fn a_result_must_name_an_uploaded_image() {
    let served = Served::start().await;
    let _: serde_json::Value = served.ask("submit", &plan("bare", 1, 1)).await;
    let worker = served.worker().await;
    let job = served.claim(worker).await;
    let (status, code, _) = refusal(served.send("result", &completed(worker, &job)).await).await;
    assert_eq!((status, code), (StatusCode::CONFLICT, RefusalCode::MissingArtifact));
}

#[tokio::test]
async fn each_mistake_is_refused_by_its_name() {
    let served = Served::start().await;
    let worker = served.worker().await;
    let mut old = serde_json::to_value(register("old")).unwrap();
    old["api_version"] = json!(999);
    let (status, code, message) = refusal(served.send("register", &old).await).await;
    assert_eq!((status, code), (StatusCode::CONFLICT, RefusalCode::WrongVersion));
    assert!(message.contains("999"), "{message}");

    let (status, code, _) = refusal(served.send("claim", &claim(WorkerId(worker.0 + 1), 1)).await).await;
    assert_eq!((status, code), (StatusCode::NOT_FOUND, RefusalCode::UnknownWorker));

    let (status, code, message) = refusal(served.send("claim", &json!({ "worker": "one" })).await).await;
    assert_eq!((status, code), (StatusCode::UNPROCESSABLE_ENTITY, RefusalCode::Malformed));
    assert!(message.contains("worker"), "{message}");

    let raw = |body: &'static str| {
        let request = served.request(Method::POST, "claim").bearer_auth(served.running.token.as_str());
        request.header("content-type", "application/json").body(body).send()
    };
    let (status, code, _) = refusal(raw("{").await.unwrap()).await;
    assert_eq!((status, code), (StatusCode::BAD_REQUEST, RefusalCode::Malformed));

    let no_job = Release { worker, jobs: vec![(JobId(77), protocol::ids::Fence(1))] };
    let (status, code, _) = refusal(served.send("release", &no_job).await).await;
    assert_eq!((status, code), (StatusCode::NOT_FOUND, RefusalCode::NotFound));

    let (status, code, _) = refusal(served.send("nowhere", &json!({})).await).await;
    assert_eq!((status, code), (StatusCode::NOT_FOUND, RefusalCode::NotFound));

    let (status, code, _) = refusal(served.request(Method::DELETE, "claim").send().await.unwrap()).await;
    assert_eq!((status, code), (StatusCode::METHOD_NOT_ALLOWED, RefusalCode::Malformed));
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused() {
    let served = Served::start().await;
    let worker = served.worker().await;
    let mut claim = serde_json::to_value(claim(worker, 1)).unwrap();
    claim["loaded"] = json!(vec![1; 5 << 20]);
    let (status, code, _) = refusal(served.send("claim", &claim).await).await;
    assert_eq!((status, code), (StatusCode::PAYLOAD_TOO_LARGE, RefusalCode::TooLarge));
}
