//! The job table: state machine, policy, the one writer, read-only views.
//!
//! [`state`] and [`policy`] decide, `store` writes what they decided, [`writer`] lets one task do all the writing and
//! answers after the commit. [`access`] is the way in for commands that may meet a running coordinator.

pub mod access;
mod awake;
pub mod check;
pub mod clock;
mod error;
pub mod filter;
pub mod owner;
pub mod pace;
pub mod policy;
pub mod request;
pub mod share;
pub mod state;
mod store;
pub mod view;
pub mod writer;

pub use clock::Clock;
pub use error::{OpenError, QueueError};
pub use filter::Filter;
pub use writer::{Queue, Settings};

use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection};
use std::path::Path;
use std::time::Duration;

static MIGRATIONS: Migrator = sqlx::migrate!("../migrations");

/// Opens the database at `path` for writing; creates it and brings its schema up to date. Network file systems are refused.
pub async fn open_database(path: &Path) -> Result<SqliteConnection, OpenError> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(folder).map_err(|source| OpenError::Folder { path: folder.to_owned(), source })?;
    owner::refuse_network_file_system(folder)?;
    let options = options(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("cache_size", "-65536")
        .pragma("temp_store", "memory");
    let open = |source| OpenError::Database { path: path.to_owned(), source };
    let mut connection = options.connect().await.map_err(open)?;
    let migrated = MIGRATIONS.run(&mut connection).await;
    if let Err(source) = migrated {
        let _ = connection.close().await;
        return Err(OpenError::Migrate { path: path.to_owned(), source });
    }
    Ok(connection)
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new().filename(path).busy_timeout(Duration::from_secs(10)).foreign_keys(true)
}
