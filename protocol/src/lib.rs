//! What coordinator and worker say to each other: serde types and typed ids. No I/O, no logic.
//!
//! A job's way through it: the coordinator hands out a [`claim::ClaimedJob`] under a [`ids::Fence`], the worker renews its
//! lease with [`heartbeat::Heartbeat`], and closes the attempt with a [`outcome::Completed`] or a [`outcome::Failed`].

pub mod claim;
pub mod endpoint;
pub mod error;
pub mod heartbeat;
pub mod ids;
pub mod job;
pub mod names;
pub mod outcome;
pub mod probe;
pub mod version;
