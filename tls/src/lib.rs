//! The pinned certificate: who listens at a coordinator's address is told by the sha256 of the certificate it shows.
//!
//! There is no authority and no name to check. The coordinator signs its own [`Identity`] once; its fingerprint travels with
//! the token in the endpoint file, and a [`client()`] speaks to that certificate and to no other. TLS 1.3 (RFC 8446) only.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod identity;
mod pin;

pub use identity::{Identity, IdentityError};
pub use pin::{Mismatch, client, mismatch};
pub use tokio_rustls::TlsAcceptor;
pub use tokio_rustls::server::TlsStream;
