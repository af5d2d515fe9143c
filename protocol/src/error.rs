//! The body of every refusal.

use serde::{Deserialize, Serialize};

/// What went wrong, in a form that a program can branch on and a person can read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub code: RefusalCode,
    /// What was being done, what was found, what to do.
    pub message: String,
}

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// The token is missing or wrong.
    Unauthorized,
    /// The token is right, but does not open this; or the connection is not encrypted and comes from another host.
    Forbidden,
    /// The worker speaks another version of the API.
    WrongVersion,
    /// The worker is not registered here (any more): register again.
    UnknownWorker,
    /// There is no such job, or artifact, or experiment.
    NotFound,
    /// The body is not what it should be, or broke off.
    Malformed,
    /// The body is larger than this request may carry.
    TooLarge,
    /// The body stalled on its way: send it again.
    TooSlow,
    /// The uploaded bytes do not have the digest that names them.
    WrongDigest,
    /// A result names an image that was never uploaded.
    MissingArtifact,
    /// No room left in the artifact store: try again later, nothing was stored.
    StorageFull,
    /// The coordinator is stopping: try again later.
    Stopping,
    /// The coordinator failed; the message is for its log.
    Internal,
}
