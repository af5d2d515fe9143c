//! `coordinator serve` as a process of its own: its start, processor time and memory are nobody else's.

use anyhow::Context;
use protocol::endpoint::Endpoint;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Instant;

/// A coordinator that answers.
pub struct Server {
    child: Child,
    /// Kept open: what it prints must have somewhere to go.
    _stdout: BufReader<ChildStdout>,
    pub endpoint: Endpoint,
    pub started: Instant,
}

impl Server {
    /// Serves `campaign.db` in `folder`; returns once it answers.
    pub fn start(folder: &Path) -> anyhow::Result<Self> {
        let started = Instant::now();
        let endpoint = folder.join("endpoint.json");
        let mut child = Command::new(env!("CARGO_BIN_EXE_coordinator"))
            .args(["serve", "--listen", "127.0.0.1:0", "--db"])
            .arg(folder.join("campaign.db"))
            .arg("--endpoint")
            .arg(&endpoint)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("starting the coordinator")?;
        let mut stdout = BufReader::new(child.stdout.take().context("its output is piped")?);
        let mut line = String::new();
        if stdout.read_line(&mut line)? == 0 {
            anyhow::bail!("the coordinator ended without serving: {}", child.wait()?);
        }
        let endpoint = serde_json::from_slice(&std::fs::read(endpoint)?)?;
        Ok(Self { child, _stdout: stdout, endpoint, started })
    }

    /// User and system time of all its threads so far.
    pub fn cpu_seconds(&self) -> anyhow::Result<f64> {
        cpu_seconds(&self.child.id().to_string())
    }

    /// Resident memory now.
    pub fn resident_mb(&self) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a line VmRSS")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib * 1024.0 / 1e6)
    }

    /// kill -9.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// User and system time of all threads of a process (`/proc/PID/stat`, fields 14 and 15, in hundredths of a second).
pub fn cpu_seconds(pid: &str) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit_once(") ").context("a process's name in brackets")?.1.split(' ').collect();
    let ticks = |field: usize| anyhow::Ok(fields.get(field - 3).context("processor time")?.parse::<f64>()?);
    Ok((ticks(14)? + ticks(15)?) / 100.0)
}
