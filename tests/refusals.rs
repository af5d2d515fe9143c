//! Bad input gets a clear error and loses nothing.

use end_to_end::disk::SmallDisk;
use end_to_end::table::Table;
use end_to_end::{Campaign, copy_folder, miniature, repository, wait_for};
use std::path::Path;
use std::process::Output;

fn experiment(bundle: &Path, seeds: u32) -> String {
    let sections = format!(
        "grid:\n  subject: sim01\n  region: face\n  seed: {{ start: 0, count: {seeds} }}\n\
         sampling: {{ preset: default, steps: 6, gamma: 14, size: 32 }}\n"
    );
    end_to_end::experiment("refusals", bundle, &sections)
}

fn submit(campaign: &Campaign, text: &str) -> Output {
    let file = campaign.write("experiment.yaml", text);
    campaign.run(&["submit", file.to_str().expect("a readable path")])
}

/// Refused with exit code 2, nothing written, and a message that holds all of `parts`.
fn assert_refused(campaign: &Campaign, text: &str, parts: &[&str]) {
    let output = submit(campaign, text);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{message}");
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in:\n{message}");
    }
    if campaign.database().exists() {
        assert_eq!(Table::open(&campaign.database()).number("SELECT count(*) FROM experiment"), 0);
    }
}

fn bundle(campaign: &Campaign) -> std::path::PathBuf {
    let copy = campaign.path("bundle");
    copy_folder(&miniature(), &copy).expect("the miniature can be copied");
    copy
}

#[test]
fn three_mistakes_of_a_file_are_told_at_once_with_line_caret_and_nearest_name() {
    let campaign = Campaign::new();
    let text = experiment(&miniature(), 4)
        .replace("preset: default", "preset: defualt")
        .replace("region: face", "region: fase")
        .replace("kind: sample", "kind: sample\nretrys: 3");
    assert_refused(&campaign, &text, &["experiment.yaml", "`default`", "face", "retries", "^"]);
}

#[test]
fn a_missing_weights_file_is_named() {
    let campaign = Campaign::new();
    let bundle = bundle(&campaign);
    let file = bundle.join("sd/unet/diffusion_pytorch_model.safetensors");
    std::fs::remove_file(&file).expect("a file can be removed");
    assert_refused(&campaign, &experiment(&bundle, 4), &["unet/diffusion_pytorch_model.safetensors"]);
}

#[test]
fn a_truncated_weights_file_is_named() {
    let campaign = Campaign::new();
    let bundle = bundle(&campaign);
    let file = bundle.join("clip/open_clip_model.safetensors");
    let whole = std::fs::read(&file).expect("the weights can be read");
    std::fs::write(&file, &whole[..whole.len() / 2]).expect("a file can be written");
    assert_refused(&campaign, &experiment(&bundle, 4), &["open_clip_model.safetensors", "truncated"]);
}

#[test]
fn a_region_without_voxels_is_named() {
    let campaign = Campaign::new();
    let bundle = bundle(&campaign);
    let config = bundle.join("encoder/config.json");
    let mut json = end_to_end::read_json(&config);
    json["rois"]["face"] = serde_json::json!([]);
    std::fs::write(&config, json.to_string()).expect("a file can be written");
    assert_refused(&campaign, &experiment(&bundle, 4), &["face", "no voxel"]);
}

#[test]
fn a_head_that_does_not_fit_the_backbone_is_named() {
    let campaign = Campaign::new();
    let bundle = bundle(&campaign);
    let other = repository().join("tests/reference/cases/small_s5/bundle/encoder/head.safetensors");
    std::fs::copy(other, bundle.join("encoder/head.safetensors")).expect("a file can be copied");
    assert_refused(&campaign, &experiment(&bundle, 4), &["head.safetensors", "24", "64"]);
}

#[test]
fn weights_that_changed_after_submitting_fail_as_bad_input_and_are_not_tried_again() {
    let campaign = Campaign::new();
    let bundle = bundle(&campaign);
    assert!(submit(&campaign, &experiment(&bundle, 1)).status.success());
    let file = bundle.join("clip/open_clip_model.safetensors");
    let mut bytes = std::fs::read(&file).expect("the weights can be read");
    *bytes.last_mut().expect("weights") ^= 1;
    std::fs::write(&file, bytes).expect("a file can be written");
    let _coordinator = campaign.serve(&[]);
    let _worker = campaign.worker("careful");
    let table = Table::open(&campaign.database());
    wait_for("the job to fail", || {
        (table.number("SELECT count(*) FROM job WHERE state = 'failed'") == 1).then_some(())
    });
    table.assert_sound();
    assert_eq!(table.number("SELECT count(*) FROM attempt WHERE class = 'bad_input'"), 1);
    assert_eq!(table.number("SELECT count(*) FROM attempt"), 1);
}

#[test]
fn a_second_coordinator_on_the_same_database_is_refused() {
    let campaign = Campaign::new();
    let _first = campaign.serve(&[]);
    let endpoint = campaign.path("other.json");
    let store = campaign.path("other");
    let flags = ["serve", "--listen", "127.0.0.1:0"];
    let paths = ["--endpoint", endpoint.to_str().expect("utf-8"), "--store", store.to_str().expect("utf-8")];
    let second = campaign.run(&[flags.as_slice(), paths.as_slice()].concat());
    let message = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success());
    assert!(message.contains("already serves") && message.contains(&campaign.url()), "{message}");
}

#[test]
fn a_port_in_use_is_one_clear_line() {
    let campaign = Campaign::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = taken.local_addr().expect("it has an address").to_string();
    let output = campaign.run(&["serve", "--listen", &address]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(message.contains(&address) && message.contains("in use"), "{message}");
    assert!(!message.contains("panicked"), "{message}");
}

#[test]
fn a_full_disk_delays_a_result_and_loses_nothing() {
    let campaign = Campaign::new();
    let Some(disk) = SmallDisk::mount(&campaign.store, 1) else {
        eprintln!("skipped: a tmpfs can only be mounted by root");
        return;
    };
    assert!(submit(&campaign, &experiment(&miniature(), 2)).status.success());
    let coordinator = campaign.serve(&[]);
    let full = disk.fill();
    let worker = campaign.worker("patient");
    wait_for("the worker to hear of the full disk", || worker.log().contains("trying again").then_some(()));
    let table = Table::open(&campaign.database());
    assert_eq!(table.number("SELECT count(*) FROM job WHERE state IN ('done', 'failed')"), 0);
    drop(full);
    wait_for("both results", || (table.number("SELECT count(*) FROM job WHERE state = 'done'") == 2).then_some(()));
    table.assert_sound();
    assert_eq!(table.number("SELECT count(*) FROM attempt"), 2, "nothing was computed twice");
    drop(coordinator);
}
