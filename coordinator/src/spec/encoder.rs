//! A subject's encoder as regions are resolved against: one that lies there, or one that a needed experiment makes.

use super::bundle::Head;
use protocol::job::MadeFolder;
use std::sync::Arc;

/// A subject's encoder.
#[derive(Debug, Clone)]
pub enum Encoder {
    Here(Arc<Head>),
    /// Nothing in it can be looked at yet: workers do.
    ToMake(MadeFolder),
}

impl Encoder {
    /// The head, if it is there to be looked at.
    pub fn head(&self) -> Option<&Head> {
        match self {
            Self::Here(head) => Some(head),
            Self::ToMake(_) => None,
        }
    }
}
