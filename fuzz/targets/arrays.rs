//! NumPy files and pickles of arrays. A pickle is never executed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use subject::nsd::import::{named, npy, pickle};

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    match kind % 2 {
        0 => {
            if let Ok(array) = npy::parse(bytes.to_vec()) {
                assert_eq!(array.floats().len(), array.len());
            }
        }
        _ => {
            drop(pickle::parse(bytes));
            drop(named::Named::parse(bytes));
        }
    }
});
