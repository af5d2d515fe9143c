//! Zero-shot classification by an image-text model.

pub mod prompts;
