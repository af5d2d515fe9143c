//! Workers that compute several jobs in one pass: the same results, byte for byte, within the memory that there is.

use end_to_end::table::{Counted, Table};
use end_to_end::{Campaign, experiment, miniature, run_worker, simulation, wait_for};

/// Two regions, two scales and three seeds: what one batch mixes.
fn grid(precision: &str) -> String {
    let sections = format!(
        "grid:\n  subject: sim01\n  region: [face, text]\n  gamma: [0, 14]\n  seed: {{ start: 0, count: 3 }}\n\
         sampling: {{ preset: default, steps: 6, size: 32, precision: {precision} }}\n"
    );
    experiment("batches", &miniature(), &sections)
}

const JOBS: i64 = 12;

/// What one worker made of the grid.
struct Done {
    counted: Vec<Counted>,
    images: Vec<Vec<u8>>,
    /// Jobs in a batch, at most: they share its time evenly, to the last bit.
    together: i64,
    log: String,
}

fn run(text: &str, flags: &[&str]) -> Done {
    let campaign = Campaign::new();
    campaign.submit(text);
    let _coordinator = campaign.serve(&[]);
    let mut worker = campaign.worker_with("batching", flags);
    let table = Table::open(&campaign.database());
    table.wait_until_done(JOBS);
    table.assert_sound();
    worker.terminate();
    assert_eq!(worker.wait(), 0, "{}", worker.log());
    let together = "SELECT max(jobs) FROM (SELECT count(*) AS jobs FROM attempt GROUP BY sampling_s)";
    Done { counted: table.counted(), images: campaign.images(), together: table.number(together), log: worker.log() }
}

#[test]
fn jobs_in_a_batch_give_what_they_give_alone_byte_for_byte() {
    let text = grid("single");
    let (alone, batched) = (run(&text, &[]), run(&text, &["--batch", "5"]));
    assert_eq!((alone.together, batched.together), (1, 5), "jobs at a time");
    assert_eq!(batched.counted, alone.counted);
    assert_eq!(batched.images, alone.images);
}

/// Two images of the grid take 7.94 MB even if both networks compute their blocks again, one takes 7.40 MB as it is.
#[test]
fn a_batch_that_exceeds_the_memory_limit_is_divided_until_it_fits() {
    let text = grid("half");
    let alone = run(&text, &[]);
    let limited = run(&text, &["--batch", "5", "--memory-limit", "7.5MB"]);
    assert!(limited.log.contains("sampling 32 x 32 pixels: 1 image(s) at a time"), "{}", limited.log);
    assert_eq!(limited.counted, alone.counted);
    assert_eq!(limited.images, alone.images);
}

/// Three images take 10.3 MB as they are, four take 11.8 MB, and 9.9 MB if both networks compute their blocks again.
#[test]
fn auto_puts_as_many_jobs_into_a_batch_as_memory_holds_and_computes_no_block_again() {
    let text = grid("half");
    let alone = run(&text, &[]);
    let filled = run(&text, &["--batch", "auto", "--memory-limit", "11MB"]);
    assert!(filled.log.contains("sampling 32 x 32 pixels: 3 image(s) at a time\n"), "{}", filled.log);
    assert_eq!(filled.together, 3, "jobs at a time");
    assert_eq!(filled.counted, alone.counted);
    assert_eq!(filled.images, alone.images);
}

#[test]
fn auto_without_anything_to_fill_says_what_to_give_it() {
    let campaign = Campaign::new();
    let mut worker = campaign.worker_with("greedy", &["--batch", "auto"]);
    assert_eq!(worker.wait(), 2, "{}", worker.log());
    assert!(worker.log().contains("--memory-limit") && worker.log().lines().count() == 1, "{}", worker.log());
}

/// One image takes 6.94 MB if both networks compute their blocks again.
#[test]
fn a_job_that_fits_in_no_way_fails_with_the_numbers_and_the_worker_goes_on() {
    let campaign = Campaign::new();
    let text = grid("half");
    campaign.submit(&text.replace("count: 3", "count: 1").replace("kind: sample", "kind: sample\nretries: 0"));
    let _coordinator = campaign.serve(&[]);
    let mut worker = campaign.worker_with("small", &["--batch", "4", "--memory-limit", "6.5MB"]);
    let table = Table::open(&campaign.database());
    wait_for("every job to fail", || {
        (table.number("SELECT count(*) FROM job WHERE state = 'failed'") == 4).then_some(())
    });
    assert_eq!(table.number("SELECT count(*) FROM attempt WHERE class = 'out_of_memory'"), 4);
    let log = worker.log();
    for number in ["guiding 1 image(s)", "6500000 are allowed", "1 image of 32 x 32 pixels takes 69"] {
        assert!(log.contains(number), "`{number}` is not in:\n{log}");
    }
    campaign.submit(&simulation("after", 0.01, 1, ""));
    wait_for("the next job", || (table.number("SELECT count(*) FROM job WHERE state = 'done'") == 1).then_some(()));
    worker.terminate();
    assert_eq!(worker.wait(), 0, "{}", worker.log());
}

#[test]
fn the_bench_measures_every_size_of_a_batch() {
    let folder = |name: &str| miniature().join(name).display().to_string();
    let (diffusion, backbone) = (folder("sd"), folder("clip"));
    let flags = ["--size", "32", "--batch", "1,3", "--parts", "guided_step,vae_forward", "--json"];
    let output = run_worker(["bench", "--diffusion", &diffusion, "--backbone", &backbone].iter().chain(&flags));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let batches = report["batches"].as_array().expect("a report for each size");
    assert_eq!(batches.iter().map(|batch| batch["batch"].as_u64()).collect::<Vec<_>>(), [Some(1), Some(3)]);
    for batch in batches {
        assert!(batch["seconds_per_image"].as_f64().is_some_and(|seconds| seconds > 0.0), "{batch}");
    }
    let peak = |batch: &serde_json::Value| batch["memory"]["estimated_peak"].as_u64();
    assert!(peak(&batches[1]) > peak(&batches[0]), "{report}");
}

/// One image takes 6.94 MB if both networks compute their blocks again.
#[test]
fn a_limit_that_only_recomputing_meets_changes_nothing_but_the_rounding() {
    let text = grid("half");
    let (kept, recomputed) = (run(&text, &[]), run(&text, &["--memory-limit", "7MB"]));
    assert_eq!(recomputed.counted.len(), kept.counted.len());
    for (a, b) in recomputed.counted.iter().zip(&kept.counted) {
        assert_eq!((&a.region, &a.axes, a.seed), (&b.region, &b.axes, b.seed));
        assert!((a.activation - b.activation).abs() < 0.05, "{} against {}", a.activation, b.activation);
    }
}
