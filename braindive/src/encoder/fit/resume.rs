//! A training on disk, between one epoch and the next.

use super::FitError;
use super::adamw::{Learned, Training};
use crate::error::{Error, Result};
use checkpoint::Checkpoint;
use safetensors::Dtype;
use std::fs::{self, File};
use std::path::Path;
use subject::write_tensors;

/// What the next try needs.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    pub training: Training<f32>,
    /// Of the epochs that are done.
    pub losses: Vec<f64>,
}

const NAMES: [&str; 6] = ["weight", "weight_mean", "weight_square", "bias", "bias_mean", "bias_square"];

impl State {
    /// Writes the file anew; a crash leaves the old one.
    ///
    /// # Errors
    /// The disk fails.
    pub fn write(&self, path: &Path) -> Result<()> {
        let Training { features, weight, bias, steps } = &self.training;
        let voxels = bias.value.len();
        let parts = [&weight.value, &weight.mean, &weight.square, &bias.value, &bias.mean, &bias.square];
        let parts = parts.map(|part| part.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>());
        let losses: Vec<u8> = self.losses.iter().flat_map(|loss| loss.to_le_bytes()).collect();
        let steps = (*steps as i64).to_le_bytes();
        let failed = |source: std::io::Error| Error::Write { path: path.to_owned(), source };
        let shape = |name: &str| if name.starts_with("weight") { vec![voxels, *features] } else { vec![voxels] };
        let mut tensors: Vec<_> =
            NAMES.iter().zip(&parts).map(|(name, part)| (*name, Dtype::F32, shape(name), &part[..])).collect();
        tensors.push(("losses", Dtype::F64, vec![self.losses.len()], &losses));
        tensors.push(("steps", Dtype::I64, vec![1], &steps));
        let fresh = path.with_extension("fresh");
        write_tensors(&fresh, &tensors, None)?;
        File::open(&fresh).and_then(|file| file.sync_all()).and_then(|()| fs::rename(&fresh, path)).map_err(failed)
    }

    /// Reads what an earlier try has left of a training of `voxels` voxels on `features` features, if anything.
    ///
    /// # Errors
    /// The file can't be read, or is of another training.
    pub fn read(path: &Path, voxels: usize, features: usize) -> Result<Option<Self>> {
        if !path.exists() {
            return Ok(None);
        }
        let file = Checkpoint::open(path)?;
        let missing = |key: &str| Error::MissingTensor { path: path.to_owned(), key: key.to_owned(), nearest: None };
        let tensor = |key: &str| file.tensors().get(key).ok_or_else(|| missing(key));
        let shape = &tensor("weight")?.shape;
        if *shape != [voxels, features] {
            let [found, expected] =
                [shape.clone(), vec![voxels, features]].map(|shape| format!("a weight of {shape:?}"));
            return Err(FitError::OtherTraining { path: path.to_owned(), found, expected }.into());
        }
        let mut parts = Vec::new();
        for (i, name) in NAMES.iter().enumerate() {
            let bytes = file.bytes(tensor(name)?);
            let values: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|&word| f32::from_le_bytes(word)).collect();
            if values.len() != if i < 3 { voxels * features } else { voxels } {
                return Err(missing(name));
            }
            parts.push(values);
        }
        let mut parts = parts.into_iter();
        let mut learned = || {
            let mut next = || parts.next().unwrap_or_default();
            Learned { value: next(), mean: next(), square: next() }
        };
        let (weight, bias) = (learned(), learned());
        let steps = file.integers(tensor("steps")?).and_then(|steps| steps.first().copied()).unwrap_or_default() as u64;
        let losses =
            file.bytes(tensor("losses")?).as_chunks::<8>().0.iter().map(|&word| f64::from_le_bytes(word)).collect();
        Ok(Some(Self { training: Training { features, weight, bias, steps }, losses }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_training_survives_the_disk_and_another_ones_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("training");
        assert_eq!(State::read(&path, 2, 3).unwrap(), None);
        let learned = |n: usize, k: f32| Learned {
            value: (0..n).map(|i| k * i as f32).collect(),
            mean: vec![k; n],
            square: (0..n).map(|i| k + i as f32).collect(),
        };
        let training = Training { features: 3, weight: learned(6, 0.1), bias: learned(2, 0.7), steps: 17 };
        let state = State { training, losses: vec![0.5, 0.25] };
        state.write(&path).unwrap();
        state.write(&path).unwrap();
        assert_eq!(State::read(&path, 2, 3).unwrap(), Some(state));
        let message = State::read(&path, 3, 3).unwrap_err().to_string();
        assert!(message.contains("[2, 3]") && message.contains("[3, 3]"), "{message}");
    }
}
