//! Masks in a subject's volume select the head's rows. The NIfTI files are written here byte by byte (NIfTI-1 standard), so that
//! the axis order is checked against the standard and not against the reader.
#![allow(clippy::unwrap_used)]

use braindive::encoder::{Head, MaskError, MaskedRows, Threshold, VolumeMask};
use candle_core::{DType, Device};
use flate2::{Compression, write::GzEncoder};
use proptest::collection::vec;
use proptest::prelude::any;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use std::io::Write;
use std::path::{Path, PathBuf};
use subject::volume::{Volume, VolumeError, write_map};
use tempfile::TempDir;

/// Spoilt files that are tried.
const ROUNDS: usize = 1000;

/// A NIfTI-1 file of f32 values; `value` is asked for every voxel (i, j, k).
fn write_nifti(path: &Path, shape: &[i16], slope: f32, value: impl Fn([i32; 3]) -> f32) {
    let mut file = vec![0u8; 352];
    file[0..4].copy_from_slice(&348i32.to_le_bytes());
    file[40..42].copy_from_slice(&(shape.len() as i16).to_le_bytes());
    for axis in 0..7 {
        let size = shape.get(axis).copied().unwrap_or(1);
        file[42 + 2 * axis..44 + 2 * axis].copy_from_slice(&size.to_le_bytes());
    }
    file[70..72].copy_from_slice(&16i16.to_le_bytes());
    file[72..74].copy_from_slice(&32i16.to_le_bytes());
    file[108..112].copy_from_slice(&352f32.to_le_bytes());
    file[112..116].copy_from_slice(&slope.to_le_bytes());
    file[344..348].copy_from_slice(b"n+1\0");
    let [x, y, z] = [shape[0], shape[1], shape[2]].map(i32::from);
    for _ in 0..shape.iter().skip(3).product() {
        for k in 0..z {
            for j in 0..y {
                for i in 0..x {
                    file.extend(value([i, j, k]).to_le_bytes());
                }
            }
        }
    }
    if path.extension().is_some_and(|extension| extension == "gz") {
        let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
        gz.write_all(&file).unwrap();
        file = gz.finish().unwrap();
    }
    std::fs::write(path, file).unwrap();
}

/// A head of one feature whose voxels lie at `voxels`, if it says so.
fn write_head(path: &Path, voxels: Option<(Dtype, &[[i32; 3]])>) {
    let ones = [0, 0, 128, 63].repeat(4);
    let indices: Vec<u8> = match voxels {
        Some((Dtype::I16, voxels)) => voxels.as_flattened().iter().flat_map(|&i| (i as i16).to_le_bytes()).collect(),
        Some((_, voxels)) => voxels.as_flattened().iter().flat_map(|i| i.to_le_bytes()).collect(),
        None => Vec::new(),
    };
    let tensor = |dtype, shape: &[usize], bytes| TensorView::new(dtype, shape.to_vec(), bytes).unwrap();
    let mut tensors = vec![("weight", tensor(Dtype::F32, &[4, 1], &ones)), ("bias", tensor(Dtype::F32, &[4], &ones))];
    if let Some((dtype, _)) = voxels {
        tensors.push(("voxel_ijk", tensor(dtype, &[4, 3], &indices)));
    }
    serialize_to_file(tensors, None, path).unwrap();
}

/// A 3 × 4 × 5 subject: labels −1 at i = 0, 0 at i = 1, else 1 to 5 by k; t is the sum of the indices; the head has
/// four voxels, of which three are labelled.
struct Subject {
    folder: TempDir,
}

const VOXELS: [[i32; 3]; 4] = [[2, 0, 1], [0, 3, 4], [2, 3, 4], [2, 1, 1]];

impl Subject {
    fn new() -> Self {
        let subject = Self { folder: tempfile::tempdir().unwrap() };
        let label = |[i, _, k]: [i32; 3]| if i < 2 { i - 1 } else { k + 1 } as f32;
        write_nifti(&subject.path("labels.nii.gz"), &[3, 4, 5], 0.0, label);
        write_nifti(&subject.path("t.nii"), &[3, 4, 5, 1], f32::NAN, |[i, j, k]| (i + j + k) as f32);
        write_head(&subject.path("head.safetensors"), Some((Dtype::I16, &VOXELS)));
        subject
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn mask(&self, labels: &[i32]) -> VolumeMask {
        VolumeMask { mask: self.path("labels.nii.gz"), labels: labels.to_vec(), threshold: None }
    }

    fn rows(&self, mask: &VolumeMask) -> Result<MaskedRows, MaskError> {
        mask.rows_of(&Head::load(self.path("head.safetensors"), DType::F32, &Device::Cpu).unwrap())
    }
}

#[test]
fn labels_select_rows_and_count_the_whole_mask() {
    let subject = Subject::new();
    let rows = |labels: &[i32]| subject.rows(&subject.mask(labels)).unwrap();
    assert_eq!(rows(&[2]), MaskedRows { rows: vec![0, 3], mask_voxels: 4 });
    assert_eq!(rows(&[5, 2]), MaskedRows { rows: vec![0, 2, 3], mask_voxels: 8 });
    assert_eq!(rows(&[-1]), MaskedRows { rows: vec![1], mask_voxels: 20 });
    assert_eq!(rows(&[]), MaskedRows { rows: vec![0, 2, 3], mask_voxels: 20 });
}

#[test]
fn a_t_map_restricts_the_mask_to_voxels_strictly_above_the_threshold() {
    let subject = Subject::new();
    let mut mask = subject.mask(&[2]);
    mask.threshold = Some(Threshold { map: subject.path("t.nii"), above: 3.0 });
    assert_eq!(subject.rows(&mask).unwrap(), MaskedRows { rows: vec![3], mask_voxels: 3 });
}

#[test]
fn thirty_two_bit_indices_and_scaled_volumes_read_the_same() {
    let subject = Subject::new();
    write_head(&subject.path("head.safetensors"), Some((Dtype::I32, &VOXELS)));
    write_nifti(&subject.path("half.nii"), &[3, 4, 5], 0.5, |[.., k]| (2 * k) as f32);
    let mask = VolumeMask { mask: subject.path("half.nii"), labels: vec![4], threshold: None };
    assert_eq!(subject.rows(&mask).unwrap(), MaskedRows { rows: vec![1, 2], mask_voxels: 12 });
}

#[test]
fn an_empty_region_names_mask_labels_and_counts() {
    let subject = Subject::new();
    let message = subject.rows(&subject.mask(&[3])).unwrap_err().to_string();
    assert!(message.contains("labels.nii.gz (labels [3])"), "{message}");
    assert!(message.contains("4 voxels)") && message.contains("selects 4 voxels"), "{message}");
}

#[test]
fn volumes_of_different_shape_are_refused() {
    let subject = Subject::new();
    write_nifti(&subject.path("t.nii"), &[3, 4, 6], 0.0, |_| 9.0);
    let mut mask = subject.mask(&[2]);
    mask.threshold = Some(Threshold { map: subject.path("t.nii"), above: 2.0 });
    assert!(matches!(subject.rows(&mask), Err(MaskError::Shapes { .. })));

    write_nifti(&subject.path("runs.nii"), &[3, 4, 5, 2], 0.0, |_| 9.0);
    let runs = VolumeMask { mask: subject.path("runs.nii"), labels: vec![], threshold: None };
    assert!(matches!(subject.rows(&runs), Err(MaskError::Volume(VolumeError::NotOneVolume { .. }))));

    write_nifti(&subject.path("small.nii"), &[3, 4, 4], 0.0, |_| 1.0);
    let small = VolumeMask { mask: subject.path("small.nii"), labels: vec![], threshold: None };
    let message = subject.rows(&small).unwrap_err().to_string();
    assert!(message.contains("row 1") && message.contains("[0, 3, 4]") && message.contains("[3, 4, 4]"), "{message}");
}

#[test]
fn a_head_without_places_and_a_broken_volume_are_errors_that_name_the_file() {
    let subject = Subject::new();
    let nifti = std::fs::read(subject.path("t.nii")).unwrap();
    std::fs::write(subject.path("t.nii"), &nifti[..400]).unwrap();
    let broken = VolumeMask { mask: subject.path("t.nii"), labels: vec![], threshold: None };
    let message = subject.rows(&broken).unwrap_err().to_string();
    assert!(message.contains("t.nii"), "{message}");

    write_head(&subject.path("head.safetensors"), None);
    assert!(matches!(subject.rows(&subject.mask(&[2])), Err(MaskError::NoVoxelIjk { .. })));
}

#[test]
fn any_bytes_are_an_error_or_a_volume_that_is_written_and_read_again_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let [seed, path, again] = ["seed.nii", "spoilt.nii", "again.nii"].map(|name| folder.path().join(name));
    write_nifti(&seed, &[4, 3, 2], 0.5, |[i, j, k]| (i + 10 * j + 100 * k) as f32);
    let seed = std::fs::read(seed).unwrap();
    let mut runner = TestRunner::deterministic();
    let spoilt = (vec((0..seed.len(), any::<u8>()), 0..5), 0..2 * seed.len());
    let mut read = 0;
    for _ in 0..ROUNDS {
        let (changes, length) = spoilt.new_tree(&mut runner).unwrap().current();
        let mut bytes = seed.clone();
        changes.into_iter().for_each(|(at, byte)| bytes[at] = byte);
        bytes.truncate(length);
        std::fs::write(&path, bytes).unwrap();
        let Ok(Volume { grid, values }) = Volume::read(&path) else { continue };
        let values: Vec<f32> = values.into_iter().map(|value| value as f32).collect();
        write_map(&again, &grid, &values).unwrap();
        let again = Volume::read(&again).unwrap();
        let same = |a: f64, b: f64| a == b || (a.is_nan() && b.is_nan());
        assert!(again.values.len() == values.len() && again.grid.shape() == grid.shape());
        assert!(again.values.iter().zip(&values).all(|(&read, &value)| same(read, value.into())));
        let [before, after] = [grid, again.grid].map(|grid| grid.affine());
        assert!(before.as_flattened().iter().zip(after.as_flattened()).all(|(&a, &b)| same(a, b)), "{before:?}");
        read += 1;
    }
    assert!(read > ROUNDS / 10, "{read} of {ROUNDS} were volumes");
}
