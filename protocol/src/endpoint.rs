//! The endpoint file: how workers and the command line find a coordinator.

use crate::ids::Digest;
use serde::{Deserialize, Serialize};

/// Where the endpoint file lies in a user's home directory, unless a flag names another place.
pub const IN_HOME: &str = ".braindive/endpoint.json";

/// Written by `coordinator serve` with mode 0600, read by workers on a shared home directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// For example `https://login01:7311`; plain `http` if the coordinator serves its own host only.
    pub url: String,
    /// The sha256 of the coordinator's certificate (DER): at an `https` address no other is spoken to.
    #[serde(default)]
    pub fingerprint: Option<Digest>,
    /// Bearer token of the worker role.
    pub token: String,
    /// Process that serves, for messages.
    pub pid: u32,
    pub host: String,
}
