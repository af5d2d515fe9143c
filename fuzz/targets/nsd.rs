//! Files of the dataset that we read ourselves: MATLAB's arrays, FreeSurfer's volumes, colour tables, the table of images; and betas, whose
//! chunk index we walk ourselves.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::ops::ControlFlow;
use subject::nsd::betas::{Pick, Session};
use subject::nsd::layout::BetasFormat;
use subject::nsd::{Design, ctab, mat5, mgh, stim_info};

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join(if kind % 8 == 6 { "file.nii" } else { "file" });
    std::fs::write(&path, bytes).expect("a file");
    match kind % 8 {
        0 => drop(mat5::parse(bytes)),
        1 => drop(mgh::parse(bytes)),
        2 => drop(ctab::parse(&String::from_utf8_lossy(bytes))),
        3 => drop(stim_info::parse(bytes)),
        4 => drop(Design::read(&path)),
        5 => drop(mgh::read(&path)),
        kind => {
            let format = if kind == 6 { BetasFormat::Nifti } else { BetasFormat::Hdf5 };
            let shape = [2, 2, 1];
            let pick = Pick::new(shape, &[[1, 0, 0], [0, 1, 0]]);
            let mut watch = |_| ControlFlow::Continue(());
            drop(Session { path, format }.read(&pick, String::new(), &mut watch));
        }
    }
});
