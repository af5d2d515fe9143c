//! Which file of a folder holds a network's weights.

use super::error::{Error, Problem};
use super::mapped::Checkpoint;
use std::path::{Path, PathBuf};

/// The stems of the file names that a library gives to weights, as safetensors and as an archive of PyTorch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Names {
    pub safetensors: &'static str,
    pub pytorch: &'static str,
}

impl Names {
    /// UNet and VAE of diffusers.
    pub const DIFFUSERS: Self = Self { safetensors: "diffusion_pytorch_model", pytorch: "diffusion_pytorch_model" };
    /// Models of `transformers` and of timm.
    pub const TRANSFORMERS: Self = Self { safetensors: "model", pytorch: "pytorch_model" };
    pub const OPEN_CLIP: Self = Self { safetensors: "open_clip_model", pytorch: "open_clip_pytorch_model" };

    /// The file names that are looked for; the first one that is there counts. Safetensors come before archives of PyTorch, full
    /// precision before half, a whole file before the index of its shards.
    pub fn candidates(self) -> Vec<String> {
        let of = |stem: &str, ending: &str| {
            [
                format!("{stem}.{ending}"),
                format!("{stem}.{ending}.index.json"),
                format!("{stem}.fp16.{ending}"),
                format!("{stem}.{ending}.index.fp16.json"),
            ]
        };
        [of(self.safetensors, "safetensors"), of(self.pytorch, "bin")].concat()
    }

    /// The weights in `folder`.
    ///
    /// # Errors
    /// The folder has none of the [`Names::candidates`].
    pub fn find(self, folder: &Path) -> Result<PathBuf, Error> {
        let candidates = self.candidates();
        match candidates.iter().map(|name| folder.join(name)).find(|path| path.is_file()) {
            Some(path) => Ok(path),
            None => Err(Problem::NoWeights(candidates).of(folder)),
        }
    }

    /// Opens the weights in `folder`.
    ///
    /// # Errors
    /// As [`Names::find`] and [`Checkpoint::open`].
    pub fn open(self, folder: &Path) -> Result<Checkpoint, Error> {
        Checkpoint::open(&self.find(folder)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_candidate_that_is_there_counts_and_an_empty_folder_lists_all() {
        let folder = tempfile::tempdir().unwrap();
        let message = Names::TRANSFORMERS.find(folder.path()).unwrap_err().to_string();
        let listed = "looked for model.safetensors, model.safetensors.index.json, model.fp16.safetensors, \
                      model.safetensors.index.fp16.json, pytorch_model.bin, pytorch_model.bin.index.json, \
                      pytorch_model.fp16.bin, pytorch_model.bin.index.fp16.json";
        assert!(message.ends_with(listed), "{message}");
        for name in Names::TRANSFORMERS.candidates().iter().rev() {
            let path = folder.path().join(name);
            std::fs::write(&path, "").unwrap();
            assert_eq!(Names::TRANSFORMERS.find(folder.path()).unwrap(), path);
        }
    }
}
