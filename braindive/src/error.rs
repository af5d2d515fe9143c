//! What can go wrong between a model folder and a sampled image.

use crate::cluster::ClusterError;
use crate::device_error;
use crate::encoder::fit::FitError;
use std::path::PathBuf;
use subject::folder::FolderError;
use subject::image::ImageError;
use subject::nsd::NsdError;
use subject::nsd::import::ImportError;
use subject::volume::{MontageError, VolumeError};

/// The result of everything in this crate that reads files or samples.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Says what was being done, to which file, what was found, what was expected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("reading {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },

    #[error("writing {}: {source}", path.display())]
    Write { path: PathBuf, source: std::io::Error },

    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),

    #[error("{} has no tensor `{key}`{}", path.display(), nearest.as_ref().map(|name| format!("; the nearest name is `{name}`")).unwrap_or_default())]
    MissingTensor { path: PathBuf, key: String, nearest: Option<String> },

    #[error("tensor `{key}` in {} has shape {found:?}, expected {expected:?}", path.display())]
    WrongShape { path: PathBuf, key: String, found: Vec<usize>, expected: Vec<usize> },

    #[error("tensor `{key}` in {} holds {found}, expected {expected}", path.display())]
    WrongType { path: PathBuf, key: String, found: String, expected: &'static str },

    #[error("reading the configuration {}: {source}", path.display())]
    Config { path: PathBuf, source: serde_json::Error },

    #[error("{}: `{key}` is {found}, expected {expected}", path.display())]
    Unsupported { path: PathBuf, key: String, found: String, expected: String },

    #[error(
        "the head {} maps {found} features to voxels, but the backbone {} makes {expected}; use the backbone that the head was fitted on",
        head.display(), backbone.display()
    )]
    HeadMismatch { head: PathBuf, backbone: PathBuf, found: usize, expected: usize },

    #[error("region `{region}` holds no voxel that the head predicts; choose another region or relax its threshold")]
    EmptyRegion { region: String },

    #[error("region `{region}` names voxel {voxel}, but the head predicts voxels 0 to {last}")]
    NoSuchVoxel { region: String, voxel: usize, last: usize },

    #[error("region `{region}` lists voxel {voxel} twice; list every voxel once")]
    RepeatedVoxel { region: String, voxel: usize },

    #[error("the head {} has no {kind} `{name}`; it has {}", head.display(), if known.is_empty() { "none".to_owned() } else { known.join(", ") })]
    NoSuchRegion { head: PathBuf, kind: &'static str, name: String, known: Vec<String> },

    #[error("{what} is {found}, expected {expected}")]
    Parameter { what: &'static str, found: String, expected: String },

    #[error(
        "guiding {images} image(s) at a time takes {needed} bytes of memory even if the networks keep as little as they can; {limit} are allowed. \
         Raise the memory limit, make smaller images, or put fewer into a batch"
    )]
    OutOfMemory { needed: u64, limit: u64, images: usize },

    #[error("{what} holds NaN or infinity after step {step}")]
    NonFinite { step: usize, what: &'static str },

    #[error("sampling was stopped after step {step}")]
    Stopped { step: usize },

    #[error(
        "the cosine of the image with prompt {prompt} of the probe is {found}; its weights or the image are broken"
    )]
    NonFiniteSimilarity { prompt: usize, found: f64 },

    #[error(transparent)]
    Tokenizer(#[from] crate::models::tokenizer::TokenizerError),

    #[error("an image tensor has the shape [1, 3, height, width], this one has {found:?}")]
    ImageShape { found: Vec<usize> },

    #[error("the image holds {found} at pixel ({x}, {y}); the decoder gave no finite number there")]
    NonFinitePixel { found: f32, x: usize, y: usize },

    #[error(transparent)]
    Mask(#[from] crate::encoder::MaskError),

    #[error(transparent)]
    Cluster(#[from] ClusterError),

    #[error(transparent)]
    Fit(#[from] FitError),

    /// Of a file of the subject's data, or of what is made of them.
    #[error(transparent)]
    Subject(#[from] subject::Error),

    #[error("tensor computation failed: {0}")]
    Tensor(#[from] candle_core::Error),
}

/// The errors of `subject`'s rooms, so that `?` takes them where one of that crate's own would stand.
macro_rules! of_subject {
    ($($error:ty),+) => {
        $(impl From<$error> for Error {
            fn from(error: $error) -> Self {
                Self::Subject(error.into())
            }
        })+
    };
}

of_subject!(FolderError, ImageError, ImportError, MontageError, NsdError, VolumeError);

/// What an error means for whoever asked: whether other inputs, another try or another device would help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Files or parameters are missing or wrong; the same request fails again.
    BadInput,
    /// Reading or writing failed for a reason outside the files' contents.
    Io,
    /// More memory than is allowed, or than the device has.
    OutOfMemory,
    /// The device failed: whatever this process asks of it from now on fails too.
    DeviceFault,
    /// NaN or infinity.
    NonFinite,
    /// The observer asked for it.
    Stopped,
    /// A computation failed that should not.
    Bug,
}

impl Error {
    /// What the error means for whoever asked.
    pub fn kind(&self) -> ErrorKind {
        if let Some(kind) = device_error::kind(self) {
            return kind;
        }
        match self {
            Self::Read { source, .. } if source.kind() != std::io::ErrorKind::NotFound => ErrorKind::Io,
            Self::Checkpoint(checkpoint::Error { problem: checkpoint::Problem::Read(source), .. })
                if source.kind() != std::io::ErrorKind::NotFound =>
            {
                ErrorKind::Io
            }
            Self::Write { .. } => ErrorKind::Io,
            Self::Subject(error) if error.is_stop() => ErrorKind::Stopped,
            Self::Subject(error) if error.is_io() => ErrorKind::Io,
            Self::NonFinite { .. } | Self::NonFinitePixel { .. } | Self::NonFiniteSimilarity { .. } => {
                ErrorKind::NonFinite
            }
            Self::OutOfMemory { .. } => ErrorKind::OutOfMemory,
            Self::Stopped { .. } | Self::Fit(FitError::Stopped { .. }) => ErrorKind::Stopped,
            Self::Cluster(ClusterError::Stopped) => ErrorKind::Stopped,
            Self::Fit(FitError::Diverged { .. } | FitError::NonFiniteFeatures { .. }) => ErrorKind::NonFinite,
            Self::Tensor(_) => ErrorKind::Bug,
            _ => ErrorKind::BadInput,
        }
    }
}
