//! What the pages promise, over HTTP: exact numbers, failures first, everything escaped, changes told.
#![allow(clippy::unwrap_used)]

mod pages_fixture;

use coordinator::dashboard;
use pages_fixture::{Fixture, digest};
use std::time::Duration;
use tokio::sync::watch;

struct Site {
    url: String,
    fixture: Fixture,
    changed: watch::Sender<u64>,
}

impl Site {
    async fn over(fixture: Fixture) -> Self {
        let (changed, changes) = watch::channel(7);
        let app = dashboard::router(dashboard::State { reader: fixture.reader.clone(), changes });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, fixture, changed }
    }

    async fn campaign() -> Self {
        Self::over(Fixture::campaign(|region, seed| digest(&format!("image {region} {seed}"))).await).await
    }

    async fn open(&self, path: &str) -> reqwest::Response {
        let http = tls::client(None).unwrap().build().unwrap();
        http.get(format!("{}{path}", self.url)).send().await.unwrap()
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let reply = self.open(path).await;
        (reply.status().as_u16(), reply.text().await.unwrap())
    }
}

/// Asserts that every text is on the page, in this order.
fn in_order(page: &str, texts: &[&str]) {
    let mut from = 0;
    for text in texts {
        match page[from..].find(text) {
            Some(at) => from += at + text.len(),
            None => panic!("`{text}` is not on the page after what comes before it:\n{page}"),
        }
    }
}

#[tokio::test]
async fn the_overview_shows_failures_first_and_exact_counts() {
    let site = Site::campaign().await;
    let (status, page) = site.get("/").await;
    assert_eq!(status, 200);
    in_order(
        &page,
        &[
            "3 jobs failed",
            "out_of_memory",
            "bad_input",
            "812 bytes, expected 1,048,576",
            "Done</dt><dd>120</dd><p>of 160 jobs",
            "Running</dt><dd>2</dd>",
            "120 of 160 done, 2 running, 35 ready, 3 failed",
            "node07/cuda:0",
            "step 21 of 50",
            "Newest images",
        ],
    );
    assert!(page.contains("data-version=\"7\""));
}

#[tokio::test]
async fn without_failures_there_is_no_alarm_and_without_experiments_a_hint() {
    let fixture = Fixture::empty().await;
    let site = Site::over(fixture).await;
    let (_, page) = site.get("/").await;
    assert!(page.contains("coordinator submit"), "{page}");
    let experiment = site.fixture.experiment("quiet", None).await;
    let condition = site.fixture.condition(experiment, "subj01", "FFA", 130.0).await;
    site.fixture.job(condition, 0).await;
    let (_, page) = site.get("/").await;
    assert!(page.contains("0 of 1 done, 1 ready"), "{page}");
    assert!(!page.contains("class=\"panel alarm"), "{page}");
}

#[tokio::test]
async fn the_experiment_page_sets_guided_beside_unguided_with_intervals() {
    let site = Site::campaign().await;
    let (status, page) = site.get("/experiments/miniature").await;
    assert_eq!(status, 200);
    // 10 of 12 guided images and 3 of 12 unguided ones; Wilson's intervals 55.2 to 95.3 % and 8.9 to 53.2 %.
    in_order(
        &page,
        &["Guided against unguided", "<b>83 %</b> <small>55–95</small>", "25 % <small>9–53</small>", "All", "72–91"],
    );
}

#[tokio::test]
async fn every_image_links_to_its_job_and_every_page_to_what_it_names() {
    let site = Site::campaign().await;
    let (status, page) = site.get("/conditions/1").await;
    assert_eq!(status, 200);
    for job in 1..=12 {
        assert!(page.contains(&format!("<a href=\"/jobs/{job}\"><img src=\"/api/v1/artifacts/")), "job {job}");
    }
    let mut seen = std::collections::BTreeSet::from(["/".to_owned()]);
    let mut queue = vec!["/".to_owned()];
    while let Some(path) = queue.pop() {
        let (status, page) = site.get(&path).await;
        assert_eq!(status, 200, "{path}");
        for part in page.split("href=\"").skip(1) {
            let link = part.split('"').next().unwrap();
            if link.starts_with('/') && seen.insert(link.to_owned()) {
                queue.push(link.to_owned());
            }
        }
    }
    assert!(seen.len() > 100, "{seen:?}");
}

#[tokio::test]
async fn a_job_page_tells_the_attempts_and_why_it_does_not_run() {
    let site = Site::campaign().await;
    let (_, page) = site.get("/jobs/13").await;
    in_order(
        &page,
        &[
            "Job 13",
            "Failed for good after 1 of 3 attempts",
            "<code>coordinator retry 13</code>",
            "Attempt 1",
            "bad_input",
        ],
    );
    let (_, page) = site.get("/jobs/1").await;
    in_order(&page, &["Done on node07/cuda:0", "/api/v1/artifacts/", "sampling 43.5 s", "Parameters", "sag_scale"]);
}

#[tokio::test]
async fn what_is_not_there_is_a_404_that_names_it() {
    let site = Site::campaign().await;
    for path in ["/jobs/999", "/jobs/x", "/conditions/999", "/experiments/other"] {
        let (status, page) = site.get(path).await;
        assert_eq!(status, 404, "{path}");
        assert!(page.contains(path.rsplit('/').next().unwrap()), "{page}");
    }
}

#[tokio::test]
async fn names_and_messages_are_escaped() {
    let mut fixture = Fixture::empty().await;
    let evil = "<script>alert(1)</script>\"'&";
    let experiment = fixture.experiment(evil, None).await;
    let condition = fixture.condition(experiment, evil, evil, 1.0).await;
    let (worker, job) = (fixture.worker(evil, 1).await, fixture.job(condition, 0).await);
    fixture.claim(job, worker, 1).await;
    fixture.fail(job, 1, "bug", evil, "failed", 0).await;
    let site = Site::over(fixture).await;
    let encoded = "/experiments/%3Cscript%3Ealert%281%29%3C%2Fscript%3E%22%27%26";
    let paths = ["/", encoded, "/conditions/1", "/jobs/1", "/workers", "/failures"];
    for path in paths {
        let (status, page) = site.get(path).await;
        assert_eq!(status, 200, "{path}");
        assert!(!page.contains("<script>alert"), "{path}: {page}");
    }
    assert!(site.get("/").await.1.contains(encoded));
}

#[tokio::test]
async fn a_change_of_the_table_is_told_to_the_browser_and_the_feed_ends_with_the_coordinator() {
    let site = Site::campaign().await;
    let mut reply = site.open("/events").await;
    assert_eq!(reply.headers()["content-type"], "text/event-stream");
    let mut told = String::new();
    let mut read_until = async |reply: &mut reqwest::Response, text: &str| {
        while !told.contains(text) {
            let chunk = tokio::time::timeout(Duration::from_secs(30), reply.chunk()).await.unwrap().unwrap();
            told += std::str::from_utf8(&chunk.expect("the feed goes on")).unwrap();
        }
    };
    read_until(&mut reply, "data: 7\n").await;
    for version in 8..=20 {
        site.changed.send_replace(version);
    }
    read_until(&mut reply, "data: 20\n").await;
    assert!(!told.contains("data: 12\n"), "changes that come together are told together: {told}");
    drop(site.changed);
    while let Some(_rest) = reply.chunk().await.unwrap() {}
}

#[tokio::test]
async fn style_and_script_come_from_the_binary_and_nothing_from_elsewhere() {
    let site = Site::campaign().await;
    let (_, page) = site.get("/").await;
    for extension in [".css", ".js"] {
        let end = page.find(&format!("{extension}\"")).unwrap() + extension.len();
        let start = page[..end].rfind('"').unwrap() + 1;
        let (status, body) = site.get(&page[start..end]).await;
        assert_eq!(status, 200);
        assert!(body.len() > 1000);
    }
    assert!(!page.contains("http://") && !page.contains("https://"), "{page}");
}
