//! What the network may send: each abuse gets its own answer, and a coordinator that still serves its workers.

use end_to_end::table::Table;
use end_to_end::{Campaign, Process, experiment, miniature, read_json, wait_for};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

/// Bounds how long a broken promise may hang a test.
const PATIENCE: Duration = Duration::from_secs(60);

/// One job on the miniature.
fn one_job() -> String {
    let sections = "grid: { subject: sim01, region: face, seed: 7 }\nsampling: { steps: 6, gamma: 14, size: 32 }\n";
    experiment("afterwards", &miniature(), sections)
}

/// A new job goes its whole way, and no half upload lies about.
fn assert_unharmed(campaign: &Campaign) {
    campaign.submit(&one_job());
    let _worker = campaign.worker("afterwards");
    wait_for_done(campaign);
}

fn wait_for_done(campaign: &Campaign) {
    let table = Table::open(&campaign.database());
    wait_for("the job to be done", || {
        (table.number("SELECT count(*) FROM job WHERE state = 'done'") == 1).then_some(())
    });
    table.assert_sound();
    assert_eq!(campaign.images().len(), 1, "the result's image and nothing else is in the store");
}

/// A connection that speaks HTTP by hand.
struct Raw(TcpStream);

impl Raw {
    fn connect(campaign: &Campaign) -> Self {
        Self::to(&format!("127.0.0.1:{}", port(campaign)))
    }

    fn to(address: &str) -> Self {
        let stream = TcpStream::connect(address).expect("the coordinator listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        Self(stream)
    }

    fn say(mut self, text: &str) -> Self {
        self.0.write_all(text.as_bytes()).expect("the coordinator listens");
        self
    }

    /// Everything that comes until the coordinator hangs up: status, header, body.
    fn answer(mut self) -> Option<(u16, String, String)> {
        let mut bytes = Vec::new();
        self.0.read_to_end(&mut bytes).expect("the coordinator hangs up");
        let text = String::from_utf8(bytes).expect("text");
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, head.to_owned(), body.to_owned()))
    }

    /// The refusal's status and code.
    fn refusal(self) -> (u16, String) {
        let (status, _, body) = self.answer().expect("an answer");
        let refusal: Value = serde_json::from_str(&body).expect("a refusal in the API's own form");
        (status, refusal["code"].as_str().expect("a code").to_owned())
    }
}

fn port(campaign: &Campaign) -> String {
    campaign.url().rsplit(':').next().expect("an address ends with its port").to_owned()
}

fn token(campaign: &Campaign, extension: &str) -> String {
    let path = campaign.path(&format!("campaign.db.{extension}"));
    std::fs::read_to_string(path).expect("the token's file").trim().to_owned()
}

/// The header of a request to the API; the body is `length` bytes long, or so it says.
fn header(method: &str, path: &str, token: &str, length: u64) -> String {
    format!(
        "{method} /api/v1/{path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    )
}

fn post(campaign: &Campaign, path: &str, token: &str, body: &str) -> (u16, String) {
    Raw::connect(campaign).say(&(header("POST", path, token, body.len() as u64) + body)).refusal()
}

fn refused(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

#[test]
fn a_wrong_token_and_the_viewers_token_open_no_workers_verb() {
    let campaign = Campaign::new();
    let _coordinator = campaign.serve(&[]);
    for wrong in ["", "wrong", &"0".repeat(64)] {
        assert_eq!(post(&campaign, "claim", wrong, "{}"), refused(401, "unauthorized"));
    }
    let viewer = token(&campaign, "viewer-token");
    for verb in ["register", "claim", "heartbeat", "result", "fail", "release", "submit", "cancel", "retry"] {
        assert_eq!(post(&campaign, verb, &viewer, "{}"), refused(403, "forbidden"), "{verb}");
    }
    assert_unharmed(&campaign);
}

#[test]
fn another_version_bad_json_and_a_truncated_body_are_each_told_by_name() {
    let campaign = Campaign::new();
    let _coordinator = campaign.serve(&[]);
    let worker = token(&campaign, "token");
    // What the first release said: less than today.
    let old = json!({ "api_version": 999, "name": "old", "host": "old", "pid": 1, "device": "cpu", "device_name": "old",
                      "slots": 1, "software": "old" });
    assert_eq!(post(&campaign, "register", &worker, &old.to_string()), refused(409, "wrong_version"));
    assert_eq!(post(&campaign, "claim", &worker, "{"), refused(400, "malformed"));
    let truncated = Raw::connect(&campaign).say(&header("POST", "claim", &worker, 100)).say("{\"worker\"");
    truncated.0.shutdown(Shutdown::Write).expect("half of a connection can be closed");
    assert_eq!(truncated.refusal(), refused(400, "malformed"));
    let digest = "a".repeat(64);
    let truncated =
        Raw::connect(&campaign).say(&header("PUT", &format!("artifacts/{digest}"), &worker, 100)).say("PNG");
    truncated.0.shutdown(Shutdown::Write).expect("half of a connection can be closed");
    assert_eq!(truncated.refusal(), refused(400, "malformed"));
    assert_unharmed(&campaign);
}

#[test]
fn a_body_that_is_declared_too_large_is_refused_before_it_comes() {
    let campaign = Campaign::new();
    let _coordinator = campaign.serve(&[]);
    let worker = token(&campaign, "token");
    let upload = format!("artifacts/{}", "a".repeat(64));
    for (method, path) in [("POST", "claim"), ("POST", "submit"), ("PUT", upload.as_str())] {
        let declared = Raw::connect(&campaign).say(&header(method, path, &worker, 1 << 40));
        assert_eq!(declared.refusal(), refused(413, "too_large"), "{path}");
    }
    let all = " ".repeat(16 << 20);
    assert_eq!(
        post(&campaign, "claim", &worker, &all),
        refused(413, "too_large"),
        "also to a client that reads nothing before it has said all"
    );
    assert_unharmed(&campaign);
}

#[test]
fn a_body_that_stalls_is_refused_and_a_header_that_never_ends_is_cut_off() {
    let campaign = Campaign::new();
    let _coordinator = campaign.serve(&["--stall-ms", "200", "--header-ms", "200"]);
    let worker = token(&campaign, "token");
    let upload = format!("artifacts/{}", "a".repeat(64));
    for (method, path) in [("POST", "claim"), ("PUT", upload.as_str())] {
        let stalled = Raw::connect(&campaign).say(&header(method, path, &worker, 100)).say("{");
        assert_eq!(stalled.refusal(), refused(408, "too_slow"), "{path}");
    }
    for beginning in ["", "GET", "GET / HTTP/1.1\r\nhost: x\r\n", "\u{16}", "\u{16}\u{3}\u{1}"] {
        assert_eq!(Raw::connect(&campaign).say(beginning).answer(), None, "{beginning:?} is hung up on");
    }
    assert_unharmed(&campaign);
}

#[test]
fn a_worker_goes_on_beside_a_thousand_idle_connections() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("the limit may go up to the hard one");
    let campaign = Campaign::new();
    let _coordinator = campaign.serve(&["--header-ms", "600000"]);
    let idle: Vec<Raw> = (0..1000).map(|_| Raw::connect(&campaign).say("GET")).collect();
    assert_unharmed(&campaign);
    for connection in idle {
        connection.0.set_nonblocking(true).expect("a socket's flag");
        let error = connection.0.peek(&mut [0]).expect_err("nothing is said");
        assert_eq!(error.kind(), ErrorKind::WouldBlock, "still open");
    }
}

#[test]
fn more_connections_than_there_may_be_wait_and_keep_nobody_out_for_good() {
    let campaign = Campaign::new();
    let _coordinator = campaign.serve(&["--header-ms", "500", "--connections", "4"]);
    let idle: Vec<Raw> = (0..40).map(|_| Raw::connect(&campaign)).collect();
    assert_unharmed(&campaign);
    drop(idle);
}

/// Lets everything on this campaign go over TLS, though it stays on this host.
fn over_tls(campaign: &Campaign) {
    let mut endpoint = read_json(&campaign.endpoint());
    endpoint["url"] = json!(campaign.url().replace("http://", "https://"));
    std::fs::write(campaign.endpoint(), endpoint.to_string()).expect("the endpoint file can be written");
}

#[test]
fn workers_and_commands_speak_tls_to_the_pinned_certificate_also_after_a_restart() {
    let campaign = Campaign::new();
    let mut coordinator = campaign.serve(&[]);
    let fingerprint = read_json(&campaign.endpoint())["fingerprint"].clone();
    coordinator.kill();
    let _coordinator = campaign.serve(&[]);
    assert_eq!(read_json(&campaign.endpoint())["fingerprint"], fingerprint, "the certificate outlives the coordinator");
    over_tls(&campaign);
    assert_unharmed(&campaign);
}

#[test]
fn a_worker_says_nothing_to_a_coordinator_with_another_certificate() {
    let (ours, theirs) = (Campaign::new(), Campaign::new());
    let mut coordinator = ours.serve(&[]);
    over_tls(&ours);
    let endpoint = std::fs::read(ours.endpoint()).expect("the endpoint file");
    let address = format!("127.0.0.1:{}", port(&ours));
    coordinator.kill();
    let mut other = theirs.serve_on(&address, &[]);
    let mut worker = ours.worker("deceived");
    assert_eq!(worker.wait(), 1);
    let log = worker.log();
    let expected = read_json(&ours.endpoint())["fingerprint"].as_str().expect("a fingerprint").to_owned();
    let found = read_json(&theirs.endpoint())["fingerprint"].as_str().expect("a fingerprint").to_owned();
    for part in [&expected, &found, "told nothing", "BRAINDIVE_FINGERPRINT"] {
        assert!(log.contains(part), "`{part}` is not in:\n{log}");
    }
    assert_unharmed(&theirs);
    other.kill();
    let _coordinator = ours.serve_on(&address, &[]);
    std::fs::write(ours.endpoint(), endpoint).expect("the endpoint file can be written");
    assert_unharmed(&ours);
}

/// This host's address on a network, if it is on one. Nothing is sent.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

#[test]
fn plain_http_is_answered_to_this_host_alone_and_other_hosts_get_tls() {
    let Some(address) = own_address() else {
        eprintln!("skipped: this host is on no network");
        return;
    };
    let campaign = Campaign::new();
    let _coordinator = campaign.serve_on("0.0.0.0:0", &[]);
    assert!(campaign.url().starts_with("https://"), "{}", campaign.url());
    let worker = token(&campaign, "token");
    let plain = header("POST", "claim", &worker, 2) + "{}";
    let from_outside = Raw::to(&format!("{address}:{}", port(&campaign)));
    assert_eq!(from_outside.say(&plain).refusal(), refused(403, "forbidden"));
    assert_eq!(Raw::connect(&campaign).say(&plain).refusal(), refused(422, "malformed"), "let in, and read");
    let mut endpoint = read_json(&campaign.endpoint());
    endpoint["url"] = json!(format!("https://{address}:{}", port(&campaign)));
    std::fs::write(campaign.endpoint(), endpoint.to_string()).expect("the endpoint file can be written");
    assert_unharmed(&campaign);
}

/// The link that `serve` prints.
fn printed_link(coordinator: &Process) -> String {
    wait_for("the dashboard's link", || {
        let log = coordinator.log();
        log.lines().find_map(|line| line.strip_prefix("dashboard ").map(str::to_owned))
    })
}

#[test]
fn the_printed_link_lets_a_browser_in_once_and_the_cookie_from_then_on() {
    let campaign = Campaign::new();
    let coordinator = campaign.serve(&[]);
    let link = printed_link(&coordinator);
    let path = link.strip_prefix(&campaign.url()).expect("the link leads to this coordinator");
    let get = |path: &str, cookie: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncookie: {cookie}\r\n\r\n");
        Raw::connect(&campaign).say(&request).answer().expect("an answer")
    };
    assert_eq!(get("/", "").0, 401);
    let (status, head, _) = get(path, "");
    assert_eq!(status, 303);
    assert!(head.contains("\r\nlocation: /\r\n"), "{head}");
    let cookie = head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect("a cookie");
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    let cookie = cookie.split(';').next().expect("a name and a value");
    assert_eq!(get("/", cookie).0, 200);
    assert_eq!(get("/", &cookie.replace('=', "=0")).0, 401);
    assert_unharmed(&campaign);
}

#[test]
fn a_token_that_others_can_read_is_refused_with_what_to_do() {
    let campaign = Campaign::new();
    let mut coordinator = campaign.serve(&[]);
    coordinator.terminate();
    assert_eq!(coordinator.wait(), 0);
    for extension in ["token", "viewer-token", "certificate.pem"] {
        let path = campaign.path(&format!("campaign.db.{extension}"));
        let allow =
            |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("our own file");
        allow(0o644);
        let refused = campaign.run(&["serve", "--listen", "127.0.0.1:0", "--endpoint", "unused.json"]);
        let message = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{message}");
        assert!(message.contains(&format!("chmod 600 {}", path.display())), "{message}");
        assert!(!Path::new("unused.json").exists());
        allow(0o600);
    }
    let _coordinator = campaign.serve(&[]);
    assert_unharmed(&campaign);
}

#[test]
fn a_coordinator_that_stands_still_keeps_its_database_and_one_that_is_killed_does_not() {
    let campaign = Campaign::new();
    let mut frozen = campaign.serve(&[]);
    frozen.signal(rustix::process::Signal::STOP);
    let second = campaign.run(&["serve", "--listen", "127.0.0.1:0", "--endpoint", "unused.json"]);
    let message = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(1), "{message}");
    assert!(message.contains("already serves") && message.contains(&campaign.url()), "{message}");
    frozen.kill();
    let _coordinator = campaign.serve(&[]);
    assert_unharmed(&campaign);
}
