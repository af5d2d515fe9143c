//! What must be true in the end: of the table, of the images, and of what workers were told.

use crate::arena::{Arena, experiment};
use end_to_end::Campaign;
use end_to_end::table::Table;
use std::collections::BTreeSet;

/// Numbers of the jobs that a coordinator acknowledged, as the workers' logs have them. A worker that was killed between the answer and
/// its line in the log knows less than the table, never more.
pub fn acknowledged(campaign: &Campaign) -> BTreeSet<i64> {
    let mut jobs = BTreeSet::new();
    for log in campaign.worker_logs() {
        for told in [" done job=", " had been delivered before job="] {
            let told = log.lines().filter_map(|line| line.split_once(told)).map(|(_, job)| job.trim());
            jobs.extend(told.map(|job| job.parse::<i64>().expect("a job's number")));
        }
    }
    jobs
}

/// Jobs that were acknowledged and have no counted result.
pub fn lost(arena: &Arena) -> usize {
    let counted = arena.table.set("SELECT job_id FROM result WHERE counted = 1");
    acknowledged(&arena.campaign).difference(&counted).count()
}

/// Results that a coordinator refused for good, which workers move aside.
pub fn rejected(campaign: &Campaign) -> usize {
    std::fs::read_dir(campaign.spool().join("rejected")).map_or(0, Iterator::count)
}

/// Panics with what is wrong.
pub fn check(arena: &Arena) {
    let (table, campaign) = (&arena.table, &arena.campaign);
    table.assert_sound();
    assert_eq!(
        table.number("SELECT count(*) FROM job"),
        4 * arena.seeds() as i64,
        "every job that was submitted is there"
    );
    assert_eq!(table.number("SELECT count(*) FROM job WHERE state <> 'done'"), 0, "every job is done");
    assert_eq!(campaign.spooled(), 0, "nothing is left to deliver");
    assert_eq!(rejected(campaign), 0, "the coordinator took whatever was delivered");
    assert_eq!(
        campaign.images().len() as i64,
        table.number("SELECT count(DISTINCT image_sha256) FROM result"),
        "one file for every image"
    );

    let undisturbed = undisturbed(arena.seeds());
    assert_eq!(table.images(), undisturbed, "every image is that of an undisturbed run");
}

/// Digests of the images by job, when nothing goes wrong.
fn undisturbed(seeds: u64) -> Vec<(String, String, i64, String)> {
    let campaign = Campaign::new();
    campaign.submit(&experiment("calm", seeds, "seconds: 0"));
    let _coordinator = campaign.serve(&[]);
    let _worker = campaign.worker_with("calm", &["--batch", "64", "--slots", "2"]);
    let table = Table::open(&campaign.database());
    table.wait_until_done(4 * seeds as i64);
    table.images()
}
