//! Where the demo finds its experiment and its worker, and where it writes.

use std::path::{Path, PathBuf};

const EXPERIMENT: &str = "experiments/miniature.yaml";
/// Name of the database in the demo's folder.
pub const DATABASE: &str = "braindive.db";

/// Why a demo cannot start.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    #[error(
        "looking for {EXPERIMENT} from `{}` and from this program upward: not found; run the demo in the repository, or name a \
         file with --experiment",
        .0.display()
    )]
    NoExperiment(PathBuf),
    #[error("there is no experiment file `{}`", .0.display())]
    NamedExperiment(PathBuf),
    #[error(
        "the worker's program is expected at `{}`, but is not there: build it too, with the same profile (`cargo build -p worker`)",
        .0.display()
    )]
    NoWorker(PathBuf),
    #[error(
        "`{}` already holds a demo: look at it with `coordinator serve --db {}`, or choose another folder with --dir",
        folder.display(),
        database.display()
    )]
    Taken { folder: PathBuf, database: PathBuf },
    #[error("making the demo's folder `{}`", path.display())]
    Folder { path: PathBuf, source: std::io::Error },
    #[error("asking the system for this program's own path and folder")]
    Own(#[source] std::io::Error),
}

/// The named file, or the miniature's, looked for from the current folder and from this program upward.
pub fn experiment(named: Option<PathBuf>) -> Result<PathBuf, PlaceError> {
    if let Some(path) = named {
        return if path.is_file() { Ok(path) } else { Err(PlaceError::NamedExperiment(path)) };
    }
    let here = std::env::current_dir().map_err(PlaceError::Own)?;
    let program = std::env::current_exe().map_err(PlaceError::Own)?;
    let upward = |start: &Path| start.ancestors().map(|folder| folder.join(EXPERIMENT)).find(|path| path.is_file());
    upward(&here).or_else(|| upward(&program)).ok_or(PlaceError::NoExperiment(here))
}

/// The named program, or the one called `worker` beside this one.
pub fn worker(named: Option<PathBuf>) -> Result<PathBuf, PlaceError> {
    let path = match named {
        Some(path) => path,
        None => std::env::current_exe().map_err(PlaceError::Own)?.with_file_name("worker"),
    };
    if path.is_file() { Ok(path) } else { Err(PlaceError::NoWorker(path)) }
}

/// The named folder, made if need be and without a demo in it, or a new temporary one that stays.
pub fn folder(named: Option<PathBuf>) -> Result<PathBuf, PlaceError> {
    let Some(path) = named else {
        return tempfile::Builder::new()
            .prefix("braindive-demo-")
            .tempdir()
            .map(tempfile::TempDir::keep)
            .map_err(|source| PlaceError::Folder { path: std::env::temp_dir(), source });
    };
    let database = path.join(DATABASE);
    if database.exists() {
        return Err(PlaceError::Taken { folder: path, database });
    }
    let made = std::fs::create_dir_all(&path).and_then(|()| std::fs::canonicalize(&path));
    made.map_err(|source| PlaceError::Folder { path, source })
}
