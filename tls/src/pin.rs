//! The clients' side: an HTTP client that speaks to one certificate and to no other.

use crate::identity::fingerprint;
use protocol::ids::Digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{self, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, OtherError, SignatureScheme, version};
use std::error::Error;
use std::io;
use std::sync::Arc;

/// The certificate shown is not the pinned one. The connection ended there: no request was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it shows a certificate with fingerprint {found}, {}", match expected {
    Some(expected) => format!("expected {expected}"),
    None => "and none is known for it".to_owned(),
})]
pub struct Mismatch {
    /// `None`: no fingerprint was given, so that no certificate can be right.
    pub expected: Option<Digest>,
    pub found: Digest,
}

/// A builder of HTTP clients. They use no proxy: a cluster's proxy is for the world outside, the coordinator is inside. At `https`
/// addresses they speak only to the certificate with fingerprint `pin`.
pub fn client(pin: Option<Digest>) -> Result<reqwest::ClientBuilder, rustls::Error> {
    let provider = crypto::ring::default_provider();
    let verifier = Pinned { expected: pin, algorithms: provider.signature_verification_algorithms };
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(reqwest::Client::builder().no_proxy().tls_backend_preconfigured(config))
}

/// The certificate that made a request fail, if that is why it failed.
pub fn mismatch(error: &reqwest::Error) -> Option<Mismatch> {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(other)))) =
            error.downcast_ref()
        {
            return other.downcast_ref().cloned();
        }
        // The source of an I/O error is its content's source: the content itself is asked for.
        cause = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(content) => Some(content),
            None => error.source(),
        };
    }
    None
}

/// Accepts one certificate, from a server that proves that it has the key.
#[derive(Debug)]
struct Pinned {
    expected: Option<Digest>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _stapled: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let found = fingerprint(certificate);
        if self.expected.as_ref() == Some(&found) {
            return Ok(ServerCertVerified::assertion());
        }
        let mismatch = Mismatch { expected: self.expected.clone(), found };
        Err(CertificateError::Other(OtherError(Arc::new(mismatch))).into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Identity;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    /// Answers every request over TLS with 204, and says how many bytes of requests it has read.
    async fn serve(acceptor: TlsAcceptor) -> (String, tokio::sync::mpsc::UnboundedReceiver<usize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let (read, reads) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    read.send(0).unwrap();
                    continue;
                };
                let bytes = stream.read(&mut [0; 4096]).await.unwrap_or(0);
                read.send(bytes).unwrap();
                let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await;
                let _ = stream.shutdown().await;
            }
        });
        (url, reads)
    }

    async fn get(pin: Option<Digest>, url: &str) -> Result<reqwest::Response, reqwest::Error> {
        client(pin).unwrap().build().unwrap().get(url).send().await
    }

    #[tokio::test]
    async fn a_client_speaks_to_the_pinned_certificate_and_to_no_other() {
        let identity = Identity::from_pem(&Identity::generate("login01").unwrap()).unwrap();
        let (url, mut reads) = serve(identity.acceptor().unwrap()).await;
        let found = identity.fingerprint();
        assert_eq!(get(Some(found.clone()), &url).await.unwrap().status(), 204);
        assert!(reads.recv().await.unwrap() > 0);
        for expected in [None, Some(Digest::from_bytes(&[7; 32]))] {
            let error = get(expected.clone(), &url).await.unwrap_err();
            assert_eq!(mismatch(&error), Some(Mismatch { expected, found: found.clone() }), "{error:?}");
            assert_eq!(reads.recv().await, Some(0), "not a byte was said");
        }
    }

    #[tokio::test]
    async fn a_certificate_without_its_key_is_not_believed() {
        let (ours, theirs) = (Identity::generate("a").unwrap(), Identity::generate("b").unwrap());
        let fingerprint = Identity::from_pem(&ours).unwrap().fingerprint();
        let certificate = rustls::pki_types::pem::PemObject::from_pem_slice(ours.as_bytes()).unwrap();
        let key = rustls::pki_types::pem::PemObject::from_pem_slice(theirs.as_bytes()).unwrap();
        let provider = crypto::ring::default_provider();
        let key = provider.key_provider.load_private_key(key).unwrap();
        let stolen = rustls::sign::CertifiedKey::new(vec![certificate], key);
        let resolver = Arc::new(rustls::sign::SingleCertAndKey::from(stolen));
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        let (url, mut reads) = serve(TlsAcceptor::from(Arc::new(config))).await;
        let error = get(Some(fingerprint), &url).await.unwrap_err();
        assert_eq!(mismatch(&error), None, "the certificate is the pinned one: the signature is not: {error:?}");
        assert_eq!(reads.recv().await, Some(0), "not a byte was said");
    }
}
