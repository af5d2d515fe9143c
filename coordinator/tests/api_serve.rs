//! Starting, stopping, owning: one coordinator to a database, and a way in for commands whether it runs or not.
#![allow(clippy::unwrap_used)]

mod queue_fixture;

use coordinator::api::listener::Limits;
use coordinator::cli::serve::{Options, Running, ServeError, start};
use coordinator::queue::access::{Access, Cancel, Retry};
use coordinator::queue::{Clock, Filter, OpenError, Settings, open_database, owner};
use protocol::claim::Claim;
use protocol::endpoint::Endpoint;
use protocol::error::{Refusal, RefusalCode};
use queue_fixture::*;
use rustix::process::{Pid, Signal, kill_process};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use tempfile::tempdir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

fn options(folder: &Path) -> Options {
    Options {
        db: folder.join("queue.db"),
        listen: "127.0.0.1:0".parse().unwrap(),
        store: None,
        endpoint: Some(folder.join("home").join("endpoint.json")),
        settings: Settings { clock: Clock::System, ..settings() },
        limits: Limits::default(),
    }
}

fn endpoint(folder: &Path) -> Endpoint {
    serde_json::from_slice(&std::fs::read(folder.join("home").join("endpoint.json")).unwrap()).unwrap()
}

#[tokio::test]
async fn a_second_coordinator_is_refused_while_the_first_is_alive() {
    let folder = tempdir().unwrap();
    let first = start(options(folder.path())).await.unwrap();
    let error = start(options(folder.path())).await.unwrap_err();
    let ServeError::Open(OpenError::Owned { pid, url, .. }) = &error else { panic!("{error}") };
    assert_eq!((*pid, url), (std::process::id(), &first.url));
    assert_eq!(endpoint(folder.path()).url, first.url, "the first one's endpoint file is untouched");
    first.stop().await.unwrap();
    start(options(folder.path())).await.unwrap().stop().await.unwrap();
}

#[tokio::test]
async fn a_coordinator_on_another_host_keeps_the_database_while_it_renews_its_record() {
    let folder = tempdir().unwrap();
    let db = folder.path().join("queue.db");
    let mut connection = open_database(&db).await.unwrap();
    let now = Clock::System.now();
    sqlx::query("INSERT INTO owner VALUES (1, 'login02', 1, 'http://login02:7311', '/home/ada/endpoint.json', ?1, ?1)")
        .bind(now)
        .execute(&mut connection)
        .await
        .unwrap();
    let error = start(options(folder.path())).await.unwrap_err().to_string();
    assert!(error.contains("login02"), "{error}");
    let error = Access::open(&db).await.unwrap_err().to_string();
    assert!(error.contains("/home/ada/endpoint.json"), "{error}");
    sqlx::query("UPDATE owner SET renewed_at = ?").bind(now - 61_000).execute(&mut connection).await.unwrap();
    start(options(folder.path())).await.unwrap().stop().await.unwrap();
}

#[tokio::test]
async fn the_endpoint_file_is_private_and_goes_when_the_coordinator_goes() {
    let folder = tempdir().unwrap();
    let running = start(options(folder.path())).await.unwrap();
    let path = running.endpoint.clone();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let written = endpoint(folder.path());
    assert_eq!((&written.url, written.token.as_str()), (&running.url, running.token.as_str()));
    running.stop().await.unwrap();
    assert!(!path.exists());
    assert!(owner::living(&folder.path().join("queue.db")).await.unwrap().is_none(), "the owner record is gone");
    let again = start(options(folder.path())).await.unwrap();
    assert_eq!(endpoint(folder.path()).token, written.token, "workers go on with the token that they know");
    again.stop().await.unwrap();
}

#[tokio::test]
async fn a_coordinator_that_stood_still_takes_no_job_from_workers_that_it_could_not_hear() {
    let folder = tempdir().unwrap();
    let clock = Clock::manual(1_000_000);
    let settings = Settings { clock: clock.clone(), ..settings() };
    let heartbeat = settings.heartbeat;
    let running = start(Options { settings, ..options(folder.path()) }).await.unwrap();
    running.queue.submit(plan("still", 1, 1)).await.unwrap();
    let worker = worker(&running.queue).await;
    let job = claim_one(&running.queue, worker).await;
    let mut changes = running.queue.changes();
    changes.mark_unchanged();
    // Upkeep sleeps until a time of the manual clock; it wakes ten leases late.
    clock.advance(LEASE * 10);
    changes.changed().await.unwrap();
    let reply = running.queue.heartbeat(queue_fixture::heartbeat(worker, &[&job])).await.unwrap();
    assert_eq!(reply, Default::default(), "the job is still the worker's");

    // A worker that stays silent while the coordinator listens does lose its job.
    while running.queue.heartbeat(queue_fixture::heartbeat(worker, &[])).await.is_ok() {
        clock.advance(heartbeat / 3);
        if let Some(again) = running.queue.claim(claim(worker, 1)).await.unwrap().jobs.pop() {
            assert!(again.fence > job.fence);
            break;
        }
        tokio::task::yield_now().await;
    }
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let folder = tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let error = start(Options { listen: address, ..options(folder.path()) }).await.unwrap_err();
    assert!(matches!(error, ServeError::PortInUse { .. }), "{error}");
    assert!(error.to_string().contains(&address.to_string()));
    assert!(!folder.path().join("queue.db").exists(), "nothing was made");
}

#[tokio::test]
async fn stopping_answers_the_claims_that_wait_and_ends_live_feeds() {
    let folder = tempdir().unwrap();
    let settings = settings();
    let Clock::Manual(time) = settings.clock.clone() else { panic!("a clock that counts who waits for it") };
    let running = start(Options { settings, ..options(folder.path()) }).await.unwrap();
    let worker = worker(&running.queue).await;
    let mut changes = running.queue.changes();
    changes.mark_unchanged();
    let upkeep = 1;
    let request = tls::client(None)
        .unwrap()
        .build()
        .unwrap()
        .post(format!("{}/api/v1/claim", running.url))
        .bearer_auth(running.token.as_str())
        .json(&Claim { wait_ms: 60_000, ..claim(worker, 1) });
    let answer = tokio::spawn(request.send());
    while time.receiver_count() <= upkeep {
        tokio::task::yield_now().await;
    }
    running.stop().await.unwrap();
    let response = answer.await.unwrap().expect("an answer, not a cut connection");
    assert_eq!(response.status(), 503);
    assert_eq!(response.json::<Refusal>().await.unwrap().code, RefusalCode::Stopping);
    assert!(changes.changed().await.is_err(), "the feed has ended");
}

#[tokio::test]
async fn commands_reach_the_table_whether_or_not_somebody_serves_it() {
    let folder = tempdir().unwrap();
    let db = folder.path().join("queue.db");

    let access = Access::open(&db).await.unwrap();
    assert!(matches!(access, Access::Local(_)));
    assert_eq!(access.submit(&plan("both", 1, 2)).await.unwrap().new_jobs, 2);
    access.close().await;

    let running = start(options(folder.path())).await.unwrap();
    let access = Access::open(&db).await.unwrap();
    assert!(matches!(access, Access::Remote(_)));
    assert_eq!(access.preview(&plan("both", 1, 3)).await.unwrap().new_jobs, 1);
    assert_eq!(access.submit(&plan("both", 1, 3)).await.unwrap().new_jobs, 1);
    let everything = Cancel::Where(Filter::experiment("both"));
    assert_eq!(access.cancel(&everything).await.unwrap().jobs, 3);
    let changed = access.cancel(&Cancel::Jobs(vec![protocol::ids::JobId(1)])).await.unwrap();
    assert_eq!((changed.jobs, changed.unchanged.len()), (0, 1));
    assert_eq!(access.retry(&Retry::Jobs(vec![protocol::ids::JobId(1)])).await.unwrap().jobs, 1);
    let unknown = Cancel::Where(Filter::experiment("bith"));
    let message = access.cancel(&unknown).await.unwrap_err().to_string();
    assert!(message.contains("did you mean `both`?"), "{message}");
    running.stop().await.unwrap();
}

/// The real program, once it says that it serves.
async fn spawn(folder: &Path) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_coordinator"))
        .args(["serve", "--listen", "127.0.0.1:0"])
        .arg("--db")
        .arg(folder.join("queue.db"))
        .arg("--endpoint")
        .arg(folder.join("home").join("endpoint.json"))
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = lines.next_line().await.unwrap().unwrap();
    assert!(first.starts_with("dashboard http://127.0.0.1:"), "{first}");
    (child, lines)
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_raw(child.id().unwrap() as i32).unwrap(), signal).unwrap();
}

#[tokio::test]
async fn the_program_stops_cleanly_on_sigterm_and_its_successor_takes_over_after_sigkill() {
    let folder = tempdir().unwrap();
    let (mut killed, _lines) = spawn(folder.path()).await;
    signal(&killed, Signal::KILL);
    killed.wait().await.unwrap();
    assert!(folder.path().join("home").join("endpoint.json").exists());

    let (mut program, _lines) = spawn(folder.path()).await;
    signal(&program, Signal::TERM);
    assert_eq!(program.wait().await.unwrap().code(), Some(0));
    assert!(!folder.path().join("home").join("endpoint.json").exists());
    assert!(!folder.path().join("queue.db-wal").exists(), "the log was checkpointed");
}

#[tokio::test]
async fn the_program_says_in_one_line_what_is_wrong() {
    let folder = tempdir().unwrap();
    let running: Running = start(options(folder.path())).await.unwrap();
    let mut refused = Command::new(env!("CARGO_BIN_EXE_coordinator"))
        .args(["serve", "--listen", "127.0.0.1:0"])
        .arg("--db")
        .arg(folder.path().join("queue.db"))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut message = String::new();
    refused.stderr.take().unwrap().read_to_string(&mut message).await.unwrap();
    assert_eq!(refused.wait().await.unwrap().code(), Some(1));
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(message.contains(&running.url) && message.contains(&std::process::id().to_string()), "{message}");
    running.stop().await.unwrap();
}

/// Runs a command to its end: exit code, standard output, standard error.
async fn command(db: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_coordinator")).args(arguments).arg("--db").arg(db).output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn a_file_that_is_no_database_is_told_to_readers_and_writers() {
    let folder = tempdir().unwrap();
    let db = folder.path().join("notes.txt");
    std::fs::write(&db, "buy milk").unwrap();
    for arguments in [["status", "--json"], ["cancel", "1"]] {
        let (code, _, message) = command(&db, &arguments).await;
        assert_eq!(code, Some(1), "{message}");
        assert!(message.contains("notes.txt") && message.contains("--db"), "{message}");
    }
}

#[tokio::test]
async fn cancel_and_retry_tell_people_and_programs_what_changed() {
    let folder = tempdir().unwrap();
    let db = folder.path().join("queue.db");
    let access = Access::open(&db).await.unwrap();
    access.submit(&plan("words", 1, 2)).await.unwrap();
    access.close().await;

    let (code, out, _) = command(&db, &["cancel", "1", "--json"]).await;
    assert_eq!((code, out.as_str()), (Some(0), "{\"jobs\":1,\"unchanged\":[]}\n"));
    let (code, out, _) = command(&db, &["cancel", "1", "2"]).await;
    assert_eq!((code, out.as_str()), (Some(0), "job 1 is cancelled: left as it is\n1 job cancelled\n"));
    let (code, out, _) = command(&db, &["retry", "1", "2"]).await;
    assert_eq!((code, out.as_str()), (Some(0), "2 jobs ready again\n"));
    let (code, out, error) = command(&db, &["cancel", "1", "99"]).await;
    assert_eq!((code, out.as_str(), error.as_str()), (Some(1), "", "error: cancelling: there is no job 99\n"));
    for bad_input in [&["cancel"][..], &["cancel", "one"], &["retry", "1", "--failed"], &["cancel", "--condition", "1"]]
    {
        assert_eq!(command(&db, bad_input).await.0, Some(2), "{bad_input:?}");
    }
    let (code, _, error) = command(&folder.path().join("other.db"), &["retry", "--failed"]).await;
    assert_eq!(code, Some(1));
    assert!(error.contains("other.db") && !folder.path().join("other.db").exists(), "{error}");
}
