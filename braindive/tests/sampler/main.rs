//! The guided sampler against traces of the PyTorch reference (`tests/reference/README.md`).
#![allow(clippy::unwrap_used)]

mod batches;
mod case;
mod double_precision;
mod free_run;
mod refusals;
mod request;
mod teacher_forced;
mod transposed;
