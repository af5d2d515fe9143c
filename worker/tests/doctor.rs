//! `worker doctor`, as people run it.

use std::process::{Command, Output};

fn doctor(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_worker")).arg("doctor").args(arguments).output().expect("the worker starts")
}

#[test]
fn a_device_that_computes_right_is_fit_for_jobs() {
    let Output { status, stdout, .. } = doctor(&["--device", "cpu"]);
    let said = String::from_utf8(stdout).expect("it prints text");
    assert!(status.success(), "{said}");
    for word in ["cpu", "f32", "f16", "bf16", "layers agree", "fit for jobs"] {
        assert!(said.contains(word), "{word} in {said}");
    }
    let Output { stdout, .. } = doctor(&["--device", "cpu", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&stdout).expect("it prints JSON");
    let checks = report["checks"].as_array().expect("checks");
    assert!(checks.len() > 90 && checks.iter().all(|check| check["passed"] == true), "{report}");
    assert_eq!(report["fit"], true);
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_device_that_does_not_open_ends_with_4_and_one_line() {
    let Output { status, stdout, stderr } = doctor(&["--device", "cuda:0"]);
    assert_eq!((status.code(), stdout.len()), (Some(4), 0));
    assert_eq!(String::from_utf8_lossy(&stderr).lines().count(), 1);
}
