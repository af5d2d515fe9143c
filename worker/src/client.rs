//! The coordinator's API as typed calls. A client that was given an endpoint file follows it: when the coordinator is not
//! found at its address any more, the file may say where it listens now. The token tells it from the coordinator of another
//! database, which knows nothing of this worker's jobs. At an `https` address the certificate must be the pinned one: to any
//! other the client says nothing.

use crate::endpoint;
use protocol::claim::{Claim, Claimed, Register, Registered};
use protocol::endpoint::Endpoint;
use protocol::error::{Refusal, RefusalCode};
use protocol::heartbeat::{Heartbeat, HeartbeatReply, Release};
use protocol::ids::{Digest, JobId};
use protocol::outcome::{Closed, Completed, Failed};
use serde::{Serialize, de::DeserializeOwned};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// How long a request other than a claim or an upload may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long an upload or a download may take.
const FILE_PATIENCE: Duration = Duration::from_secs(300);
/// How long to keep an unused connection: less than the coordinator does, which would close it under the next request.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Why a call gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot reach the coordinator at {url}")]
    Unreachable { url: String, source: reqwest::Error },
    #[error("cannot prepare to speak to {url}")]
    Tls { url: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error(
        "{url} is not the coordinator that this worker was told of, and it was told nothing: use the endpoint file that `coordinator \
         serve` writes now, or set $BRAINDIVE_FINGERPRINT to the fingerprint in it; if its certificate was not replaced, ask who \
         listens there"
    )]
    WrongCertificate { url: String, source: tls::Mismatch },
    #[error("the coordinator refused: {}", .0.message)]
    Refused(Refusal),
    #[error("the coordinator at {url} answered something that is not its API (HTTP {status}); is the address right?")]
    NotTheApi { url: String, status: u16 },
}

impl ClientError {
    /// Whether the same call may succeed later without anybody changing anything.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused(refusal) => {
                matches!(
                    refusal.code,
                    RefusalCode::StorageFull | RefusalCode::Stopping | RefusalCode::Internal | RefusalCode::TooSlow
                )
            }
            Self::NotTheApi { status, .. } => *status >= 500,
            Self::Tls { .. } | Self::WrongCertificate { .. } => false,
        }
    }

    /// Whether the coordinator said that it will never take this message. Everything else somebody can mend: a token, a
    /// program that took the coordinator's port, a store that lost its files.
    pub fn is_final(&self) -> bool {
        use RefusalCode::{Malformed, NotFound, TooLarge, UnknownWorker, WrongVersion};
        matches!(self.code(), Some(UnknownWorker | NotFound | Malformed | TooLarge | WrongVersion))
    }

    /// The refusal's code, if the coordinator answered with one.
    pub fn code(&self) -> Option<RefusalCode> {
        match self {
            Self::Refused(refusal) => Some(refusal.code),
            _ => None,
        }
    }
}

/// A connection to one coordinator; cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    token: String,
    /// Where the coordinator was last known to be.
    place: Arc<RwLock<Place>>,
    /// The endpoint file that the address came from.
    file: Option<PathBuf>,
}

/// An address, and a client for the certificate that is pinned there.
#[derive(Debug, Clone)]
struct Place {
    url: String,
    fingerprint: Option<Digest>,
    http: reqwest::Client,
}

impl Place {
    fn new(url: &str, fingerprint: Option<Digest>) -> Result<Self, ClientError> {
        let url = url.trim_end_matches('/').to_owned();
        let failed = |source| ClientError::Tls { url: url.clone(), source };
        let builder = tls::client(fingerprint.clone()).map_err(|error| failed(error.into()))?;
        let builder = builder.connect_timeout(Duration::from_secs(5)).pool_idle_timeout(KEEP_ALIVE);
        let http = builder.build().map_err(|error| failed(error.into()))?;
        Ok(Self { url, fingerprint, http })
    }
}

impl Client {
    /// `url`: for example `http://login01:7311`. An `https` address needs the fingerprint of its certificate.
    pub fn new(url: &str, fingerprint: Option<Digest>, token: &str) -> Result<Self, ClientError> {
        let place = Arc::new(RwLock::new(Place::new(url, fingerprint)?));
        Ok(Self { token: token.to_owned(), place, file: None })
    }

    /// A client of the coordinator that wrote `endpoint` into `file`, wherever it goes.
    pub fn following(file: PathBuf, endpoint: &Endpoint) -> Result<Self, ClientError> {
        Ok(Self { file: Some(file), ..Self::new(&endpoint.url, endpoint.fingerprint.clone(), &endpoint.token)? })
    }

    /// Where the coordinator was last known to be.
    pub fn url(&self) -> String {
        self.place().url
    }

    fn place(&self) -> Place {
        self.place.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the coordinator knows its workers by.
    pub fn token(&self) -> &str {
        &self.token
    }

    pub async fn register(&self, body: &Register) -> Result<Registered, ClientError> {
        self.post("register", body, PATIENCE).await
    }

    pub async fn claim(&self, body: &Claim) -> Result<Claimed, ClientError> {
        self.post("claim", body, PATIENCE + Duration::from_millis(body.wait_ms)).await
    }

    pub async fn heartbeat(&self, body: &Heartbeat) -> Result<HeartbeatReply, ClientError> {
        self.post("heartbeat", body, Duration::from_secs(10)).await
    }

    /// The jobs that the worker still held and that are ready again.
    pub async fn release(&self, body: &Release) -> Result<Vec<JobId>, ClientError> {
        self.post("release", body, Duration::from_secs(5)).await
    }

    pub async fn result(&self, body: &Completed) -> Result<Closed, ClientError> {
        self.post("result", body, PATIENCE).await
    }

    pub async fn fail(&self, body: &Failed) -> Result<Closed, ClientError> {
        self.post("fail", body, PATIENCE).await
    }

    /// Uploads a file under its digest; uploading it twice does no harm.
    pub async fn upload(&self, digest: &Digest, bytes: Vec<u8>) -> Result<(), ClientError> {
        let request = |place: &Place| {
            let url = format!("{}/api/v1/artifacts/{digest}", place.url);
            place.http.put(url).timeout(FILE_PATIENCE).body(bytes.clone())
        };
        self.ask(request).await.map(drop)
    }

    /// A stored file.
    pub async fn download(&self, digest: &Digest) -> Result<Vec<u8>, ClientError> {
        let request =
            |place: &Place| place.http.get(format!("{}/api/v1/artifacts/{digest}", place.url)).timeout(FILE_PATIENCE);
        self.ask(request).await.map(|(_, _, file)| file)
    }

    async fn post<B: Serialize, R: DeserializeOwned>(
        &self,
        verb: &str,
        body: &B,
        patience: Duration,
    ) -> Result<R, ClientError> {
        let request =
            |place: &Place| place.http.post(format!("{}/api/v1/{verb}", place.url)).timeout(patience).json(body);
        let (url, status, text) = self.ask(request).await?;
        serde_json::from_slice(&text).map_err(|_| ClientError::NotTheApi { url, status })
    }

    /// Sends a request to where the coordinator is; if it is not there, once more to where it went.
    async fn ask(&self, request: impl Fn(&Place) -> reqwest::RequestBuilder) -> Result<Answer, ClientError> {
        let place = self.place();
        let error = match answer(&place.url, request(&place).bearer_auth(&self.token)).await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        match self.moved_from(&place, &error) {
            Some(place) => answer(&place.url, request(&place).bearer_auth(&self.token)).await,
            None => Err(error),
        }
    }

    /// Another address or certificate of the same coordinator, if `error` is a reason to look and the endpoint file has one.
    fn moved_from(&self, from: &Place, error: &ClientError) -> Option<Place> {
        let astray = match error {
            ClientError::Unreachable { .. } | ClientError::NotTheApi { .. } | ClientError::WrongCertificate { .. } => {
                true
            }
            ClientError::Refused(refusal) => matches!(refusal.code, RefusalCode::Unauthorized | RefusalCode::Forbidden),
            ClientError::Tls { .. } => false,
        };
        let file = self.file.as_ref().filter(|_| astray)?;
        // A coordinator that stopped has removed its file: then there is nobody to follow yet.
        let found = endpoint::read(file).ok()?;
        let place = Place::new(&found.url, found.fingerprint).ok()?;
        if found.token != self.token || (&place.url, &place.fingerprint) == (&from.url, &from.fingerprint) {
            return None;
        }
        tracing::info!(url = place.url, file = %file.display(), "the coordinator has moved");
        self.place.write().unwrap_or_else(PoisonError::into_inner).clone_from(&place);
        Some(place)
    }
}

/// Who answered, with which status, what.
type Answer = (String, u16, Vec<u8>);

async fn answer(base: &str, request: reqwest::RequestBuilder) -> Result<Answer, ClientError> {
    let unreachable = |error| {
        let url = base.to_owned();
        match tls::mismatch(&error) {
            Some(source) => ClientError::WrongCertificate { url, source },
            None => ClientError::Unreachable { url, source: error },
        }
    };
    let response = request.send().await.map_err(unreachable)?;
    let status = response.status();
    let text = response.bytes().await.map_err(unreachable)?.to_vec();
    if status.is_success() {
        return Ok((base.to_owned(), status.as_u16(), text));
    }
    Err(match serde_json::from_slice(&text) {
        Ok(refusal) => ClientError::Refused(refusal),
        Err(_) => ClientError::NotTheApi { url: base.to_owned(), status: status.as_u16() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: RefusalCode) -> ClientError {
        ClientError::Refused(Refusal { code, message: String::new() })
    }

    #[test]
    fn a_client_follows_the_coordinator_of_its_database_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("endpoint.json");
        let at = |url: &str, token: &str| Endpoint {
            url: url.to_owned(),
            fingerprint: None,
            token: token.to_owned(),
            pid: 1,
            host: "login01".to_owned(),
        };
        let client = Client::following(file.clone(), &at("http://login01:1", "ours")).unwrap();
        let astray = refused(RefusalCode::Unauthorized);
        let look = |endpoint: &Endpoint, error: &ClientError| {
            std::fs::write(&file, serde_json::to_vec(endpoint).unwrap()).unwrap();
            client.moved_from(&client.place(), error).map(|place| place.url)
        };
        assert!(client.moved_from(&client.place(), &astray).is_none(), "no file");
        assert_eq!(look(&at("http://login01:1", "ours"), &astray), None, "nothing new");
        assert_eq!(look(&at("http://login01:2", "theirs"), &astray), None, "another database");
        assert_eq!(
            look(&at("http://login01:2", "ours"), &refused(RefusalCode::StorageFull)),
            None,
            "found, but refused"
        );
        assert_eq!(look(&at("http://login01:2/", "ours"), &astray).as_deref(), Some("http://login01:2"));
        assert_eq!(client.clone().url(), "http://login01:2", "its copies know");
        let replaced = Endpoint { fingerprint: Some(Digest::from_bytes(&[7; 32])), ..at("http://login01:2", "ours") };
        assert!(look(&replaced, &astray).is_some(), "the same address, another certificate");
        assert_eq!(client.place().fingerprint, replaced.fingerprint);
        assert_eq!(look(&replaced, &astray), None, "nothing new");
    }

    #[test]
    fn a_result_is_given_up_only_when_the_coordinator_will_never_take_it() {
        use RefusalCode::*;
        let other = ClientError::NotTheApi { url: "http://login01:1".to_owned(), status: 404 };
        assert!(!other.is_final(), "another program has the port");
        for code in [Unauthorized, Forbidden, TooSlow, WrongDigest, MissingArtifact, StorageFull, Stopping, Internal] {
            assert!(!refused(code).is_final(), "{code:?}");
        }
        for code in [UnknownWorker, NotFound, Malformed, TooLarge, WrongVersion] {
            assert!(refused(code).is_final(), "{code:?}");
        }
    }
}
