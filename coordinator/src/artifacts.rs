//! The folder store of images, by content: a file is named by its sha256 and never changes.
//!
//! An upload goes to a temporary file in the store, is checked, synced, renamed, and its folder synced, so that a name that
//! exists always has the whole content, whatever loses power when. A sync that fails counts as a write that failed: that is
//! where network file systems say that they are full. (The folder backend of the crate `object_store` syncs too, but leaves
//! its temporary file behind in that case.)

pub mod audit;
pub mod gc;

use axum::body::Bytes;
use protocol::ids::Digest;
use sha2::{Digest as _, Sha256};
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;
use tokio::io::AsyncWriteExt;

/// A store in one folder: `<folder>/<2 hex>/<62 hex>.png`.
#[derive(Debug, Clone)]
pub struct Artifacts {
    folder: PathBuf,
}

/// A file was not stored, and nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    #[error("no room is left in the artifact store {}; free some and the workers will go on by themselves", folder.display())]
    StorageFull { folder: PathBuf },
    #[error("the upload named {expected} has digest {found}; it was damaged on its way, send it again")]
    WrongDigest { expected: Digest, found: Digest },
    #[error("storing {digest} in the artifact store {}", folder.display())]
    Io {
        digest: Digest,
        folder: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("opening the artifact store {}", folder.display())]
    Open {
        folder: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Artifacts {
    /// Opens the store, creating its folder, and clears what uploads left that a crash cut short.
    pub fn open(folder: &Path) -> Result<Self, ArtifactError> {
        let failed = |source| ArtifactError::Open { folder: folder.to_owned(), source };
        let incoming = folder.join(INCOMING);
        std::fs::create_dir_all(&incoming).map_err(failed)?;
        for entry in std::fs::read_dir(&incoming).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            std::fs::remove_file(&path).map_err(failed)?;
        }
        Ok(Self { folder: folder.to_owned() })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the file with this digest lies, if it is stored.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        let (first, rest) = digest.as_str().split_at(2);
        self.folder.join(first).join(format!("{rest}.png"))
    }

    /// Begins an upload that must turn out to have `digest`. The umask decides who else can read it.
    pub fn upload(&self, digest: Digest) -> Result<Upload, ArtifactError> {
        let begin = || {
            let readable = Permissions::from_mode(0o666);
            let file = tempfile::Builder::new().permissions(readable).tempfile_in(self.folder.join(INCOMING))?;
            let writer = tokio::fs::File::from_std(file.reopen()?);
            Ok((file, writer))
        };
        let (file, writer) = begin().map_err(|source| self.failure(&digest, source))?;
        Ok(Upload { store: self.clone(), digest, file, writer, hash: Sha256::new(), bytes: 0 })
    }

    fn failure(&self, digest: &Digest, source: io::Error) -> ArtifactError {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                ArtifactError::StorageFull { folder: self.folder.clone() }
            }
            _ => ArtifactError::Io { digest: digest.clone(), folder: self.folder.clone(), source },
        }
    }
}

/// The folder of unfinished uploads; on the same file system, so that a rename is atomic.
const INCOMING: &str = "incoming";

/// A file on its way in. Dropping it removes what was written.
#[derive(Debug)]
pub struct Upload {
    store: Artifacts,
    digest: Digest,
    file: NamedTempFile,
    writer: tokio::fs::File,
    hash: Sha256,
    bytes: u64,
}

impl Upload {
    pub async fn write(&mut self, chunk: &Bytes) -> Result<(), ArtifactError> {
        self.hash.update(chunk);
        self.bytes += chunk.len() as u64;
        self.writer.write_all(chunk).await.map_err(|source| self.store.failure(&self.digest, source))
    }

    /// Checks the digest and makes the file durable under its name. Returns its bytes.
    pub async fn finish(mut self) -> Result<u64, ArtifactError> {
        let found = Digest::from_bytes(&std::mem::take(&mut self.hash).finalize().into());
        if found != self.digest {
            return Err(ArtifactError::WrongDigest { expected: self.digest, found });
        }
        let synced = async {
            self.writer.flush().await?;
            self.writer.sync_all().await
        };
        synced.await.map_err(|source| self.store.failure(&self.digest, source))?;
        let Self { store, digest, file, bytes, .. } = self;
        let path = store.path(&digest);
        let keep = tokio::task::spawn_blocking(move || keep(file, &path));
        keep.await.map_err(io::Error::other).flatten().map_err(|source| store.failure(&digest, source))?;
        Ok(bytes)
    }
}

fn keep(file: NamedTempFile, path: &Path) -> io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    if !folder.is_dir() {
        std::fs::create_dir_all(folder)?;
        sync_folder(folder.parent().unwrap_or(folder))?;
    }
    file.persist(path).map_err(|error| error.error)?;
    sync_folder(folder)
}

/// A rename is durable once its folder is.
fn sync_folder(folder: &Path) -> io::Result<()> {
    std::fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest_of(bytes: &[u8]) -> Digest {
        Digest::from_bytes(&Sha256::digest(bytes).into())
    }

    fn files_below(folder: &Path) -> usize {
        let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
        entries.map(|path| if path.is_dir() { files_below(&path) } else { 1 }).sum()
    }

    async fn store(artifacts: &Artifacts, name: &Digest, chunks: &[&'static [u8]]) -> Result<u64, ArtifactError> {
        let mut upload = artifacts.upload(name.clone())?;
        for chunk in chunks {
            upload.write(&Bytes::from_static(chunk)).await?;
        }
        upload.finish().await
    }

    #[tokio::test]
    async fn an_upload_is_found_under_its_digest_and_storing_it_again_changes_nothing() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let artifacts = Artifacts::open(folder.path()).expect("an empty store");
        let digest = digest_of(b"picture");
        for _ in 0..2 {
            assert_eq!(store(&artifacts, &digest, &[b"pic", b"ture"]).await.ok(), Some(7));
            let file = std::fs::File::options().write(true).open(artifacts.path(&digest)).expect("the stored file");
            file.set_modified(std::time::UNIX_EPOCH).expect("its time can be set");
        }
        assert_eq!(store(&artifacts, &digest, &[b"picture"]).await.ok(), Some(7));
        let modified = artifacts.path(&digest).metadata().and_then(|file| file.modified()).expect("its time");
        assert!(modified > std::time::UNIX_EPOCH, "an upload makes the file young again");
        assert_eq!(std::fs::read(artifacts.path(&digest)).expect("the stored file"), b"picture");
        assert_eq!(files_below(folder.path()), 1);
    }

    #[tokio::test]
    async fn a_wrong_digest_is_refused_and_leaves_nothing() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let artifacts = Artifacts::open(folder.path()).expect("an empty store");
        let refused = store(&artifacts, &digest_of(b"picture"), &[b"pictures"]).await;
        assert!(matches!(refused, Err(ArtifactError::WrongDigest { .. })), "{refused:?}");
        assert_eq!(files_below(folder.path()), 0);
    }

    #[test]
    fn what_a_crash_left_half_written_is_cleared() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Artifacts::open(folder.path()).expect("an empty store");
        std::fs::write(folder.path().join(INCOMING).join("half"), b"pict").expect("a leftover");
        Artifacts::open(folder.path()).expect("the store again");
        assert_eq!(files_below(folder.path()), 0);
    }

    #[test]
    fn a_full_disk_is_told_from_other_failures() {
        let artifacts = Artifacts { folder: PathBuf::from("store") };
        let digest = digest_of(b"picture");
        for (kind, full) in
            [(io::ErrorKind::StorageFull, true), (io::ErrorKind::QuotaExceeded, true), (io::ErrorKind::NotFound, false)]
        {
            let error = artifacts.failure(&digest, kind.into());
            assert_eq!(matches!(error, ArtifactError::StorageFull { .. }), full, "{kind}");
        }
    }
}
