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
pub use explain::{Surroundings, explain};
pub use failure::FailureGroup;
pub use image::Image;
pub use job::{Attempt, Job, JobDetail, JobFilter};
pub use worker::{Running, Worker};

use serde::Serialize;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sqlx::{Sqlite, SqlitePool, Transaction};
use std::fmt;
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
    #[error("opening the database `{}` for reading", path.display())]
    Open { path: PathBuf, source: sqlx::Error },
    #[error("reading {what} from the job table")]
    Read { what: &'static str, source: sqlx::Error },
}

/// A job's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Blocked,
    Ready,
    Running,
    Done,
    Failed,
    Cancelled,
}

impl State {
    pub const ALL: [State; 6] = [Self::Blocked, Self::Ready, Self::Running, Self::Done, Self::Failed, Self::Cancelled];

    /// The name used in the database and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Blocked => "blocked",
            Self::Ready => "ready",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A text that names no job state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a job state")]
pub struct UnknownState(String);

impl FromStr for State {
    type Err = UnknownState;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| UnknownState(text.to_owned()))
    }
}

/// A read-only pool on an existing database file; works while a coordinator serves it.
pub async fn open(path: &Path) -> Result<SqlitePool, ViewError> {
    if !path.is_file() {
        return Err(ViewError::NoDatabase(path.to_owned()));
    }
    let options = SqliteConnectOptions::new().filename(path).read_only(true);
    SqlitePoolOptions::new()
        .max_connections(4)
        .connect_with(options)
        .await
        .map_err(|source| ViewError::Open { path: path.to_owned(), source })
}

/// One moment of the job table: everything asked of it agrees with everything else.
#[derive(Debug)]
pub struct Snapshot {
    tx: Transaction<'static, Sqlite>,
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

fn reading(what: &'static str) -> impl FnOnce(sqlx::Error) -> ViewError {
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
