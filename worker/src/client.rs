//! The coordinator's API as typed calls.

use protocol::claim::{Claim, Claimed, Register, Registered};
use protocol::error::{Refusal, RefusalCode};
use protocol::heartbeat::{Heartbeat, HeartbeatReply, Release};
use protocol::ids::Digest;
use protocol::outcome::{Closed, Completed, Failed};
use serde::{Serialize, de::DeserializeOwned};
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
    base: String,
    token: String,
}

impl Client {
    /// `url`: for example `http://login01:7311`.
    pub fn new(url: &str, token: &str) -> Result<Self, ClientError> {
        let base = url.trim_end_matches('/').to_owned();
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .no_proxy()
            .build()
            .map_err(|source| ClientError::Unreachable { url: base.clone(), source })?;
        Ok(Self { http, base, token: token.to_owned() })
    }

    pub fn url(&self) -> &str {
        &self.base
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

    pub async fn release(&self, body: &Release) -> Result<(), ClientError> {
        self.post::<_, serde_json::Value>("release", body, Duration::from_secs(5)).await.map(drop)
    }

    pub async fn result(&self, body: &Completed) -> Result<Closed, ClientError> {
        self.post("result", body, PATIENCE).await
    }

    pub async fn fail(&self, body: &Failed) -> Result<Closed, ClientError> {
        self.post("fail", body, PATIENCE).await
    }

    /// Uploads a file under its digest; uploading it twice does no harm.
    pub async fn upload(&self, digest: &Digest, bytes: Vec<u8>) -> Result<(), ClientError> {
        let url = format!("{}/api/v1/artifacts/{digest}", self.base);
        let request = self.http.put(&url).bearer_auth(&self.token).timeout(UPLOAD_PATIENCE).body(bytes);
        self.answer(request).await.map(drop)
    }

    async fn post<B: Serialize, R: DeserializeOwned>(
        &self,
        verb: &str,
        body: &B,
        patience: Duration,
    ) -> Result<R, ClientError> {
        let url = format!("{}/api/v1/{verb}", self.base);
        let response = self.answer(self.http.post(&url).bearer_auth(&self.token).timeout(patience).json(body)).await?;
        let status = response.status().as_u16();
        let text = response.bytes().await.map_err(|source| self.unreachable(source))?;
        serde_json::from_slice(&text).map_err(|_| ClientError::NotTheApi { url: self.base.clone(), status })
    }

    async fn answer(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response, ClientError> {
        let response = request.send().await.map_err(|source| self.unreachable(source))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = response.bytes().await.map_err(|source| self.unreachable(source))?;
        Err(match serde_json::from_slice::<Refusal>(&text) {
            Ok(refusal) => ClientError::Refused(refusal),
            Err(_) => ClientError::NotTheApi { url: self.base.clone(), status: status.as_u16() },
        })
    }

    fn unreachable(&self, source: reqwest::Error) -> ClientError {
        ClientError::Unreachable { url: self.base.clone(), source }
    }
}
