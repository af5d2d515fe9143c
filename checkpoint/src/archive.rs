//! The tensors of an archive of PyTorch (`.bin`, `.pt`, `.pth`, `.chkpt`): a zip whose members are not compressed, `data.pkl` with
//! the state dict, and `data/N` with the elements of storage N.

use super::error::Problem;
use super::mapped::Tensor;
use super::pickle::{self, View};
use std::collections::{BTreeMap, HashMap};
use std::io::Cursor;
use std::ops::Range;
use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

/// The tensors of the archive with these bytes, which is the `file`-th of its checkpoint.
pub(crate) fn tensors(bytes: &[u8], file: usize) -> Result<BTreeMap<String, Tensor>, Problem> {
    let members = members(bytes)?;
    let no_state = || Problem::NotPyTorch("its zip has no data.pkl".to_owned());
    let root = members.keys().find_map(|name| name.strip_suffix("data.pkl")).ok_or_else(no_state)?.to_owned();
    let member = |name: &str| members.get(&format!("{root}{name}")).cloned();
    if member("byteorder").is_some_and(|order| &bytes[order] != b"little") {
        return Err(Problem::NotPyTorch("it was saved on a big-endian machine".to_owned()));
    }
    let pickle = &bytes[member("data.pkl").ok_or_else(no_state)?];
    pickle::state_dict(pickle)?
        .into_iter()
        .map(|(key, view)| match place(&view, member(&format!("data/{}", view.storage.key)), file) {
            Ok(tensor) => Ok((key, tensor)),
            Err(what) => Err(Problem::ArchivedTensor { key, what }),
        })
        .collect()
}

/// Where the bytes of every member lie.
fn members(bytes: &[u8]) -> Result<HashMap<String, Range<usize>>, Problem> {
    let broken = |error: ZipError| match error {
        ZipError::InvalidArchive(_) | ZipError::Io(_) => Problem::Truncated {
            found: bytes.len() as u64,
            lacks: format!("and its zip directory, which stands at the end, is missing or damaged ({error})"),
        },
        error => Problem::NotPyTorch(error.to_string()),
    };
    let mut zip = ZipArchive::new(Cursor::new(bytes)).map_err(broken)?;
    let mut members = HashMap::new();
    for i in 0..zip.len() {
        let member = zip.by_index_raw(i).map_err(broken)?;
        let name = member.name().map_err(broken)?.into_owned();
        if member.compression() != CompressionMethod::Stored || member.encrypted() {
            return Err(Problem::NotPyTorch(format!("its member {name} is compressed")));
        }
        let range = member.data_start().and_then(|start| {
            let range = usize::try_from(start).ok()?..usize::try_from(start.checked_add(member.size())?).ok()?;
            bytes.get(range.clone()).map(|_| range)
        });
        let Some(range) = range else {
            let lacks = format!("its member {name} lies beyond");
            return Err(Problem::Truncated { found: bytes.len() as u64, lacks });
        };
        members.insert(name, range);
    }
    Ok(members)
}

/// Where a view lies, whose storage is the member with these bytes; or what is wrong with it.
fn place(view: &View, storage: Option<Range<usize>>, file: usize) -> Result<Tensor, String> {
    let View { storage: described, offset, shape, strides } = view;
    let storage = storage.ok_or_else(|| format!("lacks its elements, data/{}", described.key))?;
    let width = described.dtype.bitsize() / 8;
    if described.len.checked_mul(width) != Some(storage.len()) {
        return Err(format!(
            "has {} bytes of elements, its state dict promises {} elements",
            storage.len(),
            described.len
        ));
    }
    let elements = shape.iter().try_fold(1_usize, |product, &length| product.checked_mul(length));
    let last = shape
        .iter()
        .zip(strides)
        .try_fold(*offset, |last, (&length, &stride)| last.checked_add(length.saturating_sub(1).checked_mul(stride)?));
    let inside = elements == Some(0) || last.is_some_and(|last| last < described.len);
    // A view that repeats elements could be of any size.
    if !inside || elements.is_none_or(|elements| elements > described.len) {
        return Err(format!(
            "of shape {shape:?} and strides {strides:?} does not lie in its {} elements",
            described.len
        ));
    }
    let start = if elements == Some(0) { storage.start } else { storage.start + offset * width };
    Ok(Tensor { dtype: described.dtype, shape: shape.clone(), strides: strides.clone(), file, start })
}
