//! Finding the coordinator: an endpoint file, or an address, a token and a fingerprint.

use protocol::endpoint::Endpoint;
use protocol::ids::{Digest, NotADigest};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Why the coordinator's address is not known.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    #[error(
        "no endpoint file at {path}: start `coordinator serve` on a host that shares this folder, or name the file with --endpoint"
    )]
    Missing { path: PathBuf },
    #[error("cannot read the endpoint file {path}")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error(
        "the endpoint file {path} is not what `coordinator serve` writes; remove it and start the coordinator again"
    )]
    Malformed { path: PathBuf, source: serde_json::Error },
    #[error("there is no home directory to look for the endpoint file in: name the file with --endpoint")]
    NoHome,
    #[error("--coordinator needs the token too: set $BRAINDIVE_TOKEN, or use --endpoint FILE, which holds both")]
    NoToken,
    #[error(
        "an https address needs the fingerprint of the coordinator's certificate: set $BRAINDIVE_FINGERPRINT as the endpoint file says it, \
         or use --endpoint FILE"
    )]
    NoFingerprint,
    #[error("reading $BRAINDIVE_FINGERPRINT")]
    Fingerprint(#[from] NotADigest),
}

/// Where `coordinator serve` writes its endpoint file unless told otherwise: `~/.braindive/endpoint.json`.
pub fn default_path() -> Result<PathBuf, EndpointError> {
    Ok(std::env::home_dir().ok_or(EndpointError::NoHome)?.join(protocol::endpoint::IN_HOME))
}

/// Warns of an endpoint file that others can read: a copy, since the coordinator's own has mode 0600.
pub fn warn_if_exposed(path: &Path) {
    let mode = path.metadata().map_or(0, |file| file.permissions().mode()) & 0o777;
    if mode & 0o077 != 0 {
        tracing::warn!(
            "other users can read {0} (mode {mode:03o}), which holds a token: run `chmod 600 {0}`",
            path.display()
        );
    }
}

/// Reads an endpoint file.
pub fn read(path: &Path) -> Result<Endpoint, EndpointError> {
    let text = std::fs::read(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => EndpointError::Missing { path: path.to_owned() },
        _ => EndpointError::Unreadable { path: path.to_owned(), source },
    })?;
    serde_json::from_slice(&text).map_err(|source| EndpointError::Malformed { path: path.to_owned(), source })
}

/// The fingerprint of the certificate at `url`, as the environment names it; needed at `https` addresses.
pub fn fingerprint_from_env(url: &str) -> Result<Option<Digest>, EndpointError> {
    match std::env::var("BRAINDIVE_FINGERPRINT") {
        Ok(text) => Ok(Some(text.parse()?)),
        Err(_) if url.starts_with("https:") => Err(EndpointError::NoFingerprint),
        Err(_) => Ok(None),
    }
}
