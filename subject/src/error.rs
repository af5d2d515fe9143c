//! What can go wrong with a subject's data.

use crate::folder::FolderError;
use crate::nsd::NsdError;
use std::path::PathBuf;

/// The result of everything in this crate that reads or writes several kinds of files.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Says what was being done, to which file, what was found, what was expected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("reading {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },

    #[error("writing {}: {source}", path.display())]
    Write { path: PathBuf, source: std::io::Error },

    #[error("{}: {source}", path.display())]
    Json { path: PathBuf, source: serde_json::Error },

    #[error("{} has no tensor `{key}`", path.display())]
    MissingTensor { path: PathBuf, key: String },

    #[error("tensor `{key}` in {} has shape {found:?}, expected {expected:?}", path.display())]
    WrongShape { path: PathBuf, key: String, found: Vec<usize>, expected: Vec<usize> },

    #[error("region `{region}` holds no voxel of the set; choose another region or relax its threshold")]
    EmptyRegion { region: String },

    #[error("{what} is {found}, expected {expected}")]
    Parameter { what: &'static str, found: String, expected: String },

    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),

    #[error(transparent)]
    Folder(#[from] FolderError),

    #[error(transparent)]
    Image(#[from] crate::image::ImageError),

    #[error(transparent)]
    Import(#[from] crate::nsd::import::ImportError),

    #[error(transparent)]
    Montage(#[from] crate::volume::MontageError),

    #[error(transparent)]
    Nsd(#[from] NsdError),

    #[error(transparent)]
    Volume(#[from] crate::volume::VolumeError),
}

impl Error {
    /// Whether another try may help: reading or writing failed for a reason outside the files' contents.
    pub fn is_io(&self) -> bool {
        let is_there = |source: &std::io::Error| source.kind() != std::io::ErrorKind::NotFound;
        match self {
            Self::Read { source, .. } => is_there(source),
            Self::Write { .. } => true,
            Self::Checkpoint(checkpoint::Error { problem: checkpoint::Problem::Read(source), .. }) => is_there(source),
            Self::Folder(error) => error.is_io(),
            Self::Import(error) => error.is_io(),
            Self::Nsd(error) => error.is_io(),
            Self::Volume(error) => error.is_io(),
            _ => false,
        }
    }

    /// Whether the work was stopped by who watched it.
    pub fn is_stop(&self) -> bool {
        matches!(self, Self::Nsd(NsdError::Stopped))
    }

    /// Whether another process is making the same folder.
    pub fn is_in_use(&self) -> bool {
        matches!(self, Self::Folder(FolderError::InUse { .. }) | Self::Nsd(NsdError::Folder(FolderError::InUse { .. })))
    }
}
