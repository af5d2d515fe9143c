//! The networks, with the published key names.

pub mod tokenizer;
