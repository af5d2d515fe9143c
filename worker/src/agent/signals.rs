//! Being asked to stop: by a person, by Slurm's end of the allocation, or by the node. And being asked how it goes.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// SIGTERM, SIGINT, SIGUSR1 or SIGUSR2: stop claiming, finish, leave.
    Drain,
    /// SIGQUIT: say how long the slots stood idle, and go on.
    Report,
}

/// The signals that a worker listens to.
#[derive(Debug)]
pub struct Signals {
    term: Signal,
    int: Signal,
    usr1: Signal,
    usr2: Signal,
    quit: Signal,
}

impl Signals {
    /// Listens from now on.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            usr1: signal(SignalKind::user_defined1())?,
            usr2: signal(SignalKind::user_defined2())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    /// Returns at the next signal.
    pub async fn next(&mut self) -> Request {
        tokio::select! {
            _ = self.term.recv() => Request::Drain,
            _ = self.int.recv() => Request::Drain,
            _ = self.usr1.recv() => Request::Drain,
            _ = self.usr2.recv() => Request::Drain,
            _ = self.quit.recv() => Request::Report,
        }
    }

    /// Returns when a signal asks to drain.
    pub async fn asked(&mut self) {
        while self.next().await != Request::Drain {}
    }
}
