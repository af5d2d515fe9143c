//! Workers that compute several jobs in one pass: the same results, byte for byte.

use end_to_end::table::Table;
use end_to_end::{Campaign, experiment, miniature};

/// Two regions, two scales and three seeds: what one batch mixes.
fn grid(precision: &str) -> String {
    let sections = format!(
        "grid:\n  subject: sim01\n  region: [face, text]\n  gamma: [0, 14]\n  seed: {{ start: 0, count: 3 }}\n\
         sampling: {{ preset: default, steps: 6, size: 32, precision: {precision} }}\n"
    );
    experiment("batches", &miniature(), &sections)
}

const JOBS: i64 = 12;

/// Runs the grid on one worker; gives the counted results, the images, and how many jobs ran at the same time at most.
fn run(text: &str, flags: &[&str]) -> (Vec<end_to_end::table::Counted>, Vec<Vec<u8>>, i64) {
    let campaign = Campaign::new();
    campaign.submit(text);
    let _coordinator = campaign.serve(&[]);
    let mut worker = campaign.worker_with("batching", flags);
    let table = Table::open(&campaign.database());
    table.wait_until_done(JOBS);
    table.assert_sound();
    worker.terminate();
    assert_eq!(worker.wait(), 0, "{}", worker.log());
    let together =
        "SELECT max((SELECT count(*) FROM attempt b WHERE b.started_at <= a.started_at AND b.ended_at > a.started_at))
                    FROM attempt a";
    (table.counted(), campaign.images(), table.number(together))
}

#[test]
fn jobs_in_a_batch_give_what_they_give_alone_byte_for_byte() {
    let text = grid("single");
    let (alone, images, one) = run(&text, &[]);
    let (batched, batched_images, five) = run(&text, &["--batch", "5"]);
    // A result is delivered while the next job is already running.
    assert!(one <= 2 && five >= 5, "{one} and {five} jobs at a time");
    assert_eq!(batched, alone);
    assert_eq!(batched_images, images);
}

#[test]
fn a_memory_limit_makes_networks_recompute_and_a_batch_that_exceeds_it_is_split() {
    let text = grid("half");
    let (alone, ..) = run(&text, &[]);
    // Enough for a guided step of one image, not for five at a time.
    let (limited, _, five) = run(&text, &["--batch", "5", "--memory-limit", "16MiB"]);
    assert!(five >= 5, "{five} jobs at a time");
    assert_eq!(limited.len(), alone.len());
}
