//! The bearer token: kept beside the database, checked in constant time.

use super::refusal::Refused;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::Response;
use protocol::error::RefusalCode;
use sha2::{Digest, Sha256};
use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

/// What a request must carry: `authorization: Bearer TOKEN`.
#[derive(Clone)]
pub struct Token(Arc<str>);

impl Token {
    /// The token in the file at `path`, made there (mode 0600) if there is none. It outlives the coordinator, so that
    /// workers go on when it is restarted.
    pub fn at(path: &Path) -> io::Result<Self> {
        match std::fs::read_to_string(path) {
            Ok(text) if text.trim().len() >= 32 => return Ok(Self(text.trim().into())),
            Ok(_) => return Err(io::Error::new(ErrorKind::InvalidData, "expected a token of at least 32 characters")),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let token: String = rand::random::<[u8; 32]>().iter().map(|byte| format!("{byte:02x}")).collect();
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        writeln!(file, "{token}")?;
        file.sync_all()?;
        Ok(Self(token.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Compares digests, so that the time taken says nothing about the token.
    fn matches(&self, other: &str) -> bool {
        let (ours, theirs) = (Sha256::digest(self.0.as_bytes()), Sha256::digest(other.as_bytes()));
        ours.iter().zip(&theirs).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Lets a request through that carries the token.
pub async fn require(State(token): State<Token>, request: Request, next: Next) -> Result<Response, Refused> {
    let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    match header.and_then(|value| value.strip_prefix("Bearer ")) {
        Some(given) if token.matches(given.trim()) => Ok(next.run(request).await),
        given => {
            let found =
                if given.is_some() { "the token is not this coordinator's" } else { "there is no bearer token" };
            let message = format!("{found}: read it from the endpoint file that `coordinator serve` wrote");
            Err(Refused::new(StatusCode::UNAUTHORIZED, RefusalCode::Unauthorized, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_token_is_made_once_and_only_its_owner_can_read_it() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("db.token");
        let token = Token::at(&path).expect("a new token");
        assert_eq!(Token::at(&path).expect("the same token").as_str(), token.as_str());
        assert_eq!(path.metadata().expect("the file").permissions().mode() & 0o777, 0o600);
        assert!(token.matches(token.as_str()));
        assert!(!token.matches("") && !token.matches(&token.as_str()[1..]));
    }
}
