//! Files that only their owner may read, made once beside the database: tokens and the certificate's key.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A secret could not be read, or is none.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error(
        "other users can read {path} (mode {mode:03o}), which holds a secret: if you trust all who had access, run `chmod 600 {path}`; \
         if not, remove the file, and `coordinator serve` makes a new one",
        path = path.display()
    )]
    Exposed { path: PathBuf, mode: u32 },
    #[error("{} is not what `coordinator serve` wrote there (expected {expected}); remove it, and a new one is made", path.display())]
    Garbled { path: PathBuf, expected: &'static str },
    #[error("reading {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("writing {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// The text in the file at `path`; if there is none, what `make` gives, written there with mode 0600. It outlives the
/// coordinator, so that workers go on when it is restarted.
pub fn at(path: &Path, make: impl FnOnce() -> String) -> Result<String, SecretError> {
    match File::open(path) {
        Ok(file) => read(path, file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let text = make();
            write(path, &text).map_err(|source| SecretError::Write { path: path.to_owned(), source })?;
            Ok(text)
        }
        Err(source) => Err(SecretError::Read { path: path.to_owned(), source }),
    }
}

fn read(path: &Path, mut file: File) -> Result<String, SecretError> {
    let failed = |source| SecretError::Read { path: path.to_owned(), source };
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(SecretError::Exposed { path: path.to_owned(), mode });
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// Whole or not at all: temporary files are made with mode 0600, and a crash leaves no empty secret.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{Permissions, set_permissions};

    #[test]
    fn a_secret_is_made_once_and_only_its_owner_can_read_it() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("db.token");
        assert_eq!(at(&path, || "first".to_owned()).expect("a new secret"), "first");
        assert_eq!(at(&path, || "second".to_owned()).expect("the same secret"), "first");
        assert_eq!(path.metadata().expect("the file").permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_secret_that_others_can_read_is_refused_with_what_to_do() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("db.token");
        at(&path, || "secret".to_owned()).expect("a new secret");
        for mode in [0o640, 0o604, 0o620, 0o666] {
            set_permissions(&path, Permissions::from_mode(mode)).expect("the mode can be set");
            let error = at(&path, String::new).expect_err("it is no secret");
            assert!(error.to_string().contains(&format!("chmod 600 {}", path.display())), "{error}");
        }
    }
}
