//! The command line, one file a command.

pub mod demo;
pub mod job;
pub mod jobs;
pub mod status;
mod table;
pub mod workers;

use std::path::PathBuf;

/// Where the job table is.
#[derive(Debug, Clone, clap::Args)]
pub struct Database {
    /// The job table
    #[arg(long, value_name = "PATH", env = "BRAINDIVE_DB", default_value = "braindive.db")]
    pub db: PathBuf,
}
