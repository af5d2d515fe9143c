//! `worker simulate-subject`: what it writes is read with h5py, nibabel, scipy and numpy, the libraries that users of the real dataset
//! read theirs with.

use end_to_end::{binary, miniature, python, repository};
use std::path::Path;
use std::process::{Command, Output};

fn simulate(out: &Path, flags: &[&str]) -> Output {
    Command::new(binary("worker"))
        .args(["simulate-subject", "--out"])
        .arg(out)
        .arg("--backbone")
        .arg(miniature().join("clip"))
        .args(flags)
        .output()
        .expect("the worker starts")
}

#[test]
fn python_reads_every_file_and_finds_what_was_planted() {
    let Some(python) = python::with_scientific_packages() else { return };
    let place = tempfile::tempdir().expect("a temporary folder can be made");
    let root = place.path().join("nsd");
    // Subject 3 left early, so that some of its images were seen less than three times.
    let simulated = simulate(&root, &["--subject", "1,3", "--seed", "7"]);
    assert!(simulated.status.success(), "{}", String::from_utf8_lossy(&simulated.stderr));
    let read = Command::new(python)
        .arg(repository().join("tests/simulated/read.py"))
        .arg(&root)
        .output()
        .expect("Python starts");
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    let said = String::from_utf8_lossy(&read.stdout);
    assert!(said.contains("subj01: 1000 images") && said.contains("subj03: "), "{said}");
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_nothing_is_overwritten() {
    let place = tempfile::tempdir().expect("a temporary folder can be made");
    let [first, second, other] = ["first", "second", "other"].map(|name| place.path().join(name));
    let flags = ["--sessions", "2", "--without-session", "1", "--betas", "hdf5"];
    for (out, seed) in [(&first, "3"), (&second, "3"), (&other, "4")] {
        let simulated = simulate(out, &[&flags[..], &["--seed", seed]].concat());
        assert!(simulated.status.success(), "{}", String::from_utf8_lossy(&simulated.stderr));
    }
    let betas = "nsddata_betas/ppdata/subj01/func1pt8mm/betas_fithrf_GLMdenoise_RR";
    let session =
        |root: &Path| std::fs::read(root.join(betas).join("betas_session02.hdf5")).expect("the second session");
    assert!(session(&first) == session(&second) && session(&first) != session(&other));
    assert!(!first.join(betas).join("betas_session01.hdf5").exists());
    let again = simulate(&first, &[]);
    let said = String::from_utf8_lossy(&again.stderr);
    assert!(!again.status.success() && said.contains("something is there"), "{said}");
    assert!(!first.with_file_name("first.partial").exists());
}
