//! The job table: state machine, policy, the one writer, read-only views.
pub mod view;
