//! Model weights on disk: which file of a folder holds them, and where in it each tensor lies. Whoever checks a folder and whoever
//! loads a model read it through here, so that both accept the same files.
//!
//! A [`Checkpoint`] is safetensors or a PyTorch archive, whole or in shards, always memory-mapped; nothing in it is executed.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod archive;
mod backbone;
mod error;
mod files;
mod head;
mod mapped;
mod pickle;
mod safetensors_file;

pub use backbone::{Backbone, Layout};
pub use error::{Error, Problem};
pub use files::Names;
pub use head::Head;
pub use mapped::{Checkpoint, Tensor};
pub use pickle::PickleError;
pub use safetensors::Dtype;
