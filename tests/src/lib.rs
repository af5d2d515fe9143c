//! A coordinator and workers as real processes, for tests that keep promises across processes.
//!
//! Tests wait for what they need to see (a file, a row, an exit), never for a length of time; [`wait_for`] only bounds how
//! long a broken promise may hang a test.

pub mod table;

use serde_json::Value;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long a test waits for something that should happen.
const PATIENCE: Duration = Duration::from_secs(120);

/// The path of a binary of this workspace, as `cargo build --workspace --bins` leaves it beside the test.
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let profile = test.ancestors().nth(2).expect("target/<profile>/deps/<test>");
    let path = profile.join(name);
    assert!(path.exists(), "{} is not built: run `cargo build --workspace --bins` (or ./check)", path.display());
    path
}

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

/// A process that is killed when the test ends.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    fn start(command: &mut Command, log: PathBuf) -> Self {
        let file = std::fs::File::create(&log).expect("the log file can be made");
        let stderr = file.try_clone().expect("the log file can be shared");
        let child = command.stdin(Stdio::null()).stdout(file).stderr(stderr).spawn().expect("the binary starts");
        Self { child, log }
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it can be waited for");
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.child.id() as i32).expect("a process has a number");
        rustix::process::kill_process(pid, signal).expect("it can be signalled");
    }

    /// Waits for its end and returns the exit code.
    pub fn wait(&mut self) -> i32 {
        let child = &mut self.child;
        let status = wait_for("a process to end", || child.try_wait().expect("it can be waited for"));
        status.code().unwrap_or(-1)
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("it can be waited for").is_none()
    }

    /// What it has printed so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).expect("the log can be read")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.child.kill().is_ok() {
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("---- {}\n{}", self.log.display(), self.log());
        }
    }
}

/// A folder with a database, an endpoint file and an artifact store, and the commands on them.
#[derive(Debug)]
pub struct Campaign {
    folder: tempfile::TempDir,
    pub store: PathBuf,
    workers: std::cell::Cell<u32>,
}

impl Campaign {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let store = folder.path().join("artifacts");
        Self { folder, store, workers: std::cell::Cell::new(0) }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn database(&self) -> PathBuf {
        self.path("campaign.db")
    }

    pub fn endpoint(&self) -> PathBuf {
        self.path("endpoint.json")
    }

    /// Where the workers keep what is not delivered.
    pub fn spool(&self) -> PathBuf {
        self.path("spool")
    }

    /// How many results and failures lie there, those that were refused left out.
    pub fn spooled(&self) -> usize {
        let list = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let folders = list(&self.spool()).filter(|folder| !folder.ends_with("rejected"));
        folders
            .flat_map(|folder| list(&folder).collect::<Vec<_>>())
            .filter(|path| path.extension() == Some("json".as_ref()))
            .count()
    }

    /// Writes a file into the folder.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).expect("a file can be written");
        path
    }

    /// Starts `coordinator serve` on a free port and waits until it answers.
    pub fn serve(&self, flags: &[&str]) -> Process {
        self.serve_on("127.0.0.1:0", flags)
    }

    /// Starts `coordinator serve` on an address and waits until it answers.
    pub fn serve_on(&self, listen: &str, flags: &[&str]) -> Process {
        let mut command = Command::new(binary("coordinator"));
        command.args(["serve", "--listen", listen]).args(flags);
        command.arg("--db").arg(self.database()).arg("--endpoint").arg(self.endpoint()).arg("--store").arg(&self.store);
        let mut process = Process::start(&mut command, self.path("coordinator.log"));
        let pid = u64::from(process.child.id());
        wait_for("the coordinator's endpoint file", || {
            assert!(process.is_running(), "the coordinator ended:\n{}", process.log());
            (self.endpoint().exists() && read_json(&self.endpoint())["pid"] == pid).then_some(())
        });
        process
    }

    /// Address of the running coordinator.
    pub fn url(&self) -> String {
        let endpoint: Value = read_json(&self.endpoint());
        endpoint["url"].as_str().expect("the endpoint file holds an address").to_owned()
    }

    /// The address that lets a browser in.
    pub fn dashboard(&self) -> String {
        let token = std::fs::read_to_string(self.path("campaign.db.viewer-token")).expect("the viewer's token");
        format!("{}/?token={}", self.url(), token.trim())
    }

    /// Starts a worker.
    pub fn worker(&self, name: &str) -> Process {
        self.worker_with(name, &[])
    }

    /// Starts a worker with more flags.
    pub fn worker_with(&self, name: &str, flags: &[&str]) -> Process {
        let number = self.workers.get();
        self.workers.set(number + 1);
        let mut command = Command::new(binary("worker"));
        command.arg("--endpoint").arg(self.endpoint()).arg("--spool").arg(self.spool());
        command.args(["--device", "cpu", "--name", name]).args(flags);
        Process::start(&mut command, self.path(&format!("worker-{number}.log")))
    }

    /// Submits an experiment's text.
    pub fn submit(&self, text: &str) {
        let file = self.write("experiment.yaml", text);
        let output = self.run(&["submit", file.to_str().expect("a readable path")]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Every stored image, sorted.
    pub fn images(&self) -> Vec<Vec<u8>> {
        let mut images = Vec::new();
        let mut folders = vec![self.store.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("the store can be read") {
                let path = entry.expect("the store can be listed").path();
                if path.is_dir() {
                    folders.push(path)
                } else {
                    images.push(std::fs::read(path).expect("an image can be read"))
                }
            }
        }
        images.sort();
        images
    }

    /// Runs a command of the coordinator on this database to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        Command::new(binary("coordinator"))
            .args(arguments)
            .arg("--db")
            .arg(self.database())
            .stdin(Stdio::null())
            .output()
            .expect("the binary starts")
    }

    /// Runs a command with `--json` and reads what it prints.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--json"]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| {
            panic!("{arguments:?} printed no JSON ({e}): {}", String::from_utf8_lossy(&output.stdout))
        })
    }
}

impl Default for Campaign {
    fn default() -> Self {
        Self::new()
    }
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
