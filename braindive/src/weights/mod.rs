//! Weights by key, converted to the type that computes: from a checkpoint, or random.

mod config;
mod convert;
mod random;

pub use config::read_config;

use crate::error::{Error, Result};
use candle_core::{DType, Device, Tensor};
use checkpoint::{Checkpoint, Names};
use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The tensors of a model, seen below a key prefix. Cloning is cheap.
///
/// Files stay mapped: a tensor's elements are converted from the file straight into the tensor that computes, and let go.
#[derive(Debug, Clone)]
pub struct Weights {
    shared: Arc<Shared>,
    prefix: String,
    dtype: DType,
    device: Device,
}

#[derive(Debug)]
struct Shared {
    source: Source,
    /// Keys of the tensors that were read.
    read: Mutex<BTreeSet<String>>,
    /// Of the tensors that were made.
    bytes: AtomicU64,
}

#[derive(Debug)]
enum Source {
    Checkpoint(Checkpoint),
    Random { seed: u64 },
}

impl Weights {
    /// Opens a file of weights, or the index of its shards; see [`Checkpoint::open`]. Every tensor read from it becomes
    /// `dtype` (F16, BF16, F32 or F64) on `device`.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open(path: impl AsRef<Path>, dtype: DType, device: &Device) -> Result<Self> {
        Ok(Self::from_checkpoint(Checkpoint::open(path.as_ref())?, dtype, device))
    }

    /// Opens the weights in `folder`, under the first of `names` that is there; see [`Names::candidates`].
    ///
    /// # Errors
    /// No such file, or as [`Checkpoint::open`].
    pub fn find(folder: &Path, names: Names, dtype: DType, device: &Device) -> Result<Self> {
        Ok(Self::from_checkpoint(names.open(folder)?, dtype, device))
    }

    /// The tensors of `checkpoint`; see [`Weights::open`].
    pub fn from_checkpoint(checkpoint: Checkpoint, dtype: DType, device: &Device) -> Self {
        Self::from_source(Source::Checkpoint(checkpoint), dtype, device)
    }

    /// Has no file, and every tensor that is asked for with a shape: random, the same for the same seed and key, of a size that
    /// keeps activations finite. For measurements at real sizes.
    pub fn random(seed: u64, dtype: DType, device: &Device) -> Self {
        Self::from_source(Source::Random { seed }, dtype, device)
    }

    fn from_source(source: Source, dtype: DType, device: &Device) -> Self {
        let shared = Arc::new(Shared { source, read: Mutex::default(), bytes: AtomicU64::new(0) });
        Self { shared, prefix: String::new(), dtype, device: device.clone() }
    }

    /// The same source below `name`, so that `weights.at("decoder").at("conv_in")` reads `decoder.conv_in.weight`.
    #[must_use]
    pub fn at(&self, name: impl Display) -> Self {
        Self { prefix: self.key(&name.to_string()), ..self.clone() }
    }

    /// The tensor `name`, which must have `shape`.
    ///
    /// # Errors
    /// No such tensor, another shape, or elements that are no floating-point numbers; the error names file and key.
    pub fn get(&self, shape: &[usize], name: &str) -> Result<Tensor> {
        if let Source::Random { seed } = self.shared.source {
            return self.made(random::tensor(seed, &self.key(name), shape, self.dtype)?);
        }
        let found = self.shape(name)?;
        if found != shape {
            let (path, key) = (self.path().to_owned(), self.key(name));
            return Err(Error::WrongShape { path, key, found, expected: shape.to_vec() });
        }
        self.read(name)
    }

    /// The tensor `name`, of any shape; random weights have none.
    ///
    /// # Errors
    /// As [`Weights::get`].
    pub fn read(&self, name: &str) -> Result<Tensor> {
        let (checkpoint, info) = self.info(name)?;
        let bytes = checkpoint.bytes(info);
        let Some(tensor) = convert::floats(&bytes, info.dtype, &info.shape, self.dtype) else {
            return Err(self.wrong_type(name, info, "F16, BF16, F32 or F64"));
        };
        checkpoint.release(info);
        self.made(tensor?)
    }

    fn made(&self, tensor: Tensor) -> Result<Tensor> {
        self.shared.bytes.fetch_add((tensor.elem_count() * self.dtype.size_in_bytes()) as u64, Ordering::Relaxed);
        Ok(tensor.to_device(&self.device)?)
    }

    /// Bytes of all tensors that were read so far, here or below any prefix.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// The integers of the tensor `name`, row by row.
    ///
    /// # Errors
    /// No such tensor, or elements that are no integers; the error names file and key.
    pub fn integers(&self, name: &str) -> Result<Vec<i64>> {
        let (checkpoint, info) = self.info(name)?;
        checkpoint.integers(info).ok_or_else(|| self.wrong_type(name, info, "U8, I16, I32, U32 or I64"))
    }

    /// The shape of the tensor `name`.
    ///
    /// # Errors
    /// No such tensor.
    pub fn shape(&self, name: &str) -> Result<Vec<usize>> {
        self.lookup(name).map(|info| info.shape.clone()).ok_or_else(|| self.missing(name))
    }

    /// Whether the file has the tensor `name`. Random weights have those that are asked for only, so that a model with several
    /// published namings takes its usual one.
    pub fn contains(&self, name: &str) -> bool {
        self.lookup(name).is_some()
    }

    /// Keys of the whole file that no one has read yet, here or below any prefix.
    pub fn unread(&self) -> Vec<String> {
        let read = self.shared.read.lock().unwrap_or_else(PoisonError::into_inner);
        match &self.shared.source {
            Source::Checkpoint(checkpoint) => {
                checkpoint.tensors().keys().filter(|key| !read.contains(*key)).cloned().collect()
            }
            Source::Random { .. } => Vec::new(),
        }
    }

    /// The file, or the index of its shards.
    pub fn path(&self) -> &Path {
        match &self.shared.source {
            Source::Checkpoint(checkpoint) => checkpoint.path(),
            Source::Random { .. } => Path::new("random weights"),
        }
    }

    /// Where the tensors go.
    pub fn device(&self) -> &Device {
        &self.device
    }

    fn key(&self, name: &str) -> String {
        match (self.prefix.as_str(), name) {
            ("", name) => name.to_owned(),
            (prefix, "") => prefix.to_owned(),
            (prefix, name) => format!("{prefix}.{name}"),
        }
    }

    fn lookup(&self, name: &str) -> Option<&checkpoint::Tensor> {
        match &self.shared.source {
            Source::Checkpoint(checkpoint) => checkpoint.tensors().get(&self.key(name)),
            Source::Random { .. } => None,
        }
    }

    /// The tensor `name`, which is about to be read.
    fn info(&self, name: &str) -> Result<(&Checkpoint, &checkpoint::Tensor)> {
        match (&self.shared.source, self.lookup(name)) {
            (Source::Checkpoint(checkpoint), Some(info)) => {
                self.shared.read.lock().unwrap_or_else(PoisonError::into_inner).insert(self.key(name));
                Ok((checkpoint, info))
            }
            _ => Err(self.missing(name)),
        }
    }

    fn wrong_type(&self, name: &str, info: &checkpoint::Tensor, expected: &'static str) -> Error {
        let (path, key, found) = (self.path().to_owned(), self.key(name), format!("{:?}", info.dtype));
        Error::WrongType { path, key, found, expected }
    }

    fn missing(&self, name: &str) -> Error {
        let key = self.key(name);
        let shared = |other: &str| {
            let front = key.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
            let back = key.bytes().rev().zip(other.bytes().rev()).take_while(|(a, b)| a == b).count();
            front + back
        };
        let nearest = match &self.shared.source {
            Source::Checkpoint(checkpoint) => checkpoint.tensors().keys().max_by_key(|other| shared(other)).cloned(),
            Source::Random { .. } => None,
        };
        Error::MissingTensor { path: self.path().to_owned(), key, nearest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;
    use std::collections::HashMap;
    use std::path::PathBuf;

    fn saved(folder: &tempfile::TempDir) -> PathBuf {
        let path = folder.path().join("model.safetensors");
        let weight = Tensor::new(&[[1f32, 0.1], [3., -4.]], &Device::Cpu).unwrap();
        let tensors = HashMap::from([
            ("block.weight".to_owned(), weight.clone()),
            ("block.half".to_owned(), weight.to_dtype(DType::F16).unwrap()),
            ("block.bfloat".to_owned(), weight.to_dtype(DType::BF16).unwrap()),
            ("block.double".to_owned(), weight.to_dtype(DType::F64).unwrap()),
            ("block.ids".to_owned(), Tensor::new(&[1u32], &Device::Cpu).unwrap()),
        ]);
        candle_core::safetensors::save(&tensors, &path).unwrap();
        path
    }

    #[test]
    fn every_floating_point_type_reads_as_the_type_that_computes() {
        let folder = tempfile::tempdir().unwrap();
        let path = saved(&folder);
        for dtype in [DType::F16, DType::BF16, DType::F32, DType::F64] {
            let weights = Weights::open(&path, dtype, &Device::Cpu).unwrap().at("block");
            for name in ["weight", "half", "bfloat", "double"] {
                let tensor = weights.get(&[2, 2], name).unwrap();
                assert_eq!(tensor.dtype(), dtype, "{name}");
                let values: Vec<Vec<f64>> = tensor.to_dtype(DType::F64).unwrap().to_vec2().unwrap();
                assert_eq!((values[0][0], &values[1][..]), (1., &[3., -4.][..]), "{name} as {dtype:?}");
            }
        }
        let tenth = |dtype, name| {
            let weights = Weights::open(&path, dtype, &Device::Cpu).unwrap().at("block");
            weights.read(name).unwrap().to_dtype(DType::F64).unwrap().to_vec2::<f64>().unwrap()[0][1]
        };
        assert_eq!(tenth(DType::F64, "weight"), f64::from(0.1f32));
        assert_eq!(tenth(DType::F32, "half"), f16::from_f32(0.1).to_f64());
        assert_eq!(tenth(DType::F16, "weight"), f16::from_f32(0.1).to_f64());
    }

    #[test]
    fn tensors_larger_than_a_task_read_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large.safetensors");
        let expected: Vec<f32> = (0..200_001).map(|i| i as f32).collect();
        let tensor = Tensor::new(&expected[..], &Device::Cpu).unwrap();
        candle_core::safetensors::save(&HashMap::from([("a", tensor)]), &path).unwrap();
        let found = Weights::open(&path, DType::F32, &Device::Cpu).unwrap().get(&[200_001], "a").unwrap();
        assert_eq!(found.to_vec1::<f32>().unwrap(), expected);
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
    fn what_was_not_read_is_known_below_any_prefix() {
        let folder = tempfile::tempdir().unwrap();
        let weights = Weights::open(saved(&folder), DType::F32, &Device::Cpu).unwrap();
        weights.at("block").get(&[2, 2], "weight").unwrap();
        weights.at("block").integers("ids").unwrap();
        assert!(weights.contains("block.half") && weights.get(&[7], "block.half").is_err());
        assert_eq!(weights.unread(), ["block.bfloat", "block.double", "block.half"]);
    }

    #[test]
    fn random_weights_have_every_tensor_that_is_asked_for_with_a_shape() {
        let weights = Weights::random(7, DType::F32, &Device::Cpu).at("block");
        assert_eq!(weights.get(&[3, 2], "weight").unwrap().dims(), [3, 2]);
        assert!(!weights.contains("weight") && weights.read("weight").is_err());
    }
}
