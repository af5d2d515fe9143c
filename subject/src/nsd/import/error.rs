//! Why a file that another system wrote can't be taken over.

use crate::error::may_pass;
use crate::nsd::mgh::MghError;
use std::path::{Path, PathBuf};

/// A file, and what is wrong with it.
#[derive(Debug, thiserror::Error)]
#[error("{} {problem}", path.display())]
pub struct ImportError {
    pub path: PathBuf,
    #[source]
    pub problem: Problem,
}

/// Reads after the name of the file.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("cannot be read: {0}")]
    Read(#[from] std::io::Error),

    #[error("is no NumPy file: {0}")]
    NoNpy(String),

    #[error(
        "is a NumPy file of Python objects, which are pickled code and never loaded: save it as numbers, or as a .pkl of arrays"
    )]
    Objects,

    #[error("holds {found}, expected {expected}")]
    Unexpected { found: String, expected: String },

    #[error("is a pickle that would call `{0}`: nothing in a pickle is executed, save its arrays with numpy.save")]
    Code(String),

    #[error("is a pickle with the opcode {opcode:#04x} at byte {at}, which lists of arrays do not need")]
    Opcode { opcode: u8, at: usize },

    #[error("is a damaged pickle: at byte {at} {what}")]
    Damaged { at: usize, what: &'static str },

    #[error("is no volume or surface of FreeSurfer: {0}")]
    Mgh(#[from] MghError),

    #[error("cannot be read as HDF5: {0}")]
    Hdf5(String),
}

impl Problem {
    /// The problem of the file `path`.
    pub fn of(self, path: &Path) -> ImportError {
        ImportError { path: path.to_owned(), problem: self }
    }

    /// What was found instead of what was expected.
    pub fn unexpected(found: impl Into<String>, expected: impl Into<String>) -> Self {
        Self::Unexpected { found: found.into(), expected: expected.into() }
    }
}

impl ImportError {
    /// Whether another try may help.
    pub fn is_io(&self) -> bool {
        matches!(&self.problem, Problem::Read(source) if may_pass(source))
    }
}
