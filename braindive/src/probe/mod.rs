//! Zero-shot classification by an image-text model.

pub mod classify;
pub mod prompts;

pub use classify::{Classification, Probe};
pub use prompts::{PromptClass, paper_classes};
