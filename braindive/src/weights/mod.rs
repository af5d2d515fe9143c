//! Checkpoints: tensors of a safetensors file by key, converted to the type that computes.

mod config;

pub use config::read_config;

use crate::error::{Error, Result};
use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::tensor::{Dtype, Metadata};
use safetensors::{SafeTensorError, SafeTensors};
use std::fmt::Display;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A memory-mapped safetensors file, seen below a key prefix. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Weights {
    file: Arc<Checkpoint>,
    prefix: String,
    dtype: DType,
    device: Device,
}

#[derive(Debug)]
struct Checkpoint {
    path: PathBuf,
    map: Mmap,
    /// Byte offset of the first tensor.
    start: usize,
    metadata: Metadata,
}

impl Weights {
    /// Opens `path`; every tensor read from it becomes `dtype` (F32 or F64) on `device`.
    ///
    /// # Errors
    /// The file cannot be read, is truncated, or is not safetensors.
    pub fn open(path: impl AsRef<Path>, dtype: DType, device: &Device) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let read = |source| Error::Read { path: path.clone(), source };
        let file = File::open(&path).map_err(read)?;
        // SAFETY: the map is only read, and published checkpoints are not modified in place; a writer that broke this rule
        // could change weights under us, as it could between two reads of the file.
        let map = unsafe { Mmap::map(&file) }.map_err(read)?;
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|source| explain(&path, &map, source))?;
        let file = Checkpoint { path, map, start: 8 + header, metadata };
        Ok(Self { file: Arc::new(file), prefix: String::new(), dtype, device: device.clone() })
    }

    /// The same file below `name`, so that `weights.at("decoder").at("conv_in")` reads `decoder.conv_in.weight`.
    #[must_use]
    pub fn at(&self, name: impl Display) -> Self {
        Self { prefix: self.key(&name.to_string()), ..self.clone() }
    }

    /// The tensor `name`, which must have `shape`.
    ///
    /// # Errors
    /// No such tensor, another shape, or elements that are no floating-point numbers; the error names file and key.
    pub fn get(&self, shape: &[usize], name: &str) -> Result<Tensor> {
        let found = self.shape(name)?;
        if found != shape {
            let (path, key) = (self.file.path.clone(), self.key(name));
            return Err(Error::WrongShape { path, key, found, expected: shape.to_vec() });
        }
        self.read(name)
    }

    /// The tensor `name`, of any shape.
    ///
    /// # Errors
    /// As [`Weights::get`].
    pub fn read(&self, name: &str) -> Result<Tensor> {
        let key = self.key(name);
        let info = self.file.metadata.info(&key).ok_or_else(|| self.missing(name))?;
        let (begin, end) = info.data_offsets;
        let bytes = &self.file.map[self.file.start + begin..self.file.start + end];
        let tensor = match info.dtype {
            Dtype::F16 => self.tensor(bytes, &info.shape, |b| f16::from_le_bytes(b).to_f64()),
            Dtype::BF16 => self.tensor(bytes, &info.shape, |b| bf16::from_le_bytes(b).to_f64()),
            Dtype::F32 => self.tensor(bytes, &info.shape, |b| f64::from(f32::from_le_bytes(b))),
            Dtype::F64 => self.tensor(bytes, &info.shape, f64::from_le_bytes),
            other => {
                let (path, found) = (self.file.path.clone(), format!("{other:?}"));
                return Err(Error::WrongType { path, key, found, expected: "F16, BF16, F32 or F64" });
            }
        };
        Ok(tensor?.to_device(&self.device)?)
    }

    /// The integers of the tensor `name`, row by row.
    ///
    /// # Errors
    /// No such tensor, or elements that are no integers; the error names file and key.
    pub fn integers(&self, name: &str) -> Result<Vec<i64>> {
        let key = self.key(name);
        let info = self.file.metadata.info(&key).ok_or_else(|| self.missing(name))?;
        let (begin, end) = info.data_offsets;
        let bytes = &self.file.map[self.file.start + begin..self.file.start + end];
        match info.dtype {
            Dtype::U8 => Ok(bytes.iter().map(|&b| i64::from(b)).collect()),
            Dtype::I16 => Ok(decode(bytes, |b| i64::from(i16::from_le_bytes(b)))),
            Dtype::I32 => Ok(decode(bytes, |b| i64::from(i32::from_le_bytes(b)))),
            Dtype::U32 => Ok(decode(bytes, |b| i64::from(u32::from_le_bytes(b)))),
            Dtype::I64 => Ok(decode(bytes, i64::from_le_bytes)),
            other => {
                let (path, found) = (self.file.path.clone(), format!("{other:?}"));
                Err(Error::WrongType { path, key, found, expected: "U8, I16, I32, U32 or I64" })
            }
        }
    }

    fn tensor<const N: usize>(
        &self,
        bytes: &[u8],
        shape: &[usize],
        decode: impl Fn([u8; N]) -> f64,
    ) -> candle_core::Result<Tensor> {
        let (words, _) = bytes.as_chunks::<N>();
        let values = words.iter().map(|&word| decode(word));
        match self.dtype {
            DType::F64 => Tensor::from_vec(values.collect::<Vec<f64>>(), shape, &Device::Cpu),
            dtype => {
                Tensor::from_vec(values.map(|v| v as f32).collect::<Vec<f32>>(), shape, &Device::Cpu)?.to_dtype(dtype)
            }
        }
    }

    /// The shape of the tensor `name`.
    ///
    /// # Errors
    /// No such tensor.
    pub fn shape(&self, name: &str) -> Result<Vec<usize>> {
        self.file.metadata.info(&self.key(name)).map(|info| info.shape.clone()).ok_or_else(|| self.missing(name))
    }

    /// Whether the file has the tensor `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.file.metadata.info(&self.key(name)).is_some()
    }

    pub fn path(&self) -> &Path {
        &self.file.path
    }

    fn key(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}.{name}", self.prefix) }
    }

    fn missing(&self, name: &str) -> Error {
        let key = self.key(name);
        let shared = |other: &str| {
            let front = key.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
            let back = key.bytes().rev().zip(other.bytes().rev()).take_while(|(a, b)| a == b).count();
            front + back
        };
        let nearest = self.file.metadata.offset_keys().into_iter().max_by_key(|other| shared(other));
        Error::MissingTensor { path: self.file.path.clone(), key, nearest }
    }
}

fn decode<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> i64) -> Vec<i64> {
    bytes.as_chunks::<N>().0.iter().map(|&word| value(word)).collect()
}

/// Tells a file that ends too early from one that was never safetensors.
fn explain(path: &Path, bytes: &[u8], source: SafeTensorError) -> Error {
    let path = path.to_owned();
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
        Some(expected) if expected > bytes.len() as u64 => {
            Error::Truncated { path, found: bytes.len() as u64, expected }
        }
        _ => Error::NotSafetensors { path, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn saved(folder: &tempfile::TempDir) -> PathBuf {
        let path = folder.path().join("model.safetensors");
        let weight = Tensor::new(&[[1f32, 0.1], [3., -4.]], &Device::Cpu).unwrap();
        let tensors = HashMap::from([
            ("block.weight".to_owned(), weight.clone()),
            ("block.half".to_owned(), weight.to_dtype(DType::F16).unwrap()),
            ("block.ids".to_owned(), Tensor::new(&[1u32], &Device::Cpu).unwrap()),
        ]);
        candle_core::safetensors::save(&tensors, &path).unwrap();
        path
    }

    #[test]
    fn half_and_single_precision_read_as_the_type_that_computes() {
        let folder = tempfile::tempdir().unwrap();
        let path = saved(&folder);
        let single = Weights::open(&path, DType::F32, &Device::Cpu).unwrap().at("block");
        assert_eq!(single.get(&[2, 2], "weight").unwrap().to_vec2::<f32>().unwrap(), [[1., 0.1], [3., -4.]]);
        assert_eq!(single.get(&[2, 2], "half").unwrap().to_vec2::<f32>().unwrap()[1], [3., -4.]);
        let double = Weights::open(&path, DType::F64, &Device::Cpu).unwrap().at("block");
        assert_eq!(double.get(&[2, 2], "weight").unwrap().to_vec2::<f64>().unwrap()[0][1], f64::from(0.1f32));
    }

    #[test]
    fn a_missing_or_misshapen_tensor_is_named_with_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let weights = Weights::open(saved(&folder), DType::F32, &Device::Cpu).unwrap().at("block");
        let missing = weights.get(&[2, 2], "weights").unwrap_err().to_string();
        assert!(missing.contains("model.safetensors has no tensor `block.weights`"), "{missing}");
        assert!(missing.contains("nearest name is `block.weight`"), "{missing}");
        let shape = weights.get(&[4], "weight").unwrap_err().to_string();
        assert!(shape.contains("`block.weight`") && shape.contains("[2, 2], expected [4]"), "{shape}");
        assert_eq!(weights.integers("ids").unwrap(), [1]);
        let kind = weights.get(&[1], "ids").unwrap_err().to_string();
        assert!(kind.contains("`block.ids`") && kind.contains("U32"), "{kind}");
    }

    #[test]
    fn a_file_cut_anywhere_is_called_truncated() {
        let folder = tempfile::tempdir().unwrap();
        let whole = std::fs::read(saved(&folder)).unwrap();
        let path = folder.path().join("cut.safetensors");
        for length in [0, 3, 8, 100, whole.len() - 1] {
            std::fs::write(&path, &whole[..length]).unwrap();
            let error = Weights::open(&path, DType::F32, &Device::Cpu).unwrap_err();
            assert!(matches!(error, Error::Truncated { .. }), "{length}: {error}");
        }
        std::fs::write(&path, b"<html>not found</html>").unwrap();
        let error = Weights::open(&path, DType::F32, &Device::Cpu).unwrap_err();
        assert!(matches!(error, Error::NotSafetensors { .. }), "{error}");
    }
}
