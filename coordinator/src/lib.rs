//! The coordinator: expands experiment files into a job table, hands jobs to workers, shows what happens.
//!
//! A job's way through it: YAML text → [`spec`] → [`plan`] → [`queue::writer`] → row → [`api`] → worker → [`api`] →
//! [`queue::writer`] (fence) → [`artifacts`], counters → [`dashboard`], [`report`].

pub mod api;
pub mod artifacts;
pub mod cli;
pub mod dashboard;
pub mod plan;
pub mod queue;
pub mod report;
pub mod spec;
