//! Why the job table could not be opened, or did not do what it was asked.

use protocol::ids::{Digest, Fence, JobId, WorkerId};
use std::path::PathBuf;
use std::sync::Arc;

/// The database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("creating the folder of the database, {}", path.display())]
    Folder {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("there is no database at {}; submit an experiment or start `coordinator serve`, or name another file with --db", path.display())]
    Missing { path: PathBuf },
    #[error("opening the database {}{}", path.display(), advice(source))]
    Database {
        path: PathBuf,
        #[source]
        source: sqlx::Error,
    },
    #[error("bringing the schema of {} up to date; if a newer version wrote the file, use that version", path.display())]
    Migrate {
        path: PathBuf,
        #[source]
        source: sqlx::migrate::MigrateError,
    },
    #[error(
        "{} lies on a network file system ({kind}), where SQLite's locks and shared memory do not work and the job table can be \
         destroyed; put the database on a local disk of the machine that runs the coordinator (workers reach it over HTTP)",
        path.display()
    )]
    NetworkFileSystem { path: PathBuf, kind: &'static str },
    #[error("locking {}; run this as the user that serves the database", path.display())]
    Lock {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("another coordinator is just starting or stopping on {}; try again in a moment", path.display())]
    Changing { path: PathBuf },
    #[error(
        "a coordinator already serves this database: process {pid} on {host}, {url}, since {since}; \
         stop it first, or use it as it is"
    )]
    Owned { host: String, pid: u32, url: String, since: String },
}

/// A request to the job table failed. Nothing of it was written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum QueueError {
    #[error("worker {0} is not registered here; register again")]
    UnknownWorker(WorkerId),
    #[error("there is no job {0}")]
    NoSuchJob(JobId),
    #[error("there is no experiment `{name}`{}", hint(.nearest))]
    NoSuchExperiment { name: String, nearest: Option<String> },
    #[error("no device `{key}` is quarantined; {}", quarantined(.known))]
    NotQuarantined { key: String, known: Vec<String> },
    #[error("the share of an experiment must be above 0, found {0}")]
    NoShare(f64),
    #[error("nothing in experiment `{needs}`, which this one needs, matches subject `{subject}`, region `{region}`")]
    NothingToNeed { needs: String, subject: String, region: String },
    #[error("job {job} was never given to worker {worker} under fence {fence}")]
    NeverClaimed { job: JobId, fence: Fence, worker: WorkerId },
    #[error("the result of job {job} names image {digest}, which is not in the store; upload it first")]
    MissingArtifact { job: JobId, digest: Digest },
    #[error(
        "the result of job {job} has a value of `{field}` that is not a finite number: report it as failed with class non_finite"
    )]
    NonFinite { job: JobId, field: &'static str },
    #[error("the coordinator is stopping")]
    Stopping,
    #[error("another write failed before this one's turn; nothing was written, try again")]
    NotWritten,
    #[error("reading what the database holds of {what}: {problem}")]
    Corrupt { what: String, problem: String },
    #[error("writing to the job table")]
    Database(#[source] Arc<sqlx::Error>),
}

impl From<sqlx::Error> for QueueError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(Arc::new(error))
    }
}

/// What to do about the failures to open a database that people meet.
pub(super) fn advice(error: &sqlx::Error) -> &'static str {
    let code = error.as_database_error().and_then(|error| error.code());
    match code.as_deref() {
        // SQLITE_READONLY, SQLITE_CANTOPEN and their extended codes.
        Some("8" | "14" | "264" | "520" | "776" | "1032" | "1288" | "1544") => {
            "; the file and its folder must be writable for this user, because SQLite keeps its log beside the file"
        }
        Some("26") => "; it is not a database, name another file with --db",
        _ => "",
    }
}

fn quarantined(known: &[String]) -> String {
    match known {
        [] => "none is".to_owned(),
        known => format!("these are: {}", known.join(", ")),
    }
}

fn hint(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}
