//! A fit that is interrupted goes on from what lies on disk, on whichever worker takes it, and ends in the bytes of an undisturbed one.

use checkpoint::Checkpoint;
use end_to_end::table::Table;
use end_to_end::{Campaign, Process, miniature, run_worker, wait_for};
use std::path::Path;

/// Many enough that a fit lasts while processes are killed and drained.
const EPOCHS: usize = 12;

#[track_caller]
fn run(arguments: &[&str]) {
    let ran = run_worker(arguments);
    assert!(ran.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
}

/// How many epochs the training on disk has behind it.
fn epochs(training: &Path) -> usize {
    match training.exists() {
        true => Checkpoint::open(training).expect("a whole file").tensors()["losses"].shape[0],
        false => 0,
    }
}

/// Overwrites the loss of epoch 1 that the training on disk remembers; nothing is computed from it.
fn mark(training: &Path, loss: f64) {
    let mut bytes = std::fs::read(training).expect("a training");
    let (length, _) = bytes.split_first_chunk().expect("the header's length");
    let data = 8 + u64::from_le_bytes(*length) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..data]).expect("the header is JSON");
    let first = data + header["losses"]["data_offsets"][0].as_u64().expect("an offset") as usize;
    bytes[first..first + 8].copy_from_slice(&loss.to_le_bytes());
    std::fs::write(training, bytes).expect("the training can be written");
}

#[test]
fn a_fit_that_is_killed_and_then_drained_goes_on_elsewhere_and_ends_in_the_same_bytes() {
    let campaign = Campaign::new();
    let path = |name: &str| campaign.path(name).display().to_string();
    let clip = miniature().join("clip").display().to_string();
    run(&["simulate-subject", "--sessions", "1", "--betas", "hdf5", "--backbone", &clip, "--out", &path("nsd")]);
    let food = path("nsd/food/food_s1.nii.gz");
    run(&[
        "prepare",
        &path("nsd"),
        "--subject",
        "subj01",
        "--sessions",
        "1",
        "--food",
        &food,
        "--out",
        &path("subj01"),
    ]);
    let count = EPOCHS.to_string();
    let undisturbed = path("undisturbed");
    run(&["fit", "--data", &path("subj01"), "--backbone", &clip, "--epochs", &count, "--out", &undisturbed]);

    let data = path("subj01");
    campaign.submit(&format!(
        "name: encoders\nkind: fit\ndata: {data}\nmodels: {{ backbone: {clip} }}\nfit: {{ epochs: {EPOCHS} }}\n\
         grid: {{ subject: subj01 }}\nout: encoders/{{subject}}\n"
    ));
    let _coordinator = campaign.serve(&["--lease-ms", "1500", "--heartbeat-ms", "50"]);
    let table = Table::open(&campaign.database());
    let out = campaign.path("encoders/subj01");
    let training = campaign.path("encoders/subj01.partial/.training");
    let more_than = |past: usize, worker: &mut Process| {
        wait_for("an epoch to be on disk", || {
            assert!(worker.is_running() && !out.exists(), "the fit ended too early: {}", worker.log());
            (epochs(&training) > past).then_some(())
        });
    };

    let mut killed = campaign.worker("killed");
    more_than(0, &mut killed);
    killed.kill();
    let first = epochs(&training);
    mark(&training, 1234.5);

    let mut drained = campaign.worker("drained");
    more_than(first, &mut drained);
    drained.terminate();
    assert_eq!(drained.wait(), 0, "{}", drained.log());
    let second = epochs(&training);
    assert!(first < second && second < EPOCHS, "it ends at {second} of {EPOCHS} epochs, which began at {first}");
    assert_eq!(table.number("SELECT count(*) FROM attempt WHERE class = 'drained'"), 1, "given back, not lost");

    let _last = campaign.worker("last");
    table.wait_until_done(1);
    table.assert_sound();
    assert_eq!(table.number("SELECT count(*) FROM attempt WHERE class = 'lost'"), 1);
    assert_eq!(table.number("SELECT count(*) FROM attempt"), 3);
    let read = |folder: &Path, name: &str| std::fs::read(folder.join(name)).expect("a file of the encoder");
    for name in ["head.safetensors", "r2.nii.gz", "evaluation.json"] {
        assert!(read(&out, name) == read(Path::new(&undisturbed), name), "{name} differs");
    }
    let metrics = String::from_utf8(read(&out, "metrics.jsonl")).expect("text");
    let calm = String::from_utf8(read(Path::new(&undisturbed), "metrics.jsonl")).expect("text");
    let (marked, others) = metrics.split_once('\n').expect("a line per epoch");
    assert!(marked.contains("1234.5"), "both went on from what the first had left: {marked}");
    assert_eq!(others, calm.split_once('\n').expect("a line per epoch").1, "and learned the same from there");
}
