//! NIfTI volumes, plain and compressed: any bytes are a volume or an error, here and in the coordinator, and what was read can be written and
//! read again, with its place in space.
#![no_main]

use coordinator::spec::volume::Voxels;
use libfuzzer_sys::fuzz_target;
use subject::volume::{Volume, write_map};

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join(if kind % 2 == 0 { "mask.nii" } else { "mask.nii.gz" });
    std::fs::write(&path, bytes).expect("a file");
    let _ = Voxels::read(&path);
    let Ok(Volume { grid, values }) = Volume::read(&path) else { return };
    let values: Vec<f32> = values.into_iter().map(|value| value as f32).collect();
    let path = folder.path().join("written.nii");
    write_map(&path, &grid, &values).expect("a volume can be written");
    let again = Volume::read(&path).expect("what was written can be read");
    let same = |a: f64, b: f64| a == b || (a.is_nan() && b.is_nan());
    assert!(again.values.iter().zip(&values).all(|(&read, &value)| same(read, value.into())));
    assert_eq!((again.values.len(), again.grid.shape()), (values.len(), grid.shape()));
    assert!(again.grid.affine().as_flattened().iter().zip(grid.affine().as_flattened()).all(|(&a, &b)| same(a, b)));
});
