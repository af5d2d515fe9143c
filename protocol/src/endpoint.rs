//! The endpoint file: how workers and the command line find a coordinator.

use serde::{Deserialize, Serialize};

/// Where the endpoint file lies in a user's home directory, unless a flag names another place.
pub const IN_HOME: &str = ".braindive/endpoint.json";

/// Written by `coordinator serve` with mode 0600, read by workers on a shared home directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// For example `http://login01:7311`.
    pub url: String,
    /// Bearer token of the worker role.
    pub token: String,
    /// Process that serves, for messages.
    pub pid: u32,
    pub host: String,
}
