//! NIfTI volumes, plain and compressed.
#![no_main]

use coordinator::spec::volume::Voxels;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join(if kind % 2 == 0 { "mask.nii" } else { "mask.nii.gz" });
    std::fs::write(&path, bytes).expect("a file");
    let _ = Voxels::read(&path);
});
