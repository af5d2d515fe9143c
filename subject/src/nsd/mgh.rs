//! FreeSurfer's volumes and surface maps, `.mgh` and compressed `.mgz` (FreeSurfer's MghFormat page): a header of 284 big-endian bytes,
//! then values whose first axis runs fastest.

use super::NsdError;
use flate2::read::MultiGzDecoder;
use std::io::{self, Read};
use std::path::Path;

const HEADER: usize = 284;
/// What a compressed file may unpack to.
const MOST_BYTES: u64 = 4 << 30;

/// A volume, or a map of a surface whose vertices lie along the first axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Mgh {
    /// Along x, y, z and frames; x runs fastest.
    pub shape: [usize; 4],
    pub values: Vec<f32>,
}

/// Why bytes are no MGH file.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MghError {
    #[error("it has {0} bytes, the header alone has {HEADER}")]
    Short(usize),
    #[error("its version is {0}, expected 1")]
    Version(i32),
    #[error("its values are of type {0}, expected 0 (u8), 1 (i32), 3 (f32) or 4 (i16)")]
    Type(i32),
    #[error("its shape is {0:?}")]
    Shape([i32; 4]),
    #[error("its shape {shape:?} needs {needed} bytes of values, {found} are there: it is truncated")]
    Truncated { shape: [i32; 4], needed: usize, found: usize },
}

/// Reads a file; `.mgz` and `.mgh.gz` are unpacked.
///
/// # Errors
/// The file can't be read or is malformed.
pub fn read(path: &Path) -> Result<Mgh, NsdError> {
    let bytes = unpacked(path).map_err(|source| NsdError::Read { path: path.to_owned(), source })?;
    parse(&bytes).map_err(|source| NsdError::Mgh { path: path.to_owned(), source })
}

/// The bytes of a file, unpacked if they are compressed.
///
/// # Errors
/// The file can't be read or unpacked.
pub fn unpacked(path: &Path) -> io::Result<Vec<u8>> {
    let bytes = std::fs::read(path)?;
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(bytes);
    }
    let mut unpacked = Vec::new();
    MultiGzDecoder::new(&bytes[..]).take(MOST_BYTES).read_to_end(&mut unpacked)?;
    Ok(unpacked)
}

/// Reads an unpacked file.
///
/// # Errors
/// The bytes are malformed.
pub fn parse(bytes: &[u8]) -> Result<Mgh, MghError> {
    let (header, data) = bytes.split_at_checked(HEADER).ok_or(MghError::Short(bytes.len()))?;
    let (words, _) = header.as_chunks::<4>();
    let word = |at: usize| i32::from_be_bytes(words[at]);
    if word(0) != 1 {
        return Err(MghError::Version(word(0)));
    }
    let found = [word(1), word(2), word(3), word(4)];
    let bytes_each = match word(5) {
        0 => 1,
        1 | 3 => 4,
        4 => 2,
        other => return Err(MghError::Type(other)),
    };
    let shape = found.map(|side| usize::try_from(side).unwrap_or(0));
    let values = shape.iter().try_fold(1usize, |all, &side| all.checked_mul(side));
    let needed = values.filter(|&values| values > 0).and_then(|values| values.checked_mul(bytes_each));
    let needed = needed.ok_or(MghError::Shape(found))?;
    // Scan parameters and tags may follow.
    let data = data.get(..needed).ok_or(MghError::Truncated { shape: found, needed, found: data.len() })?;
    let values = match word(5) {
        0 => data.iter().map(|&value| f32::from(value)).collect(),
        1 => data.as_chunks().0.iter().map(|bytes| i32::from_be_bytes(*bytes) as f32).collect(),
        3 => data.as_chunks().0.iter().map(|bytes| f32::from_be_bytes(*bytes)).collect(),
        _ => data.as_chunks().0.iter().map(|bytes| f32::from(i16::from_be_bytes(*bytes))).collect(),
    };
    Ok(Mgh { shape, values })
}
