//! Looking through the whole store: what is there, and whether every file is what its name says.

use super::Artifacts;
use protocol::ids::Digest;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

/// A file of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub bytes: u64,
    pub modified: SystemTime,
}

/// What is wrong with a file. Reads after its digest.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("is not there")]
    Missing,
    #[error("has {found} bytes, {expected} are recorded")]
    Size { expected: u64, found: u64 },
    #[error("has another content, with sha256 {0}")]
    Content(Digest),
    #[error("cannot be read: {0}")]
    Unreadable(#[from] io::Error),
}

impl Artifacts {
    /// The store in `folder`, which may be another process's: nothing is created or cleared.
    pub fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// All files that lie where the store puts them, by digest. What else is in its folder is none of its.
    pub fn list(&self) -> io::Result<BTreeMap<Digest, Stored>> {
        let mut stored = BTreeMap::new();
        let folders = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(stored),
            folders => folders?,
        };
        for folder in folders {
            let folder = folder?;
            let first = folder.file_name().to_string_lossy().into_owned();
            if first.len() != 2 || !folder.file_type()?.is_dir() {
                continue;
            }
            for file in fs::read_dir(folder.path())? {
                let file = file?;
                let name = file.file_name().to_string_lossy().into_owned();
                let Some(rest) = name.strip_suffix(".png") else { continue };
                let Ok(digest) = format!("{first}{rest}").parse::<Digest>() else { continue };
                match file.metadata() {
                    Ok(found) => stored.insert(digest, Stored { bytes: found.len(), modified: found.modified()? }),
                    // Removed since the folder was read.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                    Err(error) => return Err(error),
                };
            }
        }
        Ok(stored)
    }

    /// Whether the file is there with `bytes`, and, if it is `hashed`, has the content that its name says.
    pub fn verify(&self, digest: &Digest, bytes: u64, hashed: bool) -> Result<(), Fault> {
        let path = self.path(digest);
        let mut file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Fault::Missing),
            file => file?,
        };
        let found = file.metadata()?.len();
        if found != bytes {
            return Err(Fault::Size { expected: bytes, found });
        }
        if hashed {
            let mut hash = Sha256::new();
            let mut chunk = [0; 64 << 10];
            loop {
                match file.read(&mut chunk)? {
                    0 => break,
                    read => hash.update(&chunk[..read]),
                }
            }
            let found = Digest::from_bytes(&hash.finalize().into());
            if found != *digest {
                return Err(Fault::Content(found));
            }
        }
        Ok(())
    }

    /// [`Artifacts::verify`] on all of `files`, on all cores; `looked` is called after each. Gives those with a fault, by digest.
    pub fn verify_all(
        &self,
        files: &[(Digest, u64)],
        hashed: bool,
        looked: impl Fn() + Sync,
    ) -> BTreeMap<Digest, Fault> {
        let (next, faults) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            for _ in 0..cores.min(files.len()) {
                scope.spawn(|| {
                    while let Some((digest, bytes)) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Err(fault) = self.verify(digest, *bytes, hashed) {
                            faults
                                .lock()
                                .unwrap_or_else(|poisoned| poisoned.into_inner())
                                .insert(digest.clone(), fault);
                        }
                        looked();
                    }
                });
            }
        });
        faults.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
