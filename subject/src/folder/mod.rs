//! Folders that appear whole or not at all: what a job makes beside its picture (a prepared subject, an encoder, clusters). While
//! one is made it is a [`Draft`] beside its place, which a later try takes over; then it is renamed into place with a
//! [`Manifest`] that says what went in and what came out.

mod draft;
mod manifest;

pub use draft::{Draft, Opened};
pub use manifest::{FileRecord, MANIFEST, Manifest, Provenance, sha256};

use crate::error::may_pass;
use std::path::PathBuf;

/// Why a folder can't be made, or one that is there can't be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error("reading {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("writing {}: {source}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("{} is being written by another process; it goes on where that one ends", path.display())]
    InUse { path: PathBuf },
    #[error("{} is there and is no finished folder: it has no {MANIFEST}; remove it or write somewhere else", path.display())]
    Foreign { path: PathBuf },
    #[error(
        "{} was made by another {found} than the one that is asked for; remove it or write somewhere else",
        path.display()
    )]
    Different { path: PathBuf, found: String },
    #[error(
        "{} is no finished folder: it has no {MANIFEST}; name one that prepare, fit, cluster or an import has made",
        path.display()
    )]
    Unfinished { path: PathBuf },
    #[error("the manifest {} is not what it should be: {source}", path.display())]
    Manifest { path: PathBuf, source: serde_json::Error },
    #[error(
        "{} has changed since it was made: its sha256 is {found}, the manifest says {expected}; restore it, or remove the folder and make it again",
        path.display()
    )]
    Changed { path: PathBuf, found: String, expected: String },
}

impl FolderError {
    /// Whether another try may help.
    pub fn is_io(&self) -> bool {
        match self {
            Self::Read { source, .. } => may_pass(source),
            Self::Write { .. } | Self::InUse { .. } => true,
            _ => false,
        }
    }
}
