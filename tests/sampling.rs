//! `worker sample` against the PyTorch reference: the traces of all shipped cases, compared by the reference's own script.

use end_to_end::{binary, read_json, repository};
use std::path::Path;
use std::process::Command;

fn python() -> bool {
    Command::new("python3").arg("--version").output().is_ok_and(|output| output.status.success())
}

fn compare(case: &Path) {
    if !python() {
        eprintln!("skipped: no python3");
        return;
    }
    let out = tempfile::tempdir().expect("a temporary folder can be made");
    let sampled = Command::new(binary("worker"))
        .arg("sample")
        .arg(case.join("request.json"))
        .arg("--out")
        .arg(out.path())
        .arg("--trace")
        .output()
        .expect("the worker starts");
    assert!(sampled.status.success(), "{}", String::from_utf8_lossy(&sampled.stderr));
    let result = read_json(&out.path().join("result.json"));
    assert!(result["activation"].is_f64() && out.path().join("image.png").exists());
    let compared = Command::new("python3")
        .arg(repository().join("tests/reference/compare.py"))
        .arg(case)
        .arg(out.path())
        .output()
        .expect("python3 starts");
    assert!(compared.status.success(), "{}", String::from_utf8_lossy(&compared.stdout));
}

fn case(name: &str) {
    compare(&repository().join("tests/reference/cases").join(name));
}

#[test]
fn small_guided_case_agrees_with_pytorch() {
    case("small_s5");
}

#[test]
fn unguided_case_with_self_attention_guidance_agrees_with_pytorch() {
    case("small_sag_s10");
}

#[test]
fn four_level_case_with_published_vae_names_agrees_with_pytorch() {
    case("deep_s10");
}

#[test]
fn fifty_steps_as_the_paper_ran_agree_with_pytorch() {
    case("three_s50_2023");
}

#[test]
fn full_vocabulary_case_without_self_attention_guidance_agrees_with_pytorch() {
    case("vocab_nosag_s10");
}

#[test]
fn the_trained_miniature_agrees_with_pytorch() {
    compare(&repository().join("miniature/golden"));
}

#[test]
fn a_request_with_a_mistake_names_it_and_exits_with_two() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let request = folder.path().join("request.json");
    std::fs::write(&request, "{\"models\": {}}").expect("a file can be written");
    let output = Command::new(binary("worker"))
        .arg("sample")
        .arg(&request)
        .arg("--out")
        .arg(folder.path())
        .output()
        .expect("the worker starts");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("missing field `diffusion` at line 1"), "{message}");
}
