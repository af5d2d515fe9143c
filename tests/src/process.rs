//! A binary of this workspace as a real process, and where on the machine's networks it runs.

use crate::wait_for;
use rustix::process::{Pid, Signal, kill_process};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// The path of a binary of this workspace, as `cargo build --workspace --bins` leaves it beside the tests.
pub fn binary(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a test knows its own path");
    let path = own.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.exists());
    path.unwrap_or_else(|| {
        panic!("{name} is not built beside {}: run `cargo build --workspace --bins` (or ./check)", own.display())
    })
}

/// Which network a process sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The machine's own.
    Here,
    /// That of a network namespace, as `ip netns` names it.
    Namespace(String),
}

impl Place {
    /// A command that runs a binary of this workspace there.
    pub fn command(&self, name: &str) -> Command {
        match self {
            Self::Here => Command::new(binary(name)),
            Self::Namespace(namespace) => {
                // It becomes the binary itself, under the same process number.
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/run/netns/{namespace}")).arg(binary(name));
                command
            }
        }
    }
}

/// A process that is killed when the test ends.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; what it prints goes to the file `log`.
    pub fn start(command: &mut Command, log: PathBuf) -> Self {
        let file = std::fs::File::create(&log).expect("the log file can be made");
        let stderr = file.try_clone().expect("the log file can be shared");
        let child = command.stdin(Stdio::null()).stdout(file).stderr(stderr).spawn().expect("the binary starts");
        Self { child, log }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it can be waited for");
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).expect("a process has a number");
        kill_process(pid, signal).expect("it can be signalled");
    }

    /// Waits for its end and returns the exit code.
    pub fn wait(&mut self) -> i32 {
        wait_for("a process to end", || self.ended())
    }

    /// The exit code, if it has ended; -1 after a signal.
    pub fn ended(&mut self) -> Option<i32> {
        let status = self.child.try_wait().expect("it can be waited for");
        status.map(|status| status.code().unwrap_or(-1))
    }

    pub fn is_running(&mut self) -> bool {
        self.ended().is_none()
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
        // The folder may be gone already; a second panic would leave networks and disks behind.
        if std::thread::panicking()
            && let Ok(log) = std::fs::read_to_string(&self.log)
        {
            let tail = log.lines().count().saturating_sub(60);
            eprintln!("---- {}", self.log.display());
            log.lines().skip(tail).for_each(|line| eprintln!("{line}"));
        }
    }
}
