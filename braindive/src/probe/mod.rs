//! Zero-shot classification by an image-text model.

pub mod classify;

pub use classify::{Classification, Probe, PromptClass};
