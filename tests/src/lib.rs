//! A coordinator and workers as real processes, for tests that keep promises across processes.
//!
//! Tests wait for what they need to see (a file, a row, an exit), never for a length of time; [`wait_for`] only bounds how
//! long a broken promise may hang a test.

pub mod campaign;
pub mod disk;
pub mod network;
pub mod process;
pub mod python;
pub mod table;

pub use campaign::Campaign;
pub use process::{Place, Process, binary};

use serde_json::Value;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long a test waits for something that should happen.
const PATIENCE: Duration = Duration::from_secs(120);

/// The repository's root.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the repository is where it was built")
}

/// An experiment file on the models in `bundle`: what is common to all, then `sections` (grid, sampling, …).
pub fn experiment(name: &str, bundle: &Path, sections: &str) -> String {
    let bundle = bundle.display();
    format!(
        "name: {name}\ndescription: a small grid\nkind: sample\n\
         models:\n  diffusion: {bundle}/sd\n  backbone: {bundle}/clip\n  encoder: {bundle}/encoder\n  probe: {bundle}/coca\n\
         {sections}"
    )
}

/// An experiment file of simulated jobs of one condition, each `seconds` long: then `sections`, for example `retries: 5`.
pub fn simulation(name: &str, seconds: f64, jobs: i64, sections: &str) -> String {
    format!(
        "name: {name}\ndescription: jobs that take time\nkind: simulate\nsimulate: {{ seconds: {seconds} }}\n\
         grid:\n  subject: sim01\n  region: A\n  seed: {{ start: 0, count: {jobs} }}\n{sections}"
    )
}

/// The folder of the miniature's models.
pub fn miniature() -> PathBuf {
    repository().join("miniature/bundle")
}

/// Waits until `look` gives something.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Runs a command of the worker to its end.
pub fn run_worker<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Output {
    Command::new(binary("worker")).args(arguments).stdin(Stdio::null()).output().expect("the worker starts")
}

/// Reads a JSON file.
pub fn read_json(path: &Path) -> Value {
    let text = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Copies a folder with everything in it.
pub fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
