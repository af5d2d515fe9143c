//! Writing tensors that others read.

use crate::error::{Error, Result};
use safetensors::tensor::{Dtype, TensorView};
use std::collections::HashMap;
use std::path::Path;

/// A tensor by name: its elements row by row, little-endian.
pub type Named<'a> = (&'a str, Dtype, Vec<usize>, &'a [u8]);

/// Writes a safetensors file that everybody may read whom the folder's owner lets: the format's own writer leaves it to its owner alone.
///
/// # Errors
/// A tensor's bytes are not its shape's, or the disk fails.
pub fn write_tensors(path: &Path, tensors: &[Named<'_>], metadata: Option<HashMap<String, String>>) -> Result<()> {
    let failed = |source| Error::Write { path: path.to_owned(), source };
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| TensorView::new(*dtype, shape.clone(), bytes).map(|view| (*name, view)));
    let views = views.collect::<Result<Vec<_>, _>>();
    let bytes = views.and_then(|views| safetensors::serialize(views, metadata));
    std::fs::write(path, bytes.map_err(|error| failed(std::io::Error::other(error)))?).map_err(failed)
}
