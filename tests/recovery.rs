//! Killed and frozen processes: every job is done exactly once, with the result of an undisturbed run.

use end_to_end::table::Table;
use end_to_end::{Campaign, wait_for};
use rustix::process::Signal;

/// Two regions, guided, a handful of seeds, few steps: seconds on two cores.
fn experiment(seeds: u32, steps: u32) -> String {
    let sections = format!(
        "grid:\n  subject: sim01\n  region: [face, text]\n  seed: {{ start: 0, count: {seeds} }}\n\
         sampling: {{ preset: default, steps: {steps}, gamma: 14, size: 32 }}\n"
    );
    end_to_end::experiment("recovery", &end_to_end::miniature(), &sections)
}

/// What one worker computes when nothing goes wrong.
fn undisturbed(text: &str, jobs: i64) -> (Vec<end_to_end::table::Counted>, Vec<Vec<u8>>) {
    let campaign = Campaign::new();
    campaign.submit(text);
    let mut coordinator = campaign.serve(&[]);
    let mut worker = campaign.worker("calm");
    let table = Table::open(&campaign.database());
    table.wait_until_done(jobs);
    worker.terminate();
    assert_eq!(worker.wait(), 0, "{}", worker.log());
    coordinator.terminate();
    assert_eq!(coordinator.wait(), 0, "{}", coordinator.log());
    assert!(!campaign.endpoint().exists(), "a clean stop removes the endpoint file");
    (table.counted(), campaign.images())
}

#[test]
fn a_worker_killed_while_sampling_changes_nothing_but_the_time() {
    let text = experiment(4, 30);
    let jobs = 8;
    let (expected, expected_images) = undisturbed(&text, jobs);

    let campaign = Campaign::new();
    campaign.submit(&text);
    let _coordinator = campaign.serve(&["--lease-ms", "1500", "--heartbeat-ms", "50"]);
    let mut victim = campaign.worker("victim");
    let table = Table::open(&campaign.database());
    wait_for("the victim to be in the middle of a job", || {
        let sampling = "SELECT count(*) FROM job WHERE state = 'running' AND step BETWEEN 1 AND steps - 1";
        (table.number(sampling) > 0).then_some(())
    });
    let _other = campaign.worker("other");
    victim.kill();
    let held = table.number(
        "SELECT count(*) FROM job JOIN worker ON worker.id = worker_id WHERE state = 'running' AND name = 'victim'",
    );
    assert!((1..=2).contains(&held), "what ran and what was claimed ahead: {held}");
    table.wait_until_done(jobs);

    table.assert_sound();
    assert_eq!(table.number("SELECT count(*) FROM attempt WHERE class = 'lost'"), held, "what it held was lost");
    assert_eq!(table.number("SELECT count(*) FROM attempt"), jobs + held, "and only that was tried again");
    assert_eq!(table.counted(), expected);
    assert_eq!(campaign.images(), expected_images, "byte for byte");
}

#[test]
fn a_frozen_worker_that_comes_back_late_is_superseded() {
    let campaign = Campaign::new();
    campaign.submit(&experiment(1, 40));
    let _coordinator = campaign.serve(&["--lease-ms", "1000", "--heartbeat-ms", "200"]);
    let frozen = campaign.worker("frozen");
    let table = Table::open(&campaign.database());
    wait_for("the worker to be in the middle of a job", || {
        (table.number("SELECT count(*) FROM job WHERE state = 'running' AND step >= 1") > 0).then_some(())
    });
    frozen.signal(Signal::STOP);
    let _other = campaign.worker("other");
    table.wait_until_done(2);
    frozen.signal(Signal::CONT);
    // It learns from its next heartbeat that the job is not its own any more, or delivers late; either way nothing changes.
    wait_for("the thawed worker to notice", || {
        let log = frozen.log();
        (log.contains("no longer ours") || log.contains("dropped") || log.contains("came too late")).then_some(())
    });
    table.assert_sound();
    assert_eq!(table.number("SELECT count(*) FROM result WHERE counted = 1"), 2);
}

#[test]
fn a_coordinator_killed_with_nine_loses_nothing() {
    let text = experiment(3, 12);
    let campaign = Campaign::new();
    campaign.submit(&text);
    let mut coordinator = campaign.serve(&[]);
    let address = campaign.url().trim_start_matches("http://").to_owned();
    let mut worker = campaign.worker("patient");
    let table = Table::open(&campaign.database());
    wait_for("the first result", || (table.number("SELECT count(*) FROM job WHERE state = 'done'") > 0).then_some(()));
    coordinator.kill();
    let done = table.number("SELECT count(*) FROM job WHERE state = 'done'");
    assert!(worker.is_running(), "the worker survives");

    let _coordinator = campaign.serve_on(&address, &[]);
    table.wait_until_done(6);
    assert!(done >= 1);
    table.assert_sound();
    assert_eq!(table.number("SELECT count(*) FROM attempt WHERE outcome = 'done'"), 6);
    worker.terminate();
    assert_eq!(worker.wait(), 0, "{}", worker.log());
}

#[test]
fn a_worker_follows_its_coordinator_to_another_port() {
    let campaign = Campaign::new();
    campaign.submit(&experiment(3, 12));
    let mut coordinator = campaign.serve(&[]);
    let first = campaign.url();
    let mut worker = campaign.worker("follower");
    let table = Table::open(&campaign.database());
    wait_for("the first result", || (table.number("SELECT count(*) FROM job WHERE state = 'done'") > 0).then_some(()));
    coordinator.kill();
    let _coordinator = campaign.serve(&[]);
    assert_ne!(campaign.url(), first);
    table.wait_until_done(6);
    table.assert_sound();
    assert_eq!(table.number("SELECT count(*) FROM worker"), 1, "nobody had to register again");
    assert_eq!(table.number("SELECT count(*) FROM attempt"), 6, "nothing was computed twice");
    worker.terminate();
    assert_eq!(worker.wait(), 0, "{}", worker.log());
}

#[test]
fn a_worker_of_a_replaced_database_delivers_nothing_to_its_successor() {
    let campaign = Campaign::new();
    campaign.submit(&experiment(1, 60));
    let mut coordinator = campaign.serve(&["--heartbeat-ms", "200"]);
    let address = campaign.url().trim_start_matches("http://").to_owned();
    let mut stranger = campaign.worker("stranger");
    let table = Table::open(&campaign.database());
    wait_for("the worker to be in the middle of a job", || {
        (table.number("SELECT count(*) FROM job WHERE state = 'running' AND step >= 1") > 0).then_some(())
    });
    stranger.signal(Signal::STOP);
    coordinator.kill();
    drop(table);
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(campaign.path(&format!("campaign.db{suffix}")));
    }

    campaign.submit(&experiment(1, 80));
    let _coordinator = campaign.serve_on(&address, &["--heartbeat-ms", "200"]);
    let native = campaign.worker("native");
    let table = Table::open(&campaign.database());
    wait_for("the new worker to hold the job of the same number", || {
        (table.number("SELECT count(*) FROM job WHERE state = 'running' AND step >= 1") > 0).then_some(())
    });
    native.signal(Signal::STOP);
    stranger.signal(Signal::CONT);
    assert_eq!(stranger.wait(), 1, "{}", stranger.log());
    assert!(stranger.log().contains("does not know this worker"), "{}", stranger.log());
    assert_eq!(table.number("SELECT count(*) FROM result"), 0, "its result is for a job of another database");
    let aside = std::fs::read_dir(campaign.spool().join("rejected")).expect("what was refused is kept").flatten();
    let mut kinds: Vec<_> = aside.filter_map(|file| Some(file.path().extension()?.to_owned())).collect();
    kinds.sort();
    assert_eq!(kinds, ["json", "png", "reason"]);
    native.signal(Signal::CONT);
    table.wait_until_done(2);
    table.assert_sound();
    assert_eq!(table.number("SELECT count(*) FROM attempt"), 2);
}
