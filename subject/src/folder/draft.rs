//! A folder that is being made, beside its place: `OUT.partial`. One process at a time holds it, by a lock that ends with the process;
//! the next one finds what was there and goes on.

use super::FolderError;
use super::manifest::{FileRecord, MANIFEST, Manifest, Provenance};
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

const LOCK: &str = "lock";
const IDENTITY: &str = "identity";

/// A folder that is not there yet.
#[derive(Debug)]
pub struct Draft {
    out: PathBuf,
    partial: PathBuf,
    identity: String,
    /// Locked as long as it is open.
    _lock: File,
}

/// What stands at a folder's place.
#[derive(Debug)]
pub enum Opened {
    /// It is finished.
    Done(Manifest),
    /// It is to be made, or to be gone on with.
    Draft(Draft),
}

impl Draft {
    /// Opens the folder `out` whose content `identity` decides; its parents are made. What an earlier try at the same identity left in the
    /// draft is still there, what one of another identity left is gone.
    ///
    /// # Errors
    /// Another process holds the draft, something else stands at `out`, or the disk fails.
    pub fn open(out: &Path, identity: &str) -> Result<Opened, FolderError> {
        if out.exists() {
            return finished(out, identity).map(Opened::Done);
        }
        let mut name = out.file_name().unwrap_or_default().to_owned();
        name.push(".partial");
        let partial = out.with_file_name(name);
        let write = |path: &Path, source| FolderError::Write { path: path.to_owned(), source };
        fs::create_dir_all(&partial).map_err(|source| write(&partial, source))?;
        let lock_path = partial.join(LOCK);
        let lock = File::create(&lock_path).map_err(|source| write(&lock_path, source))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(FolderError::InUse { path: partial }),
            Err(TryLockError::Error(source)) => return Err(write(&lock_path, source)),
        }
        // Who held it may have published it between the look and the lock.
        if out.exists() {
            return finished(out, identity).map(Opened::Done);
        }
        let identity_path = partial.join(IDENTITY);
        if fs::read_to_string(&identity_path).ok().as_deref() != Some(identity) {
            clear(&partial).map_err(|source| write(&partial, source))?;
            fs::write(&identity_path, identity).map_err(|source| write(&identity_path, source))?;
        }
        Ok(Opened::Draft(Self { out: out.to_owned(), partial, identity: identity.to_owned(), _lock: lock }))
    }

    /// Where to write. Names that begin with a point are left out of the finished folder.
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// Makes the folder: what was written is on disk before it has its name. `provenance` goes into its manifest.
    ///
    /// # Errors
    /// The disk fails.
    pub fn publish(self, provenance: Provenance) -> Result<Manifest, FolderError> {
        let failed = |source| FolderError::Write { path: self.partial.clone(), source };
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.partial).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = entry.path();
            if name == LOCK || name == IDENTITY || name == MANIFEST {
                continue;
            }
            if name.starts_with('.') {
                let is_folder = entry.file_type().map_err(failed)?.is_dir();
                if is_folder { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }.map_err(failed)?;
                continue;
            }
            names.push(name);
        }
        names.sort_unstable();
        let mut files = Vec::new();
        for name in names {
            let path = self.partial.join(&name);
            File::open(&path).and_then(|file| file.sync_all()).map_err(failed)?;
            files.push(FileRecord::of(&path, &name)?);
        }
        let manifest = Manifest::new(self.identity.clone(), provenance, files);
        let path = self.partial.join(MANIFEST);
        let text = serde_json::to_vec_pretty(&manifest)
            .map_err(|source| FolderError::Manifest { path: path.clone(), source })?;
        fs::write(&path, text).and_then(|()| File::open(&path)?.sync_all()).map_err(failed)?;
        fs::remove_file(self.partial.join(IDENTITY)).map_err(failed)?;
        fs::remove_file(self.partial.join(LOCK)).map_err(failed)?;
        let sync = |path: &Path| File::open(path).and_then(|folder| folder.sync_all());
        sync(&self.partial).map_err(failed)?;
        fs::rename(&self.partial, &self.out).map_err(failed)?;
        let parent = self.out.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
        sync(parent).map_err(failed)?;
        Ok(manifest)
    }
}

/// The manifest of what stands at `out`, if it is what is asked for.
fn finished(out: &Path, identity: &str) -> Result<Manifest, FolderError> {
    if !out.join(MANIFEST).is_file() {
        return Err(FolderError::Foreign { path: out.to_owned() });
    }
    let manifest = Manifest::read(out)?;
    match manifest.identity == identity {
        true => Ok(manifest),
        false => Err(FolderError::Different { path: out.to_owned(), found: manifest.kind }),
    }
}

/// Removes everything but the lock.
fn clear(partial: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(partial)? {
        let entry = entry?;
        if entry.file_name() == LOCK {
            continue;
        }
        if entry.file_type()?.is_dir() { fs::remove_dir_all(entry.path()) } else { fs::remove_file(entry.path()) }?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn provenance() -> Provenance {
        Provenance {
            kind: "fit".to_owned(),
            subject: "subj01".to_owned(),
            settings: serde_json::json!({}),
            inputs: Vec::new(),
            summary: BTreeMap::new(),
            software: "test".to_owned(),
        }
    }

    fn draft(out: &Path, identity: &str) -> Draft {
        match Draft::open(out, identity).unwrap() {
            Opened::Draft(draft) => draft,
            Opened::Done(manifest) => panic!("{manifest:?}"),
        }
    }

    #[test]
    fn a_folder_appears_whole_and_knows_when_a_file_of_it_changes() {
        let place = tempfile::tempdir().unwrap();
        let out = place.path().join("made/here");
        let made = draft(&out, "a");
        fs::write(made.path().join("weights"), "abc").unwrap();
        fs::write(made.path().join(".scratch"), "abc").unwrap();
        assert!(!out.exists());
        let published = made.publish(provenance()).unwrap();
        assert_eq!(published.files.iter().map(|file| file.name.as_str()).collect::<Vec<_>>(), ["weights"]);
        let names: Vec<_> = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        assert_eq!(Manifest::read(&out).unwrap(), published);
        assert!(published.verify(&out).is_ok());
        fs::write(out.join("weights"), "abd").unwrap();
        assert!(matches!(published.verify(&out), Err(FolderError::Changed { .. })));
    }

    #[test]
    fn what_is_finished_is_found_and_never_overwritten() {
        let place = tempfile::tempdir().unwrap();
        let out = place.path().join("out");
        draft(&out, "a").publish(provenance()).unwrap();
        assert!(matches!(Draft::open(&out, "a"), Ok(Opened::Done(_))));
        assert!(matches!(Draft::open(&out, "b"), Err(FolderError::Different { .. })));
        let foreign = place.path().join("foreign");
        fs::create_dir(&foreign).unwrap();
        assert!(matches!(Draft::open(&foreign, "a"), Err(FolderError::Foreign { .. })));
    }

    #[test]
    fn one_process_at_a_time_and_the_next_goes_on_where_the_last_ended() {
        let place = tempfile::tempdir().unwrap();
        let out = place.path().join("out");
        let first = draft(&out, "a");
        fs::write(first.path().join("epoch"), "7").unwrap();
        assert!(matches!(Draft::open(&out, "a"), Err(FolderError::InUse { .. })));
        drop(first);
        let second = draft(&out, "a");
        assert_eq!(fs::read_to_string(second.path().join("epoch")).unwrap(), "7");
        drop(second);
        assert!(!draft(&out, "b").path().join("epoch").exists(), "of another identity");
    }
}
