//! Why a file or folder does not hold the weights that it should.

use super::pickle::PickleError;
use std::io;
use std::path::{Path, PathBuf};

/// A file or folder, and what is wrong with it.
#[derive(Debug, thiserror::Error)]
#[error("{} {problem}", path.display())]
pub struct Error {
    pub path: PathBuf,
    #[source]
    pub problem: Problem,
}

/// Reads after the name of the file or folder.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),

    #[error("is a Git LFS pointer, not the file itself: run `git lfs pull`")]
    LfsPointer,

    #[error("is truncated: it has {found} bytes, {lacks}")]
    Truncated { found: u64, lacks: String },

    #[error("is not a safetensors file: {0}")]
    NotSafetensors(#[from] safetensors::SafeTensorError),

    #[error("was saved by a PyTorch older than 1.6: load it in Python and save it again")]
    OldPyTorch,

    #[error("is no archive of PyTorch: {0}")]
    NotPyTorch(String),

    #[error("is an archive of PyTorch, but {0}")]
    Pickle(#[from] PickleError),

    #[error("is an archive of PyTorch, but its tensor `{key}` {what}")]
    ArchivedTensor { key: String, what: String },

    #[error("is no index of shards: {0}")]
    Index(serde_json::Error),

    #[error("says that `{key}` is in {shard}, which is not so; copy or download all files of the model again")]
    IndexedTensor { key: String, shard: String },

    #[error("holds no weights that can be read; looked for {}", .0.join(", "))]
    NoWeights(Vec<String>),

    #[error("holds no head; looked for {}", .0.join(", "))]
    NoHead(Vec<String>),

    #[error("holds several heads, {}; keep one, or name the file", .0.join(", "))]
    SeveralHeads(Vec<String>),

    #[error(
        "holds the heads of subjects {}; say which with `subject` in a config.json beside it",
        .0.join(", ")
    )]
    SeveralSubjects(Vec<String>),

    #[error("holds no head of subject {asked}, which config.json asks for, but of {}", .found.join(", "))]
    NoSuchSubject { asked: String, found: Vec<String> },

    #[error("has {weight} as weight and {bias} as bias, expected shapes [voxels, features] and [voxels]")]
    HeadShape { weight: String, bias: String },

    #[error("is not what it should be: {0}")]
    Config(serde_json::Error),

    #[error(
        "describes no image tower that can be read; expected OpenCLIP's open_clip_config.json, or config.json with timm's \
         `architecture` or with `model_type` clip"
    )]
    NoLayout,
}

impl Problem {
    /// The problem of the file or folder at `path`.
    pub fn of(self, path: &Path) -> Error {
        Error { path: path.to_owned(), problem: self }
    }
}
