//! How this machine's commands talk to a running coordinator.

use crate::queue::owner::Owner;
use protocol::endpoint::Endpoint;
use protocol::error::Refusal;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::PathBuf;
use std::time::Duration;

/// How long to try to reach the coordinator; its answer may take longer.
const CONNECT: Duration = Duration::from_secs(5);

/// Speaks to one coordinator with its token.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    endpoint: Endpoint,
}

/// A command did not reach the coordinator, or was refused.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(
        "reading the endpoint file {} of the coordinator that serves this database (process {pid} on {host}); \
         run the command as the user that started it",
        path.display()
    )]
    Endpoint {
        path: PathBuf,
        pid: u32,
        host: String,
        #[source]
        source: std::io::Error,
    },
    #[error("the endpoint file {} is not what a coordinator writes; restart `coordinator serve`", path.display())]
    Garbled {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("asking the coordinator at {url}, which serves this database; is it reachable from here?")]
    Unreachable {
        url: String,
        #[source]
        source: reqwest::Error,
    },
    #[error(
        "the program at {url} is not the coordinator that serves this database, or its certificate was replaced while it ran; \
         nothing was sent; restart `coordinator serve`"
    )]
    WrongCertificate {
        url: String,
        #[source]
        source: tls::Mismatch,
    },
    #[error("preparing to speak to the coordinator at {url}")]
    Tls {
        url: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("{}", .0.message)]
    Refused(Refusal),
    #[error(
        "the coordinator at {url} answered {status}, which this command does not understand; are both of one version?"
    )]
    Unintelligible { url: String, status: u16 },
}

impl Client {
    pub fn new(endpoint: Endpoint) -> Result<Self, ClientError> {
        let failed = |source| ClientError::Tls { url: endpoint.url.clone(), source };
        let builder = tls::client(endpoint.fingerprint.clone()).map_err(|error| failed(error.into()))?;
        let http = builder.connect_timeout(CONNECT).build().map_err(|error| failed(error.into()))?;
        Ok(Self { http, endpoint })
    }

    /// The coordinator that owns a database.
    pub fn of_owner(owner: &Owner) -> Result<Self, ClientError> {
        let path = PathBuf::from(&owner.endpoint);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(source) => {
                return Err(ClientError::Endpoint { path, pid: owner.pid, host: owner.host.clone(), source });
            }
        };
        match serde_json::from_str(&text) {
            Ok(endpoint) => Self::new(endpoint),
            Err(source) => Err(ClientError::Garbled { path, source }),
        }
    }

    /// Posts `body` to `/api/v1/{path}`.
    pub async fn post<B: Serialize + ?Sized, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        let url = format!("{}/api/v1/{path}", self.endpoint.url);
        let unreachable = |error| {
            let url = self.endpoint.url.clone();
            match tls::mismatch(&error) {
                Some(source) => ClientError::WrongCertificate { url, source },
                None => ClientError::Unreachable { url, source: error },
            }
        };
        let request = self.http.post(&url).bearer_auth(&self.endpoint.token).json(body);
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let bytes = response.bytes().await.map_err(unreachable)?;
        let unintelligible =
            |_| ClientError::Unintelligible { url: self.endpoint.url.clone(), status: status.as_u16() };
        if status.is_success() {
            serde_json::from_slice(&bytes).map_err(unintelligible)
        } else {
            Err(ClientError::Refused(serde_json::from_slice(&bytes).map_err(unintelligible)?))
        }
    }
}
