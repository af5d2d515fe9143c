//! What can go wrong with a subject's data.

use crate::folder::FolderError;
use crate::nsd::NsdError;
use crate::volume::MontageError;
use std::io::{self, ErrorKind};
use std::path::PathBuf;

/// The result of everything in this crate that reads or writes several kinds of files.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Says what was being done, to which file, what was found, what was expected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("reading {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },

    #[error("writing {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },

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
    Montage(#[from] MontageError),

    #[error(transparent)]
    Nsd(#[from] NsdError),

    #[error(transparent)]
    Volume(#[from] crate::volume::VolumeError),
}

impl Error {
    /// Whether another try may help: reading or writing failed for a reason outside the files' contents.
    pub fn is_io(&self) -> bool {
        match self {
            Self::Read { source, .. } => may_pass(source),
            Self::Write { .. } => true,
            Self::Checkpoint(checkpoint::Error { problem: checkpoint::Problem::Read(source), .. }) => may_pass(source),
            Self::Folder(error) => error.is_io(),
            Self::Image(error) => error.is_io(),
            Self::Import(error) => error.is_io(),
            Self::Montage(MontageError::Image(error)) => error.is_io(),
            Self::Montage(MontageError::Volume(error)) => error.is_io(),
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

/// Whether reading that failed so may succeed another time: the file is there, is a file, and is as long as it says.
pub(crate) fn may_pass(source: &io::Error) -> bool {
    use ErrorKind::{InvalidInput, IsADirectory, NotADirectory, NotFound, UnexpectedEof};
    !matches!(source.kind(), InvalidInput | IsADirectory | NotADirectory | NotFound | UnexpectedEof)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::image::{ImageError, png};
    use std::path::Path;

    #[test]
    fn another_try_is_worth_it_after_a_failure_of_the_disk_and_not_for_a_file_that_is_wrong() {
        let stale = ImageError::Read { path: "a.png".into(), source: ErrorKind::StaleNetworkFileHandle.into() };
        let image = ImageError::File { path: "a.png".into(), source: Box::new(stale) };
        assert!(Error::from(MontageError::from(image)).is_io());
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        for wrong in [here.join("nowhere.png"), here.to_owned(), here.join("Cargo.toml")] {
            let error = Error::from(png::read(&wrong).unwrap_err());
            assert!(!error.is_io(), "{error}");
        }
    }
}
