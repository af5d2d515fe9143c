//! Removing files that no result names, while workers upload.
//!
//! The rows go first, in one of the writer's turns, and the files of rows that are still gone in another: whatever comes between,
//! a crash or an upload of the same content, no row is left without its file. A file is taken away under another name before its
//! age is looked at, so that one that was stored anew in that moment is put back.

use super::audit::Stored;
use super::{Artifacts, INCOMING};
use crate::queue::request::{Collect, Collected};
use crate::queue::{Queue, QueueError};
use protocol::ids::Digest;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};
use std::{fs, io};

/// Files of one turn: claims wait for it.
const TURN: usize = 64;

/// Removing files failed; what was removed before stays removed.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error("looking through the artifact store {}", folder.display())]
    List {
        folder: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("removing {digest} from the artifact store")]
    Remove {
        digest: Digest,
        #[source]
        source: io::Error,
    },
}

/// Removes the files, and their rows, that are older than asked for and that no result names.
pub async fn collect(queue: &Queue, artifacts: &Artifacts, request: &Collect) -> Result<Collected, CollectError> {
    let grace = Duration::from_millis(request.older_than_ms);
    let (store, folder) = (artifacts.clone(), artifacts.folder.clone());
    let listed = tokio::task::spawn_blocking(move || store.list());
    let listed = listed.await.map_err(io::Error::other).flatten();
    let listed = listed.map_err(|source| CollectError::List { folder, source })?;
    let old: Vec<(Digest, Stored)> = listed.into_iter().filter(|(_, stored)| is_old(stored.modified, grace)).collect();
    let mut collected = Collected::default();
    for turn in old.chunks(TURN) {
        let digests: Vec<Digest> = turn.iter().map(|(digest, _)| digest.clone()).collect();
        let mut unnamed = queue.forget_artifacts(digests, request.dry_run).await?;
        if !request.dry_run {
            unnamed = queue.remove_forgotten(unnamed, artifacts.clone(), grace).await??;
        }
        for (_, stored) in turn.iter().filter(|(digest, _)| unnamed.contains(digest)) {
            collected.images += 1;
            collected.bytes += stored.bytes;
        }
    }
    Ok(collected)
}

fn is_old(modified: SystemTime, grace: Duration) -> bool {
    modified.elapsed().is_ok_and(|age| age > grace)
}

impl Artifacts {
    /// Removes those of the files that are older than `grace`, and says which.
    pub fn remove_old(&self, digests: Vec<Digest>, grace: Duration) -> Result<Vec<Digest>, CollectError> {
        let mut removed = Vec::with_capacity(digests.len());
        for digest in digests {
            match self.remove_if_old(&digest, grace) {
                Ok(true) => removed.push(digest),
                Ok(false) => {}
                Err(source) => return Err(CollectError::Remove { digest, source }),
            }
        }
        Ok(removed)
    }

    fn remove_if_old(&self, digest: &Digest, grace: Duration) -> io::Result<bool> {
        let path = self.path(digest);
        let incoming = self.folder.join(INCOMING);
        fs::create_dir_all(&incoming)?;
        let aside = incoming.join(format!("removing-{digest}"));
        match fs::rename(&path, &aside) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            renamed => renamed?,
        }
        let old = is_old(fs::metadata(&aside)?.modified()?, grace);
        if !old {
            match fs::hard_link(&aside, &path) {
                // Stored once more meanwhile.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                linked => linked?,
            }
        }
        fs::remove_file(&aside)?;
        Ok(old)
    }
}
