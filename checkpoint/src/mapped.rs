//! A checkpoint's files in memory, and its tensors by key.

use super::error::{Error, Problem};
use super::{archive, safetensors_file};
use memmap2::{Mmap, UncheckedAdvice};
use safetensors::Dtype;
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

/// The tensors of a model, memory-mapped: one file, or the shards that an index lists.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    files: Vec<Mapped>,
    tensors: BTreeMap<String, Tensor>,
}

/// Where a tensor lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// From one element to the next along each axis, in elements.
    pub(crate) strides: Vec<usize>,
    pub(crate) file: usize,
    /// The first element's byte in the file.
    pub(crate) start: usize,
}

#[derive(Debug)]
struct Mapped {
    path: PathBuf,
    map: Mmap,
}

impl Checkpoint {
    /// Opens safetensors, an archive of PyTorch, or the index of shards (`*.index.json`). Content decides which of the
    /// first two a file is, not its name.
    ///
    /// # Errors
    /// A file cannot be read, is truncated, is of another format, or an archive holds more than a state dict; the error names
    /// the file.
    pub fn open(path: &Path) -> Result<Self, Error> {
        if path.extension().is_some_and(|extension| extension == "json") {
            return Self::open_shards(path);
        }
        let file = Mapped::open(path)?;
        let tensors = tensors(&file.map, 0).map_err(|problem| problem.of(path))?;
        Ok(Self { path: path.to_owned(), files: vec![file], tensors })
    }

    fn open_shards(path: &Path) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        let text = std::fs::read(path).map_err(|error| Problem::Read(error).of(path))?;
        let index: Index = serde_json::from_slice(&text).map_err(|error| Problem::Index(error).of(path))?;
        let names: BTreeSet<&String> = index.weight_map.values().collect();
        let (mut files, mut shards) = (Vec::new(), BTreeMap::new());
        for name in names {
            // An index lies among its shards: a name is no path to another place.
            let beside = Path::new(name).file_name().is_some_and(|file| file == name.as_str());
            let shard = path.with_file_name(name);
            if !beside {
                let what = serde::de::Error::custom(format!("`{name}` is no file beside it"));
                return Err(Problem::Index(what).of(path));
            }
            let file = Mapped::open(&shard)?;
            shards.insert(name, tensors(&file.map, files.len()).map_err(|problem| problem.of(&shard))?);
            files.push(file);
        }
        let mut tensors = BTreeMap::new();
        for (key, shard) in &index.weight_map {
            match shards.get_mut(shard).and_then(|shard| shard.remove(key)) {
                Some(tensor) => tensors.insert(key.clone(), tensor),
                None => {
                    let (key, shard) = (key.clone(), shard.clone());
                    return Err(Problem::IndexedTensor { key, shard }.of(path));
                }
            };
        }
        Ok(Self { path: path.to_owned(), files, tensors })
    }

    /// The file that was opened: the weights, or the index of their shards.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All files that the tensors are read from, the index of shards first.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let index = self.files.iter().all(|file| file.path != self.path).then_some(self.path.as_path());
        index.into_iter().chain(self.files.iter().map(|file| file.path.as_path()))
    }

    /// All tensors by key.
    pub fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.tensors
    }

    /// The elements of a tensor of this checkpoint, row by row, little-endian: a view of the file, or a copy where the file
    /// has them in another order.
    pub fn bytes(&self, tensor: &Tensor) -> Cow<'_, [u8]> {
        let width = tensor.dtype.bitsize() / 8;
        let data = &self.files[tensor.file].map[tensor.start..];
        let length = tensor.shape.iter().product::<usize>() * width;
        if tensor.strides == row_major(&tensor.shape) {
            return Cow::Borrowed(&data[..length]);
        }
        let mut gathered = Vec::with_capacity(length);
        gather(data, width, &tensor.shape, &tensor.strides, &mut gathered);
        Cow::Owned(gathered)
    }

    /// Takes the pages of a tensor that will not be read again out of this process's memory; they stay in the page cache.
    pub fn release(&self, tensor: &Tensor) {
        let map = &self.files[tensor.file].map;
        let length = tensor.shape.iter().product::<usize>() * (tensor.dtype.bitsize() / 8);
        let end = tensor.start.saturating_add(length).min(map.len());
        // SAFETY: the map is of a file and only read, so that pages which are needed after all are read from the file again.
        // Advice changes no content: that it failed is no error.
        let _ = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, tensor.start, end - tensor.start) };
    }

    /// The elements of a tensor of this checkpoint, row by row; `None` if they are no integers.
    pub fn integers(&self, tensor: &Tensor) -> Option<Vec<i64>> {
        fn each<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> i64) -> Vec<i64> {
            bytes.as_chunks::<N>().0.iter().map(|&word| value(word)).collect()
        }
        let bytes = self.bytes(tensor);
        match tensor.dtype {
            Dtype::U8 => Some(each(&bytes, |[byte]| i64::from(byte))),
            Dtype::I16 => Some(each(&bytes, |word| i64::from(i16::from_le_bytes(word)))),
            Dtype::I32 => Some(each(&bytes, |word| i64::from(i32::from_le_bytes(word)))),
            Dtype::U32 => Some(each(&bytes, |word| i64::from(u32::from_le_bytes(word)))),
            Dtype::I64 => Some(each(&bytes, i64::from_le_bytes)),
            _ => None,
        }
    }
}

impl Mapped {
    fn open(path: &Path) -> Result<Self, Error> {
        let failed = |error| Problem::Read(error).of(path);
        let file = File::open(path).map_err(failed)?;
        // SAFETY: the map is only read, and published checkpoints are not modified in place; a writer that broke this rule
        // could change weights under us, as it could between two reads of the file.
        let map = unsafe { Mmap::map(&file) }.map_err(failed)?;
        Ok(Self { path: path.to_owned(), map })
    }
}

/// The tensors of the file with these bytes, which is the `file`-th of its checkpoint.
fn tensors(bytes: &[u8], file: usize) -> Result<BTreeMap<String, Tensor>, Problem> {
    match bytes {
        [b'P', b'K', 3, 4, ..] => archive::tensors(bytes, file),
        // The magic number that a PyTorch before 1.6 pickled first.
        [0x80, 2, 0x8a, 10, ..] => Err(Problem::OldPyTorch),
        _ if bytes.starts_with(b"version https://git-lfs") => Err(Problem::LfsPointer),
        _ => safetensors_file::tensors(bytes, file),
    }
}

/// The strides of a tensor whose last axis runs fastest.
pub(crate) fn row_major(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1_usize; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis].saturating_mul(shape[axis].max(1));
    }
    strides
}

/// Appends the elements of a strided tensor, row by row. `data` begins with its first element, each `width` bytes.
fn gather(data: &[u8], width: usize, shape: &[usize], strides: &[usize], gathered: &mut Vec<u8>) {
    match (shape, strides) {
        ([length, shape @ ..], [stride, strides @ ..]) => {
            for i in 0..*length {
                gather(&data[i * stride * width..], width, shape, strides, gathered);
            }
        }
        _ => gathered.extend_from_slice(&data[..width]),
    }
}
