//! A folder with a database, an endpoint file and an artifact store, and the commands on them.

use crate::disk::SmallDisk;
use crate::process::{Place, Process};
use crate::{read_json, wait_for};
use serde_json::Value;
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

/// A folder with a database, an endpoint file and an artifact store, and the commands on them.
#[derive(Debug)]
pub struct Campaign {
    folder: tempfile::TempDir,
    /// Where database and images are: this folder, or a disk of their own in it.
    data: PathBuf,
    disk: Option<SmallDisk>,
    /// Where the coordinator and its commands run.
    place: Place,
    pub store: PathBuf,
    coordinators: Cell<u32>,
    workers: Cell<u32>,
}

impl Campaign {
    pub fn new() -> Self {
        Self::laid_out(Place::Here, None)
    }

    /// The coordinator and its commands run in `place`; database and images lie on a disk of so many megabytes, if one can be
    /// mounted here.
    pub fn laid_out(place: Place, megabytes: Option<u32>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let data = folder.path().join("data");
        std::fs::create_dir(&data).expect("a folder can be made");
        let disk = megabytes.and_then(|megabytes| SmallDisk::mount(&data, megabytes));
        let store = data.join("artifacts");
        Self { folder, data, disk, place, store, coordinators: Cell::new(0), workers: Cell::new(0) }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn database(&self) -> PathBuf {
        self.data.join("campaign.db")
    }

    pub fn endpoint(&self) -> PathBuf {
        self.path("endpoint.json")
    }

    /// The disk of database and images, if they have one of their own.
    pub fn disk(&self) -> Option<&SmallDisk> {
        self.disk.as_ref()
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
        let number = self.coordinators.replace(self.coordinators.get() + 1);
        let mut command = self.place.command("coordinator");
        command.args(["serve", "--listen", listen]).args(flags);
        command.arg("--db").arg(self.database()).arg("--endpoint").arg(self.endpoint()).arg("--store").arg(&self.store);
        let mut process = Process::start(&mut command, self.path(&format!("coordinator-{number}.log")));
        wait_for("the coordinator's endpoint file", || {
            assert!(process.is_running(), "the coordinator ended:\n{}", process.log());
            (self.endpoint().exists() && read_json(&self.endpoint())["pid"] == process.id()).then_some(())
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
        let token = self.database().with_extension("db.viewer-token");
        let token = std::fs::read_to_string(token).expect("the viewer's token");
        format!("{}/?token={}", self.url(), token.trim())
    }

    /// Starts a worker.
    pub fn worker(&self, name: &str) -> Process {
        self.worker_with(name, &[])
    }

    /// Starts a worker with more flags.
    pub fn worker_with(&self, name: &str, flags: &[&str]) -> Process {
        self.worker_in(&Place::Here, &self.endpoint(), name, flags)
    }

    /// Starts a worker somewhere, with an endpoint file of its own.
    pub fn worker_in(&self, place: &Place, endpoint: &Path, name: &str, flags: &[&str]) -> Process {
        let number = self.workers.replace(self.workers.get() + 1);
        let mut command = place.command("worker");
        command.arg("--endpoint").arg(endpoint).arg("--spool").arg(self.spool());
        command.args(["--device", "cpu", "--name", name]).args(flags);
        Process::start(&mut command, self.path(&format!("worker-{number}.log")))
    }

    /// The logs of all workers so far.
    pub fn worker_logs(&self) -> Vec<String> {
        let log = |number| std::fs::read_to_string(self.path(&format!("worker-{number}.log"))).expect("a worker's log");
        (0..self.workers.get()).map(log).collect()
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
        self.place
            .command("coordinator")
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
