//! A subject's data: the Natural Scenes Dataset's files and those of others ([`nsd`]), volumes of the brain, images, and what is prepared
//! of them for fitting ([`dataset`]).
//!
//! No network and no tensors: everything here is a function of files and numbers.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod dataset;
mod error;
pub mod folder;
pub mod image;
pub mod nsd;
pub mod random;
mod tensors;
pub mod volume;

pub use error::{Error, Result};
pub use tensors::{Named, write_tensors};
