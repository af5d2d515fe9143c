//! The worker: claims jobs from the coordinator, runs them on one device, writes results back.
//!
//! [`agent`] is the only part that talks to the coordinator; [`tasks`] turns a job into a result and knows no network.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod agent;
mod bench;
mod bytes;
mod card;
mod chain;
pub mod cli;
pub mod client;
pub mod control;
pub mod device;
pub mod endpoint;
pub mod tasks;
