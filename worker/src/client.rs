//! The coordinator's API as typed calls. A client that was given an endpoint file follows it: when the coordinator is not
//! found at its address any more, the file may say where it listens now. The token tells it from the coordinator of another
//! database, which knows nothing of this worker's jobs.

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
/// How long an upload may take.
const UPLOAD_PATIENCE: Duration = Duration::from_secs(300);

/// Why a call gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot reach the coordinator at {url}")]
    Unreachable { url: String, source: reqwest::Error },
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
                matches!(refusal.code, RefusalCode::StorageFull | RefusalCode::Stopping | RefusalCode::Internal)
            }
            Self::NotTheApi { status, .. } => *status >= 500,
        }
    }

    /// Whether the coordinator said that it will never take this message. Everything else somebody can mend: a token, a
    /// program that took the coordinator's port, a store that lost its files.
    pub fn is_final(&self) -> bool {
        use RefusalCode::{Malformed, NotFound, UnknownWorker, WrongVersion};
        matches!(self.code(), Some(UnknownWorker | NotFound | Malformed | WrongVersion))
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
    http: reqwest::Client,
    token: String,
    /// Where the coordinator was last known to be.
    base: Arc<RwLock<String>>,
    /// The endpoint file that the address came from.
    file: Option<PathBuf>,
}

impl Client {
    /// `url`: for example `http://login01:7311`.
    pub fn new(url: &str, token: &str) -> Result<Self, ClientError> {
        let base = trimmed(url);
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .no_proxy()
            .build()
            .map_err(|source| ClientError::Unreachable { url: base.clone(), source })?;
        Ok(Self { http, token: token.to_owned(), base: Arc::new(RwLock::new(base)), file: None })
    }

    /// A client of the coordinator that wrote `endpoint` into `file`, wherever it goes.
    pub fn following(file: PathBuf, endpoint: &Endpoint) -> Result<Self, ClientError> {
        Ok(Self { file: Some(file), ..Self::new(&endpoint.url, &endpoint.token)? })
    }

    /// Where the coordinator was last known to be.
    pub fn url(&self) -> String {
        self.base.read().unwrap_or_else(PoisonError::into_inner).clone()
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
        let request = |base: &str| {
            let url = format!("{base}/api/v1/artifacts/{digest}");
            self.http.put(url).timeout(UPLOAD_PATIENCE).body(bytes.clone())
        };
        self.ask(request).await.map(drop)
    }

    async fn post<B: Serialize, R: DeserializeOwned>(
        &self,
        verb: &str,
        body: &B,
        patience: Duration,
    ) -> Result<R, ClientError> {
        let request = |base: &str| self.http.post(format!("{base}/api/v1/{verb}")).timeout(patience).json(body);
        let (url, status, text) = self.ask(request).await?;
        serde_json::from_slice(&text).map_err(|_| ClientError::NotTheApi { url, status })
    }

    /// Sends a request to where the coordinator is; if it is not there, once more to where it went.
    async fn ask(&self, request: impl Fn(&str) -> reqwest::RequestBuilder) -> Result<Answer, ClientError> {
        let base = self.url();
        let error = match answer(&base, request(&base).bearer_auth(&self.token)).await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        match self.moved_from(&base, &error) {
            Some(base) => answer(&base, request(&base).bearer_auth(&self.token)).await,
            None => Err(error),
        }
    }

    /// Another address of the same coordinator, if `error` is a reason to look and the endpoint file has one.
    fn moved_from(&self, base: &str, error: &ClientError) -> Option<String> {
        let astray = match error {
            ClientError::Unreachable { .. } | ClientError::NotTheApi { .. } => true,
            ClientError::Refused(refusal) => refusal.code == RefusalCode::Unauthorized,
        };
        let file = self.file.as_ref().filter(|_| astray)?;
        // A coordinator that stopped has removed its file: then there is nobody to follow yet.
        let found = endpoint::read(file).ok()?;
        let url = trimmed(&found.url);
        if found.token != self.token || url == base {
            return None;
        }
        tracing::info!(url, file = %file.display(), "the coordinator has moved");
        self.base.write().unwrap_or_else(PoisonError::into_inner).clone_from(&url);
        Some(url)
    }
}

/// Who answered, with which status, what.
type Answer = (String, u16, Vec<u8>);

async fn answer(base: &str, request: reqwest::RequestBuilder) -> Result<Answer, ClientError> {
    let unreachable = |source| ClientError::Unreachable { url: base.to_owned(), source };
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

fn trimmed(url: &str) -> String {
    url.trim_end_matches('/').to_owned()
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
            token: token.to_owned(),
            pid: 1,
            host: "login01".to_owned(),
        };
        let client = Client::following(file.clone(), &at("http://login01:1", "ours")).unwrap();
        let astray = refused(RefusalCode::Unauthorized);
        let look = |endpoint: &Endpoint, error: &ClientError| {
            std::fs::write(&file, serde_json::to_vec(endpoint).unwrap()).unwrap();
            client.moved_from("http://login01:1", error)
        };
        assert_eq!(client.moved_from("http://login01:1", &astray), None, "no file");
        assert_eq!(look(&at("http://login01:1", "ours"), &astray), None, "nothing new");
        assert_eq!(look(&at("http://login01:2", "theirs"), &astray), None, "another database");
        assert_eq!(
            look(&at("http://login01:2", "ours"), &refused(RefusalCode::StorageFull)),
            None,
            "found, but refused"
        );
        assert_eq!(look(&at("http://login01:2/", "ours"), &astray).as_deref(), Some("http://login01:2"));
        assert_eq!(client.clone().url(), "http://login01:2", "its copies know");
    }

    #[test]
    fn a_result_is_given_up_only_when_the_coordinator_will_never_take_it() {
        use RefusalCode::*;
        let other = ClientError::NotTheApi { url: "http://login01:1".to_owned(), status: 404 };
        assert!(!other.is_final(), "another program has the port");
        for code in [Unauthorized, WrongDigest, MissingArtifact, StorageFull, Stopping, Internal] {
            assert!(!refused(code).is_final(), "{code:?}");
        }
        for code in [UnknownWorker, NotFound, Malformed, WrongVersion] {
            assert!(refused(code).is_final(), "{code:?}");
        }
    }
}
