//! The networks, with the published key names.

pub mod clip_text;
pub mod text;
mod text_transformer;
pub mod tokenizer;
