//! A safetensors file whose tensors come piece by piece: its header first, then values at their places.

use safetensors::Dtype;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Error, Result};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes before the header: its length.
const LENGTH: usize = 8;

/// A file of its full length.
#[derive(Debug)]
pub struct TensorFile {
    file: File,
    /// First byte and length of every tensor's values.
    places: BTreeMap<String, (usize, usize)>,
}

impl TensorFile {
    /// Makes the file; values that are never written are 0.
    ///
    /// # Errors
    /// The disk fails.
    pub fn create(path: &Path, tensors: &[(&str, Dtype, Vec<usize>)]) -> Result<Self> {
        let (mut header, mut places, mut end) = (serde_json::Map::new(), Vec::new(), 0);
        for (name, dtype, shape) in tensors {
            let length = shape.iter().product::<usize>() * dtype.bitsize() / 8;
            let offsets = [end, end + length];
            header.insert(
                (*name).to_owned(),
                serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": offsets }),
            );
            places.push((*name, end, length));
            end += length;
        }
        let mut header = serde_json::to_vec(&header).map_err(Error::other)?;
        header.resize(header.len().next_multiple_of(8), b' ');
        let data = LENGTH + header.len();
        let file = File::create(path)?;
        file.set_len((data + end) as u64)?;
        file.write_all_at(&(header.len() as u64).to_le_bytes(), 0)?;
        file.write_all_at(&header, LENGTH as u64)?;
        let places = places.into_iter().map(|(name, start, length)| (name.to_owned(), (data + start, length)));
        Ok(Self { file, places: places.collect() })
    }

    /// Writes little-endian values `from` a byte of the tensor `name` on.
    ///
    /// # Errors
    /// There is no such tensor or it ends before, or the disk fails.
    pub fn write(&self, name: &str, from: usize, values: &[u8]) -> Result<()> {
        match self.places.get(name) {
            Some(&(start, length)) if from + values.len() <= length => {
                self.file.write_all_at(values, (start + from) as u64)
            }
            place => Err(Error::other(format!(
                "{} bytes from {from} on do not fit into tensor `{name}` of {:?} bytes",
                values.len(),
                place.map(|place| place.1)
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use checkpoint::Checkpoint;

    #[test]
    fn pieces_make_a_file_that_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pieces.safetensors");
        let file =
            TensorFile::create(&path, &[("bytes", Dtype::U8, vec![3]), ("numbers", Dtype::I64, vec![2, 1])]).unwrap();
        file.write("numbers", 8, &7i64.to_le_bytes()).unwrap();
        file.write("bytes", 0, &[1, 2, 3]).unwrap();
        assert!(file.write("numbers", 8, &[0; 9]).is_err());
        assert!(file.write("others", 0, &[0]).is_err());
        let read = Checkpoint::open(&path).unwrap();
        assert_eq!(read.tensors()["numbers"].shape, [2, 1]);
        assert_eq!(read.integers(&read.tensors()["numbers"]).unwrap(), [0, 7]);
        assert_eq!(read.integers(&read.tensors()["bytes"]).unwrap(), [1, 2, 3]);
    }
}
