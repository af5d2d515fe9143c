//! What can be wrong with a file of the dataset.

use std::path::PathBuf;

/// Says which file, what was found there and what was expected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NsdError {
    #[error("reading {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },

    #[error("writing {}: {source}", path.display())]
    Write { path: PathBuf, source: std::io::Error },

    #[error("{} is missing: {purpose}", path.display())]
    Missing { path: PathBuf, purpose: String },

    #[error("{}: {what} is {found}, expected {expected}", path.display())]
    Unexpected { path: PathBuf, what: String, found: String, expected: String },

    #[error("{setting} is {found}, expected {expected}")]
    Setting { setting: &'static str, found: String, expected: String },

    #[error("`{0}` is no subject; NSD's are subj01 to subj08, or 1 to 8")]
    NoSubject(String),

    /// Everything that was found wrong before anything was computed.
    #[error("the data cannot be prepared:{}", .0.iter().map(|problem| format!("\n  {problem}")).collect::<String>())]
    Unready(Vec<NsdError>),

    #[error("prepare was stopped; the next try goes on where it ended")]
    Stopped,
}
