//! What can be wrong with a file of the dataset.

use crate::error::may_pass;
use std::path::{Path, PathBuf};

/// Says which file, what was found there and what was expected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NsdError {
    #[error("reading {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },

    #[error("writing {}: {source}", path.display())]
    Write { path: PathBuf, source: std::io::Error },

    #[error("{} is missing: {purpose}", path.display())]
    Missing { path: PathBuf, purpose: String },

    #[error("{}: {what} is {found}, expected {expected}", path.display())]
    Unexpected { path: PathBuf, what: String, found: String, expected: String },

    #[error("{}: {source}", path.display())]
    Mat5 { path: PathBuf, source: super::mat5::Mat5Error },

    #[error("{}: {source}", path.display())]
    Mgh { path: PathBuf, source: super::mgh::MghError },

    #[error("reading the table {}: {source}", path.display())]
    Csv { path: PathBuf, source: csv::Error },

    #[error("reading the HDF5 file {}: {source}", path.display())]
    Hdf5 { path: PathBuf, source: hdf5_reader::error::Error },

    #[error("{}: {source}", path.display())]
    Index { path: PathBuf, source: super::chunks::IndexError },

    #[error("reading the betas {}: {source}", path.display())]
    Nifti { path: PathBuf, source: nifti::NiftiError },

    #[error("reading the photograph {}: {source}", path.display())]
    Jpeg { path: PathBuf, source: image::ImageError },

    #[error("image {id} of {}: {source}", path.display())]
    Image { path: PathBuf, id: u32, source: crate::image::ImageError },

    #[error(transparent)]
    Volume(#[from] crate::volume::VolumeError),

    #[error(transparent)]
    Folder(#[from] crate::folder::FolderError),

    #[error("{setting} is {found}, expected {expected}")]
    Setting { setting: &'static str, found: String, expected: String },

    #[error("`{0}` is no subject; NSD's are subj01 to subj08, or 1 to 8")]
    NoSubject(String),

    /// Everything that was found wrong before anything was computed.
    #[error("the data cannot be prepared:{}", .0.iter().map(|problem| format!("\n  {problem}")).collect::<String>())]
    Unready(Vec<NsdError>),

    #[error("prepare was stopped; the next try goes on where it ended")]
    Stopped,
}

impl NsdError {
    /// Of a file whose length is not what it says.
    pub(super) fn truncated(path: &Path, [length, announced]: [u64; 2]) -> Self {
        Self::Unexpected {
            path: path.to_owned(),
            what: "its length in bytes".to_owned(),
            found: length.to_string(),
            expected: format!("{announced} as it says itself: the file is truncated"),
        }
    }

    /// Whether another try may help.
    pub fn is_io(&self) -> bool {
        match self {
            Self::Read { source, .. } => may_pass(source),
            Self::Write { .. } => true,
            Self::Folder(error) => error.is_io(),
            Self::Volume(error) => error.is_io(),
            _ => false,
        }
    }
}
