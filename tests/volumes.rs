//! Volumes against nibabel: what it writes is read equal, and it reads what is written, values and place.

use end_to_end::{binary, python, repository};
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use subject::volume::{Volume, write_labels, write_map};

#[track_caller]
fn run(command: &mut Command) {
    let ran = command.output().expect("the program starts");
    let said = [ran.stdout, ran.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(ran.status.success(), "{command:?}: {said}");
}

fn script(python: &Path, arguments: &[&Path]) -> Command {
    let mut command = Command::new(python);
    command.arg(repository().join("tests/volumes/volumes.py")).args(arguments);
    command
}

fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(values) => values.iter().flat_map(numbers).collect(),
        number => vec![number.as_f64().expect("a number")],
    }
}

#[test]
fn what_nibabel_writes_is_read_equal_and_it_reads_what_is_written() {
    let Some(python) = python::with_scientific_packages() else { return };
    let place = tempfile::tempdir().expect("a temporary folder can be made");
    let folder = place.path();
    run(&mut script(&python, &[Path::new("write"), folder]));
    let expected = std::fs::read(folder.join("expected.json")).expect("what the files hold");
    let expected: Value = serde_json::from_slice(&expected).expect("JSON");
    let expected = expected.as_object().expect("an object");
    assert_eq!(expected.len(), 14);
    for (name, expected) in expected {
        let read = Volume::read(&folder.join(name)).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(read.values, numbers(&expected["values"]), "{name}");
        let affine = read.grid.affine();
        for (found, expected) in affine.as_flattened().iter().zip(numbers(&expected["affine"])) {
            assert!((found - expected).abs() < 1e-12 * expected.abs().max(1.0), "{name}: {affine:?}");
        }
    }

    let grid = Volume::read(&folder.join("oblique.nii.gz")).expect("it was read before").grid;
    let mut map: Vec<f32> = (0..60).map(|at| at as f32 / 7.0).collect();
    map[grid.position([1, 2, 0]).expect("a voxel of the grid")] = f32::NAN;
    let labels: Vec<i16> = (-1..59).collect();
    write_map(&folder.join("map.nii.gz"), &grid, &map).expect("a map is written");
    write_labels(&folder.join("labels.nii.gz"), &grid, &labels).expect("labels are written");
    run(&mut script(&python, &[Path::new("read"), folder]));
}

#[test]
fn planted_clusters_come_back_where_they_lie() {
    let Some(python) = python::with_scientific_packages() else { return };
    let place = tempfile::tempdir().expect("a temporary folder can be made");
    let (encoder, out) = (place.path(), place.path().join("clusters"));
    run(&mut script(&python, &[Path::new("encoder"), encoder]));
    let mut worker = Command::new(binary("worker"));
    worker.arg("cluster").arg(encoder).args(["--region", "food", "--k", "1,2,3", "--out"]).arg(&out);
    run(&mut worker);
    run(&mut script(&python, &[Path::new("clusters"), encoder, &out]));

    // Asked again it finds what it made, and does not make something else of it.
    run(&mut worker);
    let other = Command::new(binary("worker"))
        .arg("cluster")
        .arg(encoder)
        .args(["--region", "other", "--out"])
        .arg(&out)
        .output()
        .expect("the worker starts");
    let said = String::from_utf8_lossy(&other.stderr);
    assert!(!other.status.success() && said.contains("was made by another cluster"), "{said}");
}
