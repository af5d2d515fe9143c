//! Files that h5py, nibabel and scipy wrote (tests/reference/nsd/make.py) are read as what they are.
#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;
use std::path::PathBuf;
use subject::nsd::betas::{Pick, Session, z_score};
use subject::nsd::layout::BetasFormat;
use subject::nsd::{Design, NsdError, Subject, ctab, mat5, mgh, stim_info};

fn reference(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/reference/nsd")).join(name)
}

#[test]
fn matlab_arrays_of_every_class_are_read() {
    for form in ["plain.mat", "compressed.mat"] {
        let arrays = mat5::read(&reference("forms").join(form)).unwrap();
        let array = |name: &str| (arrays[name].shape.clone(), arrays[name].values.clone());
        // The first index runs fastest.
        assert_eq!(array("double"), (vec![2, 3], vec![1.5, 4.0, -2.0, 5.0, 3.0, 6.0]));
        assert_eq!(array("whole"), (vec![1, 3], vec![70_000.0, 2.0, 3.0]));
        assert_eq!(array("single"), (vec![1, 2], vec![0.25, -8.0]));
        assert_eq!(array("cube"), (vec![2, 2, 2], vec![0.0, 4.0, 2.0, 6.0, 1.0, 5.0, 3.0, 7.0]));
        for kind in ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"] {
            assert_eq!(array(kind), (vec![2, 2], vec![1.0, 3.0, 2.0, 100.0]), "{form}: {kind}");
        }
        for other in ["text", "cell", "complex"] {
            assert!(!arrays.contains_key(other), "{form}: {other}");
        }
    }
}

#[test]
fn a_truncated_matlab_file_is_named() {
    let bytes = std::fs::read(reference("forms/plain.mat")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.mat");
    std::fs::write(&path, &bytes[..bytes.len() - 20]).unwrap();
    let message = mat5::read(&path).unwrap_err().to_string();
    assert!(message.contains("cut.mat") && message.contains("truncated"), "{message}");
}

#[test]
fn the_design_is_the_same_in_both_versions_of_matlab_files() {
    let design = Design::read(&reference("root/nsddata/experiments/nsd/nsd_expdesign.mat")).unwrap();
    assert_eq!(design, Design::read(&reference("forms/design_v73.mat")).unwrap());
    assert_eq!(design.sessions(), 2);
    // Subject 2 has images 0 to 7, then 20 to 51; the first 40 trials show them in order, but for the last shared one.
    let shown = design.shown(Subject::new(2).unwrap(), 2);
    assert_eq!((shown[0], shown[6], shown[7], shown[8], shown[39]), (0, 6, 0, 20, 51));
    assert_eq!(design.shared().len(), 8);
    assert_eq!(design.shared_and_seen(1).into_iter().collect::<Vec<_>>(), (0..7).collect::<Vec<_>>());
}

#[test]
fn freesurfers_files_are_read() {
    let surface = mgh::read(&reference("forms/surface.mgh")).unwrap();
    assert_eq!(surface.shape, [5, 1, 1, 2]);
    // NumPy's [vertex, frame] against vertices that run fastest.
    assert_eq!(surface.values, [0.0, 2.0, 4.0, 6.0, 8.0, 1.0, 3.0, 5.0, 7.0, 9.0]);
    let labels = mgh::read(&reference("forms/labels.mgz")).unwrap();
    assert_eq!(labels.shape, [2, 3, 2, 1]);
    assert_eq!(labels.values[..4], [0.0, 6.0, 2.0, 8.0]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.mgh");
    std::fs::write(&path, &std::fs::read(reference("forms/surface.mgh")).unwrap()[..300]).unwrap();
    let message = mgh::read(&path).unwrap_err().to_string();
    assert!(message.contains("cut.mgh") && message.contains("truncated"), "{message}");
}

/// Two of the four voxels of a volume that is 2 × 2 × 1.
fn two_voxels(path: PathBuf) -> Result<Vec<f32>, NsdError> {
    read_two_voxels(path, BetasFormat::Hdf5)
}

fn read_two_voxels(path: PathBuf, format: BetasFormat) -> Result<Vec<f32>, NsdError> {
    let shape = [2, 2, 1];
    let session = Session { path, format };
    session.check(shape)?;
    let pick = Pick::new(shape, &[[1, 0, 0], [0, 1, 0]]);
    let mut watch = |_| ControlFlow::Continue(());
    Ok(session.read(&pick, "betas".to_owned(), &mut watch)?.0)
}

#[test]
fn betas_are_the_same_however_hdf5_stores_them() {
    let expected: Vec<f32> =
        [1, 2].iter().flat_map(|voxel| (0..750).map(move |trial| (4 * trial + voxel) as f32 / 300.0)).collect();
    for form in ["chunked", "packed", "contiguous", "big_endian", "real", "latest"] {
        let betas = two_voxels(reference("forms").join(format!("{form}.hdf5"))).unwrap();
        assert_eq!(betas, expected, "{form}");
    }
}

#[test]
fn betas_of_a_nifti_file_are_read_too() {
    let expected: Vec<f32> =
        [1, 2].iter().flat_map(|voxel| (0..750).map(move |trial| (4 * trial + voxel) as f32 / 300.0)).collect();
    assert_eq!(read_two_voxels(reference("forms/tiny.nii"), BetasFormat::Nifti).unwrap(), expected);
}

#[test]
fn a_session_has_mean_0_and_standard_deviation_1_and_a_voxel_that_never_changes_is_0() {
    let mut series: Vec<f32> = (0..750).map(|trial| 5.0 + ((37 * trial) % 1201) as f32 / 300.0).collect();
    z_score(&mut series);
    let moment = |power| series.iter().map(|&z| f64::from(z).powi(power)).sum::<f64>() / 750.0;
    assert!(moment(1).abs() < 1e-6 && (moment(2) - 1.0).abs() < 1e-5, "{} {}", moment(1), moment(2));
    let mut constant = [2.5; 750];
    z_score(&mut constant);
    assert_eq!(constant, [0.0; 750]);
}

#[test]
fn an_image_id_out_of_range_is_told_with_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let design = folder.path().join("nsd_expdesign.mat");
    let mut bytes = std::fs::read(reference("forms/design_v73.mat")).unwrap();
    // Of the fixture's numbers 52 is only an image of subject 2.
    let at = bytes.windows(8).rposition(|bytes| bytes == 52_f64.to_le_bytes()).unwrap();
    bytes[at..at + 8].copy_from_slice(&73_001_f64.to_le_bytes());
    std::fs::write(&design, bytes).unwrap();
    let message = Design::read(&design).unwrap_err().to_string();
    for told in ["nsd_expdesign.mat", "`subjectim`", "73001", "73000"] {
        assert!(message.contains(told), "{told} is not in: {message}");
    }
    let table = folder.path().join("nsd_stim_info_merged.csv");
    let header = ",cocoId,cocoSplit,cropBox,loss,nsdId,flagged,BOLD5000,shared1000";
    std::fs::write(&table, format!("{header}\n0,9,val2017,\"(0, 0, 0, 0)\",0,73000,False,False,False\n")).unwrap();
    let message = stim_info::read(&table).unwrap_err().to_string();
    for told in ["nsd_stim_info_merged.csv", "nsdId of row 1", "73000", "0 to 72999"] {
        assert!(message.contains(told), "{told} is not in: {message}");
    }
}

#[test]
fn a_truncated_or_damaged_file_of_betas_is_named() {
    let bytes = std::fs::read(reference("forms/chunked.hdf5")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("betas_session07.hdf5");
    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let message = two_voxels(path.clone()).unwrap_err().to_string();
    assert!(message.contains("betas_session07.hdf5") && message.contains("truncated"), "{message}");

    let node = bytes.windows(5).position(|bytes| bytes == b"TREE\x01").unwrap();
    let mut damaged = bytes.clone();
    damaged[node + 4] = 7;
    std::fs::write(&path, damaged).unwrap();
    let message = two_voxels(path).unwrap_err().to_string();
    assert!(message.contains("betas_session07.hdf5") && message.contains("index"), "{message}");

    // What NIfTI packs says nothing of its length before it is read.
    let bytes = std::fs::read(reference("forms/tiny.nii")).unwrap();
    let path = folder.path().join("betas_session07.nii");
    std::fs::write(&path, &bytes[..bytes.len() - 4]).unwrap();
    let message = read_two_voxels(path, BetasFormat::Nifti).unwrap_err().to_string();
    assert!(message.contains("betas_session07.nii: the number of its volumes is 749, expected 750"), "{message}");
}

#[test]
fn a_value_that_is_no_number_is_named_with_its_voxel_and_trial() {
    let mut bytes = std::fs::read(reference("forms/real.hdf5")).unwrap();
    // Voxel 1 of trial 2 (counted from 0): 4·2 + 1, in per cent.
    let value = (9.0f32 / 300.0).to_le_bytes();
    let at = bytes.windows(4).position(|bytes| bytes == value).unwrap();
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nan.hdf5");
    std::fs::write(&path, bytes).unwrap();
    let message = two_voxels(path).unwrap_err().to_string();
    assert!(message.contains("nan.hdf5") && message.contains("[1, 0, 0] of trial 3"), "{message}");
}

/// Small numbers from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

#[test]
fn a_file_with_wrong_bytes_is_an_error_or_numbers_but_never_a_panic() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random(1);
    for (seed, name, rounds) in [
        ("forms/plain.mat", "a.mat", 1000),
        ("forms/compressed.mat", "a.mat", 1000),
        ("root/nsddata/experiments/nsd/nsd_expdesign.mat", "a.mat", 300),
        ("forms/surface.mgh", "a.mgh", 1000),
        ("forms/labels.mgz", "a.mgz", 1000),
        ("forms/chunked.hdf5", "a.hdf5", 1000),
        ("forms/tiny.nii", "a.nii", 300),
    ] {
        let whole = std::fs::read(reference(seed)).unwrap();
        let path = folder.path().join(name);
        for _ in 0..rounds {
            let mut bytes = whole.clone();
            for _ in 0..=random.below(4) {
                // Headers and indices are at the beginning, where damage says most.
                let reach = if random.below(2) == 0 { bytes.len().min(3000) } else { bytes.len() };
                let at = random.below(reach);
                bytes[at] = [0, 1, 0x7f, 0x80, 0xff, random.below(256) as u8][random.below(6)];
            }
            if random.below(4) == 0 {
                bytes.truncate(random.below(bytes.len()));
            }
            std::fs::write(&path, &bytes).unwrap();
            let format = if name == "a.nii" { BetasFormat::Nifti } else { BetasFormat::Hdf5 };
            match name {
                "a.mat" => drop(Design::read(&path)),
                "a.mgh" | "a.mgz" => drop(mgh::read(&path)),
                _ => drop(read_two_voxels(path.clone(), format)),
            }
            drop(mat5::parse(&bytes));
            drop(stim_info::parse(&bytes[..]));
            drop(ctab::parse(&String::from_utf8_lossy(&bytes)));
        }
    }
}
