//! The header of a safetensors file, read without the tensors; a file shorter than its header says is damaged.
//! Format: 8 bytes little-endian header length, JSON header, data.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// No real model's header is longer (safetensors' own limit).
const LONGEST_HEADER: u64 = 100_000_000;

/// Why a file is not the safetensors file that it should be. Reads after the file's name.
#[derive(Debug, thiserror::Error)]
pub enum TensorsError {
    #[error("cannot be read")]
    Io(#[from] io::Error),
    #[error("is a Git LFS pointer, not the file itself: run `git lfs pull`")]
    LfsPointer,
    #[error("is not a safetensors file: {0}")]
    Malformed(String),
    #[error("is truncated: it has {found} bytes, its header promises {promised}")]
    Truncated { found: u64, promised: u64 },
}

/// A tensor's entry in the header.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Tensor {
    pub dtype: String,
    pub shape: Vec<u64>,
    /// Begin and end of its bytes, counted from the end of the header.
    pub data_offsets: [u64; 2],
}

/// The header of a safetensors file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub tensors: BTreeMap<String, Tensor>,
    data_start: u64,
}

/// Reads the header of the file at `path` and checks that the file holds what it promises.
pub fn header(path: &Path) -> Result<Header, TensorsError> {
    let mut file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let mut length = [0; 8];
    if bytes < 8 {
        return Err(TensorsError::Truncated { found: bytes, promised: 8 });
    }
    file.read_exact(&mut length)?;
    if &length == b"version " {
        return Err(TensorsError::LfsPointer);
    }
    let length = u64::from_le_bytes(length);
    if length > LONGEST_HEADER {
        return Err(TensorsError::Malformed(format!("its header would have {length} bytes")));
    }
    if length + 8 > bytes {
        return Err(TensorsError::Truncated { found: bytes, promised: length + 8 });
    }
    let mut text = vec![0; length as usize];
    file.read_exact(&mut text)?;
    let malformed = |error: serde_json::Error| TensorsError::Malformed(format!("its header does not parse: {error}"));
    let mut entries: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&text).map_err(malformed)?;
    entries.remove("__metadata__");
    let tensors = entries
        .into_iter()
        .map(|(name, entry)| Ok((name, serde_json::from_value(entry).map_err(malformed)?)))
        .collect::<Result<BTreeMap<String, Tensor>, TensorsError>>()?;
    let end = tensors.values().map(|tensor| tensor.data_offsets[1]).max().unwrap_or(0);
    let promised = end.saturating_add(length + 8);
    if promised > bytes {
        return Err(TensorsError::Truncated { found: bytes, promised });
    }
    Ok(Header { tensors, data_start: length + 8 })
}

/// The voxel indices of a head, `voxel_ijk`: integers [voxels, 3].
pub fn voxel_ijk(path: &Path, header: &Header) -> Result<Option<Vec<[i64; 3]>>, TensorsError> {
    let Some(tensor) = header.tensors.get("voxel_ijk") else { return Ok(None) };
    let malformed = |what: String| TensorsError::Malformed(format!("its `voxel_ijk` {what}"));
    let &[voxels, 3] = &tensor.shape[..] else {
        return Err(malformed(format!("has shape {:?}, expected [voxels, 3]", tensor.shape)));
    };
    let width = match tensor.dtype.as_str() {
        "I16" => 2,
        "I32" => 4,
        "I64" => 8,
        other => return Err(malformed(format!("is {other}, expected I16, I32 or I64"))),
    };
    let [begin, end] = tensor.data_offsets;
    let (held, needed) = (end.checked_sub(begin), voxels.checked_mul(3 * width));
    if held.is_none() || held != needed {
        return Err(malformed(format!("has offsets {begin} to {end} for {voxels} voxels")));
    }
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(header.data_start + begin))?;
    let mut bytes = vec![0; (end - begin) as usize];
    file.read_exact(&mut bytes)?;
    let number = |bytes: &[u8]| {
        let sign = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 };
        let mut wide = [sign; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        i64::from_le_bytes(wide)
    };
    let width = width as usize;
    let triple = |bytes: &[u8]| [0, 1, 2].map(|axis| number(&bytes[axis * width..(axis + 1) * width]));
    Ok(Some(bytes.chunks_exact(3 * width).map(triple).collect()))
}
