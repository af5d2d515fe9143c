//! What went into a folder and what came out.

use super::FolderError;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The manifest's name in its folder; written last.
pub const MANIFEST: &str = "manifest.json";

/// What is known of a folder's content before it is published.
#[derive(Debug, Clone, PartialEq)]
pub struct Provenance {
    /// As in [`Manifest`], all of them.
    pub kind: String,
    pub subject: String,
    pub settings: serde_json::Value,
    pub inputs: Vec<FileRecord>,
    pub summary: BTreeMap<String, f64>,
    pub software: String,
}

/// What a folder holds and where it came from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// What decided the content: the same text is the same content.
    pub identity: String,
    /// What made it: `prepare`, `fit`, `cluster`.
    pub kind: String,
    pub subject: String,
    /// As they were asked for.
    pub settings: serde_json::Value,
    /// Every file that was read; names as the settings or the data's layout have them, without the place of their root.
    pub inputs: Vec<FileRecord>,
    /// Every file of the folder but this one.
    pub files: Vec<FileRecord>,
    /// Numbers for people, for example `images` or `median_r2`.
    pub summary: BTreeMap<String, f64>,
    /// Name and version.
    pub software: String,
}

/// A file that was read or written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    pub name: String,
    pub bytes: u64,
    /// 64 hexadecimal digits.
    pub sha256: String,
}

impl Manifest {
    pub(super) fn new(identity: String, provenance: Provenance, files: Vec<FileRecord>) -> Self {
        let Provenance { kind, subject, settings, inputs, summary, software } = provenance;
        Self { identity, kind, subject, settings, inputs, files, summary, software }
    }

    /// Reads the manifest of the finished folder `folder`.
    ///
    /// # Errors
    /// There is none, or it can't be read or is no manifest.
    pub fn read(folder: &Path) -> Result<Self, FolderError> {
        let path = folder.join(MANIFEST);
        let text = std::fs::read(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => FolderError::Unfinished { path: folder.to_owned() },
            _ => FolderError::Read { path: path.clone(), source },
        })?;
        serde_json::from_slice(&text).map_err(|source| FolderError::Manifest { path, source })
    }

    /// Compares every file of the folder with its digest.
    ///
    /// # Errors
    /// A file is missing or has changed; the error names it.
    pub fn verify(&self, folder: &Path) -> Result<(), FolderError> {
        for file in &self.files {
            let path = folder.join(&file.name);
            let found = FileRecord::of(&path, &file.name)?.sha256;
            if found != file.sha256 {
                return Err(FolderError::Changed { path, found, expected: file.sha256.clone() });
            }
        }
        Ok(())
    }
}

impl FileRecord {
    /// The file at `path` under `name`; it is read in pieces.
    ///
    /// # Errors
    /// It can't be read.
    pub fn of(path: &Path, name: &str) -> Result<Self, FolderError> {
        let failed = |source: io::Error| FolderError::Read { path: path.to_owned(), source };
        let (bytes, sha256) = File::open(path).and_then(sha256).map_err(failed)?;
        Ok(Self { name: name.to_owned(), bytes, sha256 })
    }
}

/// Length and sha256 (64 hexadecimal digits) of what is left in `reader`.
pub fn sha256(mut reader: impl Read) -> io::Result<(u64, String)> {
    let mut hash = Sha256::new();
    let mut piece = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        let length = reader.read(&mut piece)?;
        if length == 0 {
            let digits = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            return Ok((bytes, digits));
        }
        hash.update(&piece[..length]);
        bytes += length as u64;
    }
}
