//! The tensors of a safetensors file: 8 bytes of header length, a JSON header, the elements.

use super::error::Problem;
use super::mapped::{Tensor, row_major};
use safetensors::tensor::Metadata;
use safetensors::{SafeTensorError, SafeTensors};
use std::collections::BTreeMap;

/// The tensors of the file with these bytes, which is the `file`-th of its checkpoint.
pub(crate) fn tensors(bytes: &[u8], file: usize) -> Result<BTreeMap<String, Tensor>, Problem> {
    let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(|source| explain(bytes, source))?;
    let tensor = |info: &safetensors::tensor::TensorInfo| Tensor {
        dtype: info.dtype,
        shape: info.shape.clone(),
        strides: row_major(&info.shape),
        file,
        start: 8 + header + info.data_offsets.0,
    };
    Ok(metadata.tensors().into_iter().map(|(key, info)| (key, tensor(info))).collect())
}

/// Tells a file that ends too early from one that was never safetensors.
fn explain(bytes: &[u8], source: SafeTensorError) -> Problem {
    let header = bytes.first_chunk().map_or(0, |&length| u64::from_le_bytes(length));
    let promised = match source {
        SafeTensorError::HeaderTooSmall => Some(8),
        SafeTensorError::InvalidHeaderLength => header.checked_add(8),
        SafeTensorError::MetadataIncompleteBuffer => usize::try_from(header)
            .ok()
            .and_then(|header| bytes.get(8..8 + header))
            .and_then(|text| serde_json::from_slice::<Metadata>(text).ok())
            .map(|metadata| 8 + header + metadata.data_len() as u64),
        _ => None,
    };
    match promised {
        Some(promised) if promised > bytes.len() as u64 => {
            Problem::Truncated { found: bytes.len() as u64, lacks: format!("its header promises {promised}") }
        }
        _ => Problem::NotSafetensors(source),
    }
}
