//! The demo's worker processes: started together, watched, stopped together.

use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long a worker may take to give its jobs back and exit.
const GRACE: Duration = Duration::from_secs(20);
/// How much of a worker's log an error shows, lines.
const TAIL: usize = 12;

/// What goes wrong with the demo's workers.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    #[error("making the worker's log `{}`", path.display())]
    Log { path: PathBuf, source: std::io::Error },
    #[error("starting the worker `{}`", program.display())]
    Start { program: PathBuf, source: std::io::Error },
    #[error("a worker ended before the campaign did ({status}); the end of its log `{}`:\n{tail}", log.display())]
    Early { status: String, log: PathBuf, tail: String },
}

/// Running worker processes. Dropping them kills the processes.
#[derive(Debug)]
pub struct Workers {
    processes: JoinSet<(std::io::Result<ExitStatus>, PathBuf)>,
    stop: CancellationToken,
}

impl Workers {
    /// Starts `number` processes of `program`, with logs in `folder`. They are in process groups of their own, so that Ctrl-C
    /// reaches the demo alone, which then stops them in order.
    pub fn start(program: &Path, endpoint: &Path, number: u32, folder: &Path) -> Result<Self, WorkerError> {
        let stop = CancellationToken::new();
        let mut processes = JoinSet::new();
        for number in 1..=number {
            let path = folder.join(format!("worker-{number}.log"));
            let logs = File::create(&path).and_then(|log| Ok((log.try_clone()?, log)));
            let (out, err) = logs.map_err(|source| WorkerError::Log { path: path.clone(), source })?;
            let child = Command::new(program)
                .arg("--endpoint")
                .arg(endpoint)
                .args(["--device", "cpu"])
                .arg("--spool")
                .arg(folder.join("spool"))
                .stdin(Stdio::null())
                .stdout(out)
                .stderr(err)
                .process_group(0)
                .kill_on_drop(true)
                .spawn()
                .map_err(|source| WorkerError::Start { program: program.to_owned(), source })?;
            let stop = stop.clone();
            processes.spawn(async move { (attend(child, stop).await, path) });
        }
        Ok(Self { processes, stop })
    }

    /// Waits until a worker ends by itself, which none should. Never returns if none does.
    pub async fn first_exit(&mut self) -> WorkerError {
        match self.processes.join_next().await {
            Some(Ok((status, log))) => {
                let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                let text = std::fs::read_to_string(&log).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n");
                WorkerError::Early { status, log, tail }
            }
            _ => std::future::pending().await,
        }
    }

    /// Asks every worker to stop, and waits until all have.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.processes.join_next().await.is_some() {}
    }
}

/// Waits for the process; on `stop`, asks it to end, and kills it if it takes too long.
async fn attend(mut child: Child, stop: CancellationToken) -> std::io::Result<ExitStatus> {
    tokio::select! {
        status = child.wait() => return status,
        () = stop.cancelled() => {}
    }
    if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
        // An error means that it has just ended by itself.
        let _ = kill_process(pid, Signal::TERM);
    }
    match tokio::time::timeout(GRACE, child.wait()).await {
        Ok(status) => status,
        Err(_) => {
            child.kill().await?;
            child.wait().await
        }
    }
}
