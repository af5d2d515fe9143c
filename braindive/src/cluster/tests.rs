//! A region of an encoder on disk becomes a folder of clusters.

use super::*;
use candle_core::{DType, Device, Tensor};
use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;

/// Two far-apart directions of 16 features, and a third, each with something of the row's own.
fn weight(row: usize, at: usize, label: usize) -> f32 {
    let noise = ((row * 7919 + at * 104_729 + row * at * 31) % 1009) as f32 / 504.0 - 1.0;
    f32::from(u8::from(at % 4 == label)) + 0.4 * noise
}

fn settings(k: &[usize]) -> Settings {
    Settings { k: k.to_vec(), ..Settings::default() }
}

/// A head of 60 voxels in a 5 × 4 × 3 volume: region `food` has two clusters of directions.
fn write_encoder(folder: &std::path::Path) -> (Vec<usize>, Vec<usize>) {
    use subject::volume::{Grid, write_map};
    let food: Vec<usize> = (0..60).filter(|row| row % 3 != 0).collect();
    let labels: Vec<usize> = (0..60).map(|row| if row % 3 == 0 { 3 } else { usize::from(row % 7 < 3) }).collect();
    let labels_of = &labels;
    let weight: Vec<f32> = (0..60).flat_map(|row| (0..16).map(move |at| weight(row, at, labels_of[row]))).collect();
    let places: Vec<i64> = (0..60).flat_map(|row| [row / 12, row / 3 % 4, row % 3]).collect();
    let tensors = HashMap::from([
        ("weight", Tensor::from_vec(weight, (60, 16), &Device::Cpu).unwrap()),
        ("bias", Tensor::zeros(60, DType::F32, &Device::Cpu).unwrap()),
        ("voxel_ijk", Tensor::from_vec(places, (60, 3), &Device::Cpu).unwrap()),
    ]);
    candle_core::safetensors::save(&tensors, folder.join("head.safetensors")).unwrap();
    let config = serde_json::json!({ "rois": { "food": food, "rest": [0, 3, 6] } });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let grid = Grid::new([5, 4, 3], [[2.0, 0.0, 0.0, -5.0], [0.0, 2.0, 0.0, 1.0], [0.0, 0.0, 2.0, 7.0]]).unwrap();
    write_map(&folder.join("voxels.nii.gz"), &grid, &[1.0; 60]).unwrap();
    (food, labels)
}

#[test]
fn an_encoders_region_becomes_a_folder_of_named_clusters() {
    let place = tempfile::tempdir().unwrap();
    let (food, labels) = write_encoder(place.path());
    let out = place.path().join("clusters");
    let region = Region::from("food".to_owned());
    let job = Job { encoder: place.path(), region: &region, out: &out, identity: "a" };
    let stored = run(&job, &settings(&[2]), &mut |_, _| ControlFlow::Continue(())).unwrap();

    let of = |label: usize| food.iter().copied().filter(|&row| labels[row] == label).collect::<Vec<_>>();
    let expected = [of(0), of(1)];
    assert!(expected[0].len() > expected[1].len());
    assert_eq!(
        stored.report.clusters,
        BTreeMap::from([
            ("food/cluster:1".to_owned(), expected[0].clone()),
            ("food/cluster:2".to_owned(), expected[1].clone())
        ])
    );
    let volume = subject::volume::Volume::read(&out.join(LABELS)).unwrap();
    // Rows are the volume's voxels in order.
    for (number, rows) in (1..).zip(&expected) {
        let labelled: Vec<usize> = (0..60).filter(|&voxel| volume.values[voxel] == f64::from(number)).collect();
        assert_eq!(labelled, *rows);
    }
    assert_eq!(volume.grid.affine()[2], [0.0, 0.0, 2.0, 7.0]);
    assert_eq!(std::fs::read_to_string(out.join(CTAB)).unwrap(), "1 food/cluster:1\n2 food/cluster:2\n");
    let inputs: Vec<_> = stored.manifest.inputs.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(inputs, ["head.safetensors", "config.json", "voxels.nii.gz"]);
    stored.manifest.verify(&out).unwrap();
    // A second try finds it.
    assert_eq!(run(&job, &settings(&[2]), &mut |_, _| ControlFlow::Break(())).unwrap(), stored);
}

#[test]
fn a_region_may_be_a_union_and_has_to_be_the_heads() {
    let place = tempfile::tempdir().unwrap();
    let (food, _) = write_encoder(place.path());
    let head = crate::encoder::Head::load(place.path(), DType::F32, &Device::Cpu).unwrap();
    let rows = |region: &str| Region::from(region.to_owned()).rows(&head);
    let both = rows("food + rest").unwrap();
    assert_eq!(both.len(), food.len() + 3);
    assert!(both.is_sorted());
    let message = rows("food+faces").unwrap_err().to_string();
    assert!(message.contains("`faces`") && message.contains("food, rest"), "{message}");
}
