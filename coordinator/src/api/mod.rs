//! The worker API and what the command line asks of a running coordinator.
