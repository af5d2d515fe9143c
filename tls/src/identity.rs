//! The coordinator's side: a key pair and the certificate that it signed for itself.

use protocol::ids::Digest;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, crypto, version};
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

/// A certificate with its private key.
pub struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

/// There is no certificate to show.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("making a key pair and a certificate")]
    Generate(#[source] rcgen::Error),
    #[error("expected a certificate and its private key, both in PEM")]
    Pem(#[source] rustls::pki_types::pem::Error),
    #[error("the certificate and the private key cannot be used together")]
    Unusable(#[source] rustls::Error),
}

impl Identity {
    /// A new ECDSA P-256 key pair and its certificate for `host`, as PEM text: a secret.
    pub fn generate(host: &str) -> Result<String, IdentityError> {
        let signed = rcgen::generate_simple_self_signed([host.to_owned()]).map_err(IdentityError::Generate)?;
        Ok(signed.cert.pem() + &signed.signing_key.serialize_pem())
    }

    /// What [`Identity::generate`] wrote.
    pub fn from_pem(text: &str) -> Result<Self, IdentityError> {
        let bytes = text.as_bytes();
        Ok(Self {
            certificate: CertificateDer::from_pem_slice(bytes).map_err(IdentityError::Pem)?,
            key: PrivateKeyDer::from_pem_slice(bytes).map_err(IdentityError::Pem)?,
        })
    }

    /// What clients pin.
    pub fn fingerprint(&self) -> Digest {
        fingerprint(&self.certificate)
    }

    /// Shakes hands with this certificate.
    pub fn acceptor(&self) -> Result<TlsAcceptor, IdentityError> {
        let config = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
            .with_protocol_versions(&[&version::TLS13])
            .map_err(IdentityError::Unusable)?
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], self.key.clone_key())
            .map_err(IdentityError::Unusable)?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.fingerprint())
    }
}

/// The sha256 of a certificate in DER.
pub(crate) fn fingerprint(certificate: &CertificateDer<'_>) -> Digest {
    Digest::from_bytes(&Sha256::digest(certificate).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_reads_back_as_it_was_made_and_no_two_are_alike() {
        let text = Identity::generate("login01").unwrap();
        let identity = Identity::from_pem(&text).unwrap();
        assert!(identity.acceptor().is_ok());
        assert_eq!(Identity::from_pem(&text).unwrap().fingerprint(), identity.fingerprint());
        let other = Identity::from_pem(&Identity::generate("login01").unwrap()).unwrap();
        assert_ne!(other.fingerprint(), identity.fingerprint());
    }

    #[test]
    fn a_file_without_key_or_certificate_and_a_key_of_another_certificate_are_refused() {
        let halves = |text: &str| text.split_once("-----BEGIN PRIVATE").map(|(a, b)| (a.to_owned(), b.to_owned()));
        let (certificate, _) = halves(&Identity::generate("a").unwrap()).unwrap();
        let (_, key) = halves(&Identity::generate("b").unwrap()).unwrap();
        for text in ["", "buy milk", &certificate] {
            assert!(matches!(Identity::from_pem(text), Err(IdentityError::Pem(_))), "{text}");
        }
        let mixed = Identity::from_pem(&format!("{certificate}-----BEGIN PRIVATE{key}")).unwrap();
        assert!(matches!(mixed.acceptor(), Err(IdentityError::Unusable(_))));
    }
}
