//! Refusals: every error of the API as a status and a `protocol::error::Refusal`.

use super::body::BodyError;
use crate::artifacts::ArtifactError;
use crate::artifacts::gc::CollectError;
use crate::queue::QueueError;
use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use protocol::error::{Refusal, RefusalCode};

/// An answer that is not the one that was asked for.
#[derive(Debug)]
pub struct Refused {
    pub status: StatusCode,
    pub refusal: Refusal,
}

impl Refused {
    pub fn new(status: StatusCode, code: RefusalCode, message: impl Into<String>) -> Self {
        Self { status, refusal: Refusal { code, message: message.into() } }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        if self.status.is_server_error() && self.refusal.code != RefusalCode::Stopping {
            tracing::error!(status = self.status.as_u16(), "{}", self.refusal.message);
        }
        (self.status, Json(self.refusal)).into_response()
    }
}

impl From<QueueError> for Refused {
    fn from(error: QueueError) -> Self {
        use QueueError as E;
        let (status, code) = match &error {
            E::UnknownWorker(_) => (StatusCode::NOT_FOUND, RefusalCode::UnknownWorker),
            E::NoSuchJob(_)
            | E::NoSuchExperiment { .. }
            | E::NotQuarantined { .. }
            | E::NothingToNeed { .. }
            | E::NeverClaimed { .. } => (StatusCode::NOT_FOUND, RefusalCode::NotFound),
            E::MissingArtifact { .. } => (StatusCode::CONFLICT, RefusalCode::MissingArtifact),
            E::NonFinite { .. } | E::NoShare(_) => (StatusCode::UNPROCESSABLE_ENTITY, RefusalCode::Malformed),
            E::Stopping => (StatusCode::SERVICE_UNAVAILABLE, RefusalCode::Stopping),
            E::NotWritten | E::Corrupt { .. } | E::Database(_) => {
                (StatusCode::INTERNAL_SERVER_ERROR, RefusalCode::Internal)
            }
        };
        Self::new(status, code, chain(&error))
    }
}

impl From<CollectError> for Refused {
    fn from(error: CollectError) -> Self {
        match error {
            CollectError::Queue(error) => error.into(),
            _ => Self::new(StatusCode::INTERNAL_SERVER_ERROR, RefusalCode::Internal, chain(&error)),
        }
    }
}

impl From<ArtifactError> for Refused {
    fn from(error: ArtifactError) -> Self {
        let (status, code) = match &error {
            ArtifactError::StorageFull { .. } => (StatusCode::INSUFFICIENT_STORAGE, RefusalCode::StorageFull),
            ArtifactError::WrongDigest { .. } => (StatusCode::UNPROCESSABLE_ENTITY, RefusalCode::WrongDigest),
            ArtifactError::Io { .. } | ArtifactError::Open { .. } => {
                (StatusCode::INTERNAL_SERVER_ERROR, RefusalCode::Internal)
            }
        };
        Self::new(status, code, chain(&error))
    }
}

impl From<JsonRejection> for Refused {
    fn from(rejection: JsonRejection) -> Self {
        match BodyError::cause_of(&rejection) {
            Some(error) => error.into(),
            None => Self::new(rejection.status(), RefusalCode::Malformed, rejection.body_text()),
        }
    }
}

impl From<PathRejection> for Refused {
    fn from(rejection: PathRejection) -> Self {
        Self::new(StatusCode::BAD_REQUEST, RefusalCode::Malformed, rejection.body_text())
    }
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// A JSON body; what does not parse is refused in the API's own form.
#[derive(Debug, axum::extract::FromRequest)]
#[from_request(via(Json), rejection(Refused))]
pub struct Body<T>(pub T);

/// A part of the path.
#[derive(Debug, axum::extract::FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(Refused))]
pub struct Part<T>(pub T);
