//! What is finished and not yet delivered, on disk: it survives its worker, and a later one delivers it.
//!
//! Every worker process has a folder of its own in the spool, held by a lock that ends with the process. One whose lock is free
//! was left by a dead worker; whoever starts next with the same spool takes it over. An entry is `WORKER-JOB-FENCE.json` (an
//! [`Entry`]), with the image of a result beside it as `WORKER-JOB-FENCE.png`; the JSON is written last and makes it one. All
//! that is written is synced before it counts. Files have mode 0600, folders 0700.

use protocol::ids::{Digest, Fence, JobId, WorkerId};
use protocol::outcome::{Completed, Failed};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How a worker's folder begins; nothing else in the spool is touched.
const OWN: &str = "worker-";
const LOCK: &str = "lock";
/// Of a file that was being written when its worker died.
const TORN: &str = ".tmp";
/// Where entries go that the coordinator will never take, each with the reason beside it.
const REJECTED: &str = "rejected";

/// How an attempt ended: what is told to the coordinator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    Completed(Completed),
    Failed(Failed),
}

impl Ending {
    pub fn attempt(&self) -> (WorkerId, JobId, Fence) {
        match self {
            Self::Completed(done) => (done.worker, done.job, done.fence),
            Self::Failed(failed) => (failed.worker, failed.job, failed.fence),
        }
    }
}

/// The JSON file of an entry.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    /// Whose job it was, see [`campaign`].
    campaign: Digest,
    ending: Ending,
}

/// Tells campaigns apart without telling their token, which is random and made once for each database.
pub fn campaign(token: &str) -> Digest {
    Digest::from_bytes(&Sha256::digest(token).into())
}

/// The spool cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    #[error("{doing} {} in the spool", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("the image {} in the spool is not the one that was written: expected sha256 {expected}, found {found}", path.display())]
    Changed { path: PathBuf, expected: Digest, found: Digest },
}

fn failed<'a>(doing: &'static str, path: &'a Path) -> impl Fn(io::Error) -> SpoolError + 'a {
    move |source| SpoolError::Io { doing, path: path.to_owned(), source }
}

/// A worker's own part of the spool.
#[derive(Debug)]
pub struct Spool {
    folder: Arc<Folder>,
    campaign: Digest,
}

/// What dead workers left.
#[derive(Debug, Default)]
pub struct Left {
    /// Of this campaign: to be delivered.
    pub entries: Vec<(Ending, Kept)>,
    /// Of other campaigns, or of another version: they stay where they are.
    pub foreign: usize,
}

impl Spool {
    /// Makes a folder for this process in `root`, and takes over what dead workers of the campaign left there. `name` says whose
    /// folder it is.
    pub fn open(root: &Path, name: &str, campaign: Digest) -> Result<(Self, Left), SpoolError> {
        DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(failed("making the folder", root))?;
        let root = root.canonicalize().map_err(failed("finding the folder", root))?;
        let mut left = Left::default();
        for found in fs::read_dir(&root).map_err(failed("listing", &root))? {
            let path = found.map_err(failed("listing", &root))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if !name.starts_with(OWN) || !path.is_dir() {
                continue;
            }
            // Another worker may take it, or end and remove it, at any moment: then it is not ours to take.
            if let Ok(Some(folder)) = Folder::lock(path.clone())
                && let Err(error) = folder.take_over(&campaign, &mut left)
            {
                tracing::warn!("{}; what lies there stays", crate::chain::chain(&error));
            }
        }
        let prefix = format!("{OWN}{name}-");
        loop {
            let mut folder = tempfile::Builder::new();
            let made = folder.prefix(&prefix).permissions(Permissions::from_mode(0o700)).tempdir_in(&root);
            let path = made.map_err(failed("making a folder in", &root))?.keep();
            // A worker that starts at this moment may have taken it for a dead one's.
            if let Some(folder) = Folder::lock(path)? {
                return Ok((Self { folder: Arc::new(folder), campaign }, left));
            }
        }
    }

    /// Where undelivered results lie.
    pub fn path(&self) -> &Path {
        &self.folder.path
    }

    /// Writes an ending, and the image of a result. Once this returns, a crash does not lose it.
    pub fn keep(&self, ending: &Ending, png: Option<&[u8]>) -> Result<Kept, SpoolError> {
        let (worker, job, fence) = ending.attempt();
        let kept = Kept { folder: self.folder.clone(), name: format!("{worker}-{job}-{fence}") };
        let entry = Entry { campaign: self.campaign.clone(), ending: ending.clone() };
        let written = (|| {
            if let Some(png) = png {
                write(&kept.path("png"), png)?;
            }
            let json = serde_json::to_vec(&entry).map_err(io::Error::other);
            let path = kept.path("json");
            write(&path, &json.map_err(failed("writing", &path))?)?;
            sync(&self.folder.path)
        })();
        if written.is_err() {
            kept.remove();
        }
        written.map(|()| kept)
    }
}

/// Writes a file that is there as a whole or not at all.
fn write(path: &Path, bytes: &[u8]) -> Result<(), SpoolError> {
    let folder = path.parent().unwrap_or(path);
    let written = tempfile::Builder::new().prefix(TORN).tempfile_in(folder).and_then(|mut file| {
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        Ok(file.persist(path)?)
    });
    written.map(drop).map_err(failed("writing", path))
}

fn sync(folder: &Path) -> Result<(), SpoolError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("syncing", folder))
}

/// A locked folder. It goes when nobody needs it any more and it is empty.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// `None` if another process holds it.
    fn lock(path: PathBuf) -> Result<Option<Self>, SpoolError> {
        let file = path.join(LOCK);
        let opened = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&file);
        let lock = opened.map_err(failed("making", &file))?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(Self { path, _lock: lock })),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(source)) => Err(failed("locking", &file)(source)),
        }
    }

    fn take_over(self, campaign: &Digest, left: &mut Left) -> Result<(), SpoolError> {
        let folder = Arc::new(self);
        let mut images = Vec::new();
        for found in fs::read_dir(&folder.path).map_err(failed("listing", &folder.path))? {
            let path = found.map_err(failed("listing", &folder.path))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            match name.rsplit_once('.') {
                _ if name.starts_with(TORN) => drop(fs::remove_file(&path)),
                Some((_, "png")) => images.push(path),
                Some((name, "json")) => {
                    let kept = Kept { folder: folder.clone(), name: name.to_owned() };
                    let text = fs::read(&path).map_err(failed("reading", &path))?;
                    match serde_json::from_slice::<Entry>(&text) {
                        Ok(entry) if entry.campaign == *campaign => left.entries.push((entry.ending, kept)),
                        _ => left.foreign += 1,
                    }
                }
                _ => {}
            }
        }
        // The worker died before it wrote the JSON: the job was not finished yet.
        for image in images.into_iter().filter(|image| !image.with_extension("json").exists()) {
            let _ = fs::remove_file(image);
        }
        Ok(())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let rest = fs::read_dir(&self.path).map(|entries| entries.flatten().any(|entry| entry.file_name() != LOCK));
        if let Ok(false) = rest {
            let _ = fs::remove_file(self.path.join(LOCK));
            let _ = fs::remove_dir(&self.path);
        }
    }
}

/// An entry on disk.
#[derive(Debug, Clone)]
pub struct Kept {
    folder: Arc<Folder>,
    name: String,
}

impl Kept {
    /// The image of a result whose digest is `expected`.
    pub fn image(&self, expected: &Digest) -> Result<Vec<u8>, SpoolError> {
        let path = self.path("png");
        let png = fs::read(&path).map_err(failed("reading", &path))?;
        let found = Digest::from_bytes(&Sha256::digest(&png).into());
        if found != *expected {
            return Err(SpoolError::Changed { path, expected: expected.clone(), found });
        }
        Ok(png)
    }

    /// It has been delivered. If the files outlive a crash of the machine they are delivered again, which changes nothing.
    pub fn remove(&self) {
        let _ = fs::remove_file(self.path("json"));
        let _ = fs::remove_file(self.path("png"));
    }

    /// Moves it aside with the reason, and returns where it lies now.
    pub fn reject(&self, reason: &str) -> Result<PathBuf, SpoolError> {
        let folder = self.folder.path.with_file_name(REJECTED);
        DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(failed("making", &folder))?;
        let aside = folder.join(&self.name);
        write(&aside.with_extension("reason"), reason.as_bytes())?;
        for extension in ["png", "json"] {
            let (from, to) = (self.path(extension), aside.with_extension(extension));
            match fs::rename(&from, &to) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("moving", &from)(error)),
                _ => {}
            }
        }
        sync(&folder)?;
        Ok(aside.with_extension("json"))
    }

    fn path(&self, extension: &str) -> PathBuf {
        self.folder.path.join(format!("{}.{extension}", self.name))
    }
}

#[cfg(test)]
#[path = "spool/tests.rs"]
mod tests;
