//! Workers and coordinators that come and go: what is finished is delivered once, what is not is given back.

use end_to_end::table::Table;
use end_to_end::{Campaign, Process, simulation, wait_for};
use rustix::process::Signal;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Waits until the worker computes on every one of its slots and holds a batch more.
fn wait_until_one_ahead(table: &Table, slots: i64) {
    wait_for("busy slots and a batch ahead", || {
        let begun = table.number("SELECT count(*) FROM job WHERE state = 'running' AND computing_ms > 0");
        let held = table.number("SELECT count(*) FROM job WHERE state = 'running'");
        (begun == slots && held == slots + 1).then_some(())
    });
}

const DONE: &str = "SELECT count(*) FROM attempt WHERE outcome = 'done'";
const DRAINED: &str = "SELECT count(*) FROM attempt WHERE class = 'drained'";
const LOST: &str = "SELECT count(*) FROM attempt WHERE class = 'lost'";
const RUNNING: &str = "SELECT count(*) FROM job WHERE state = 'running'";

/// Stops a coordinator, as a person would.
fn stop(coordinator: &mut Process) {
    coordinator.terminate();
    assert_eq!(coordinator.wait(), 0, "{}", coordinator.log());
}

/// Waits until everything that is claimed lies finished in the spool.
fn wait_until_all_is_spooled(campaign: &Campaign, table: &Table) -> usize {
    let held = table.number(RUNNING);
    wait_for("every claimed job to be finished", || (campaign.spooled() as i64 == held).then_some(held as usize))
}

/// Thirty leases long, as half an hour is with the usual lease of a minute.
#[test]
fn what_is_finished_in_an_outage_of_thirty_leases_is_delivered_and_nothing_is_done_twice() {
    const LEASE: Duration = Duration::from_millis(500);
    let campaign = Campaign::new();
    let jobs = 30;
    campaign.submit(&simulation("outage", 0.1, jobs, ""));
    let flags = ["--lease-ms", "500", "--heartbeat-ms", "50"];
    let mut coordinator = campaign.serve(&flags);
    let address = campaign.url().trim_start_matches("http://").to_owned();
    let mut worker = campaign.worker_with("patient", &["--slots", "3", "--batch", "2"]);
    let table = Table::open(&campaign.database());
    wait_for("some results", || (table.number(DONE) >= 6).then_some(()));
    stop(&mut coordinator);
    let spooled = wait_until_all_is_spooled(&campaign, &table);
    assert!(spooled >= 2, "{spooled} results wait");
    // The one thing that is waited for here is time itself.
    std::thread::sleep(30 * LEASE);
    assert!(worker.is_running(), "{}", worker.log());

    let _coordinator = campaign.serve_on(&address, &flags);
    table.wait_until_done(jobs);
    table.assert_sound();
    assert_eq!(table.number(DONE), jobs);
    assert_eq!(table.number("SELECT count(*) FROM attempt"), jobs, "nothing is done twice");
    worker.terminate();
    assert_eq!(worker.wait(), 0, "{}", worker.log());
    assert_eq!(campaign.spooled(), 0);
}

#[test]
fn what_a_killed_worker_had_finished_is_delivered_by_the_next() {
    let campaign = Campaign::new();
    let jobs = 12;
    campaign.submit(&simulation("heir", 0.2, jobs, ""));
    let flags = ["--lease-ms", "600000", "--heartbeat-ms", "50"];
    let mut coordinator = campaign.serve(&flags);
    let mut first = campaign.worker_with("first", &["--slots", "2"]);
    let table = Table::open(&campaign.database());
    wait_until_one_ahead(&table, 2);
    stop(&mut coordinator);
    let spooled = wait_until_all_is_spooled(&campaign, &table);
    first.kill();
    assert_eq!(campaign.spooled(), spooled, "kill -9 loses nothing");

    let _coordinator = campaign.serve(&flags);
    let heir = campaign.worker("heir");
    table.wait_until_done(jobs);
    table.assert_sound();
    assert_eq!(table.number("SELECT count(*) FROM attempt"), jobs, "nothing is done twice");
    assert!(heir.log().contains("delivering what an earlier worker left"), "{}", heir.log());
    assert_eq!(campaign.spooled(), 0);
    let of_the_dead =
        "SELECT count(*) FROM result r JOIN worker w ON w.id = r.worker_id WHERE w.name = 'first' AND counted = 1";
    assert!(table.number(of_the_dead) >= spooled as i64);
}

#[test]
fn a_worker_that_drains_while_the_coordinator_is_away_leaves_its_results_in_the_spool() {
    let campaign = Campaign::new();
    campaign.submit(&simulation("away", 0.2, 12, ""));
    let flags = ["--lease-ms", "600000", "--heartbeat-ms", "50"];
    let mut coordinator = campaign.serve(&flags);
    let mut worker = campaign.worker_with("leaving", &["--slots", "2", "--grace", "1"]);
    let table = Table::open(&campaign.database());
    wait_until_one_ahead(&table, 2);
    stop(&mut coordinator);
    let spooled = wait_until_all_is_spooled(&campaign, &table);
    worker.terminate();
    assert_eq!(worker.wait(), 0, "{}", worker.log());
    assert_eq!(campaign.spooled(), spooled);
    let said = format!(
        "{spooled} results stay in the spool, {}",
        campaign.spool().canonicalize().expect("it is there").display()
    );
    assert!(worker.log().contains(&said), "{}", worker.log());

    let _coordinator = campaign.serve(&flags);
    let _heir = campaign.worker("heir");
    table.wait_until_done(12);
    assert_eq!(table.number("SELECT count(*) FROM attempt"), 12, "nothing is done twice");
}

#[test]
fn every_signal_drains_finishing_what_runs_and_giving_back_what_waits() {
    let campaign = Campaign::new();
    campaign.submit(&simulation("drain", 0.4, 60, ""));
    let _coordinator = campaign.serve(&["--heartbeat-ms", "50"]);
    let table = Table::open(&campaign.database());
    for (round, signal) in (1..).zip([Signal::TERM, Signal::INT, Signal::USR1, Signal::USR2]) {
        let mut worker = campaign.worker_with("drained", &["--slots", "2"]);
        wait_until_one_ahead(&table, 2);
        let done = table.number(DONE);
        worker.signal(signal);
        assert_eq!(worker.wait(), 0, "{signal:?}: {}", worker.log());
        assert_eq!(table.number(RUNNING), 0, "{signal:?}: nothing is held any more");
        assert!(table.number(DONE) >= done + 2, "{signal:?}: what ran was finished");
        assert_eq!(table.number(DRAINED), round, "{signal:?}: what waited was given back");
        assert_eq!(table.number(LOST), 0, "{signal:?}");
        assert_eq!(table.number("SELECT count(*) FROM worker WHERE activity = 'gone'"), round, "{signal:?}");
        table.assert_sound();
    }
}

#[test]
fn a_second_signal_gives_everything_back_at_once() {
    let campaign = Campaign::new();
    campaign.submit(&simulation("second", 600.0, 10, ""));
    let _coordinator = campaign.serve(&["--heartbeat-ms", "50"]);
    let table = Table::open(&campaign.database());
    let mut worker = campaign.worker_with("hurried", &["--slots", "2"]);
    wait_until_one_ahead(&table, 2);
    worker.terminate();
    wait_for("the drain to begin", || worker.log().contains("draining").then_some(()));
    wait_for("what waited to be given back", || (table.number(DRAINED) == 1).then_some(()));
    assert!(worker.is_running(), "it finishes what runs");
    worker.terminate();
    assert_eq!(worker.wait(), 1, "{}", worker.log());
    assert!(worker.log().contains("stopped by a second signal; 2 jobs were given back"), "{}", worker.log());
    assert_eq!(table.number("SELECT count(*) FROM job WHERE state = 'ready'"), 10);
    table.assert_sound();
}

/// So many seconds from now, as Slurm writes it.
fn in_seconds(seconds: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    (now.as_secs() + seconds).to_string()
}

#[test]
fn a_worker_begins_nothing_that_its_allocation_would_cut_off() {
    let campaign = Campaign::new();
    campaign.submit(&simulation("deadline", 3.0, 4, ""));
    let _coordinator = campaign.serve(&["--heartbeat-ms", "50"]);
    let table = Table::open(&campaign.database());
    // Nobody knows how long a job takes before the first is done.
    let mut first = campaign.worker("first");
    wait_for("the first result", || (table.number(DONE) >= 1).then_some(()));
    first.terminate();
    assert_eq!(first.wait(), 0, "{}", first.log());
    let before = table.number("SELECT count(*) FROM attempt");
    let mut short = campaign.worker_with("short", &["--deadline", &in_seconds(32)]);
    assert_eq!(short.wait(), 0, "{}", short.log());
    assert!(short.log().contains("would take longer than the allocation lasts"), "{}", short.log());
    assert_eq!(table.number("SELECT count(*) FROM attempt"), before);
}

#[test]
fn what_an_allocations_end_cuts_off_is_given_back() {
    let campaign = Campaign::new();
    campaign.submit(&simulation("cut", 600.0, 4, ""));
    let _coordinator = campaign.serve(&["--heartbeat-ms", "50"]);
    let table = Table::open(&campaign.database());
    let mut worker = campaign.worker_with("cut", &["--deadline", &in_seconds(34)]);
    wait_for("a job to run", || (table.number(RUNNING) >= 1).then_some(()));
    assert_eq!(worker.wait(), 0, "{}", worker.log());
    assert!(worker.log().contains("the allocation ends"), "{}", worker.log());
    assert_eq!(table.number("SELECT count(*) FROM job WHERE state = 'ready'"), 4);
    assert_eq!(table.number(LOST), 0);
    table.assert_sound();
}

#[test]
fn a_worker_whose_device_fails_reports_the_job_gives_back_the_rest_and_ends_with_a_code_of_its_own() {
    let campaign = Campaign::new();
    campaign.submit(&simulation("long", 600.0, 1, ""));
    let faulty = simulation("faulty", 0.05, 2, "");
    campaign.submit(&faulty.replace("seconds: 0.05", "seconds: 0.05, fail: { device_fault: 1.0 }"));
    let _coordinator = campaign.serve(&["--heartbeat-ms", "50"]);
    let table = Table::open(&campaign.database());
    let mut worker = campaign.worker_with("faulty", &["--slots", "2"]);
    assert_eq!(worker.wait(), 5, "{}", worker.log());
    assert!(worker.log().contains("a simulated failure of class device_fault"), "{}", worker.log());
    assert!(worker.log().contains("coordinator release-device"), "{}", worker.log());
    let failed = "SELECT count(*) FROM attempt WHERE class = 'device_fault'";
    assert_eq!(table.number(failed), 1, "it computes nothing more");
    assert_eq!(table.number(RUNNING), 0, "what it held was given back");
    assert_eq!(table.number("SELECT count(*) FROM job WHERE state = 'ready'"), 3);
    assert_eq!(table.number(LOST), 0);

    // A new process on the device learns that it is quarantined before it computes anything.
    let attempts = table.number("SELECT count(*) FROM attempt");
    let mut next = campaign.worker("next");
    assert_eq!(next.wait(), 3, "{}", next.log());
    assert!(next.log().contains("coordinator release-device"), "{}", next.log());
    assert_eq!(table.number("SELECT count(*) FROM attempt"), attempts);
    table.assert_sound();
}

#[test]
fn a_slot_stands_idle_for_less_than_20_ms_between_two_jobs() {
    let campaign = Campaign::new();
    campaign.submit(&simulation("gaps", 0.02, 200, ""));
    let _coordinator = campaign.serve(&[]);
    let mut worker = campaign.worker("busy");
    let table = Table::open(&campaign.database());
    table.wait_until_done(200);
    let p95 = table.number(
        "SELECT cast(waiting_s * 1e6 AS INTEGER) FROM attempt WHERE outcome = 'done' ORDER BY waiting_s LIMIT 1 OFFSET 189",
    );
    let p50 = table.number(
        "SELECT cast(waiting_s * 1e6 AS INTEGER) FROM attempt WHERE outcome = 'done' ORDER BY waiting_s LIMIT 1 OFFSET 99",
    );
    println!("gap between two jobs of 20 ms: median {p50} µs, 95th percentile {p95} µs");
    worker.signal(Signal::QUIT);
    wait_for("the histogram", || worker.log().contains("199 gaps between batches").then_some(()));
    assert!(worker.log().contains("device busy for "), "{}", worker.log());
    worker.terminate();
    assert_eq!(worker.wait(), 0, "{}", worker.log());
    assert!(p95 < 20_000, "{p95} µs; {}", worker.log());
}

#[test]
fn an_idle_worker_begins_what_is_submitted_at_once() {
    let campaign = Campaign::new();
    let _coordinator = campaign.serve(&[]);
    let worker = campaign.worker("idle");
    wait_for("the worker to register", || worker.log().contains("registered").then_some(()));
    let table = Table::open(&campaign.database());
    // Claims wait in the long poll once the first job is done and there is nothing more.
    campaign.submit(&simulation("before", 0.01, 1, ""));
    table.wait_until_done(1);
    campaign.submit(&simulation("after", 0.01, 1, ""));
    table.wait_until_done(2);
    let took = table.number(
        "SELECT a.started_at - e.submitted_at FROM attempt a JOIN job j ON j.id = a.job_id
         JOIN experiment e ON e.id = j.experiment_id WHERE e.name = 'after'",
    );
    println!("from submit to claim with an idle worker: {took} ms");
    assert!(took < 500, "{took} ms");
}

#[test]
fn a_job_that_is_cancelled_while_it_waits_for_its_slot_never_begins() {
    let campaign = Campaign::new();
    campaign.submit(&simulation("cancelled", 600.0, 4, ""));
    let _coordinator = campaign.serve(&["--heartbeat-ms", "50"]);
    let worker = campaign.worker("waiting");
    let table = Table::open(&campaign.database());
    wait_until_one_ahead(&table, 1);
    for (job, what) in [("2", "the one that waits"), ("1", "the one that runs")] {
        let output = campaign.run(&["cancel", job]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        wait_for(what, || worker.log().contains(&format!("cancelled job={job}\n")).then_some(()));
    }
    wait_for("the next job to begin", || worker.log().contains("started job=3 ").then_some(()));
    assert!(!worker.log().contains("started job=2 "), "{}", worker.log());
    table.assert_sound();
}
