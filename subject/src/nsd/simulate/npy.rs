//! Writing NumPy's `.npy` files of version 1.0 (NumPy Enhancement Proposal 1).

use std::io;
use std::path::Path;

/// Writes an array of booleans, the last axis fastest.
pub fn write_bools(path: &Path, shape: &[usize], values: &[bool]) -> io::Result<()> {
    let lengths: String = shape.iter().map(|length| format!("{length}, ")).collect();
    let mut header = format!("{{'descr': '|b1', 'fortran_order': False, 'shape': ({lengths}), }}");
    // Prefix, header and a line's end fill a multiple of 64 bytes.
    let padded = (10 + header.len() + 1).next_multiple_of(64) - 11;
    header = format!("{header:padded$}\n");
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((header.len() as u16).to_le_bytes());
    file.extend(header.as_bytes());
    file.extend(values.iter().map(|&value| u8::from(value)));
    std::fs::write(path, file)
}
