//! Everything that people ask of the job table: read-only SQL and typed rows. Every query is by index or O(conditions),
//! never a scan of the jobs.

mod condition;
mod explain;
mod failure;
mod image;
mod job;
pub mod moment;
mod worker;

pub use condition::{Axes, Condition, Counts, Experiment, GpuSeconds, Science, Score};
pub use failure::FailureGroup;
pub use image::Image;
pub use job::{Attempt, Job, JobDetail, JobPage};
pub use worker::{DeviceTime, Running, WORKER_HISTORY, Worker};

pub use super::state::State;

use super::error::advice;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sqlx::{Sqlite, SqlitePool, Transaction};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Why the job table could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    #[error(
        "there is no database `{}`: name another with --db or BRAINDIVE_DB, or make it with `coordinator serve` or \
         `coordinator submit FILE`",
        .0.display()
    )]
    NoDatabase(PathBuf),
    #[error("opening the database `{}` for reading{}", path.display(), advice(source))]
    Open { path: PathBuf, source: sqlx::Error },
    #[error("reading {what} from the job table")]
    Read { what: &'static str, source: sqlx::Error },
}

/// Pages and commands that read at the same time; SQLite's readers do not wait for its writer.
const READERS: u32 = 4;

/// A read-only pool on an existing database file; works while a coordinator serves it.
pub async fn open(path: &Path) -> Result<SqlitePool, ViewError> {
    if !path.is_file() {
        return Err(ViewError::NoDatabase(path.to_owned()));
    }
    let options = SqliteConnectOptions::new().filename(path).read_only(true);
    let failed = |source| ViewError::Open { path: path.to_owned(), source };
    let pool = SqlitePoolOptions::new().max_connections(READERS).connect_with(options).await.map_err(failed)?;
    // SQLite looks into the file at the first question.
    sqlx::query("SELECT 1 FROM sqlite_master").execute(&pool).await.map_err(failed)?;
    Ok(pool)
}

/// One moment of the job table: everything asked of it agrees with everything else.
#[derive(Debug)]
pub struct Snapshot {
    pub(super) tx: Transaction<'static, Sqlite>,
    now: i64,
}

impl Snapshot {
    /// The table as it is now.
    pub async fn take(reader: &SqlitePool) -> Result<Self, ViewError> {
        Self::at(reader, moment::now()).await
    }

    /// The table as it is, with `now` (milliseconds since 1970) as the time from which ages are counted.
    pub async fn at(reader: &SqlitePool, now: i64) -> Result<Self, ViewError> {
        let tx = reader.begin().await.map_err(reading("a snapshot"))?;
        Ok(Self { tx, now })
    }

    /// Milliseconds since 1970 at which the snapshot was taken.
    pub fn now(&self) -> i64 {
        self.now
    }
}

pub(super) fn reading(what: &'static str) -> impl FnOnce(sqlx::Error) -> ViewError {
    move |source| ViewError::Read { what, source }
}

/// Turns a text column into the type that it names.
fn parse<T: FromStr>(column: &'static str, text: &str) -> Result<T, sqlx::Error>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    text.parse().map_err(|source: T::Err| undecodable(column, source))
}

fn undecodable(column: &str, source: impl std::error::Error + Send + Sync + 'static) -> sqlx::Error {
    sqlx::Error::ColumnDecode { index: column.to_owned(), source: Box::new(source) }
}
