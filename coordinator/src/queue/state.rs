//! The life of a job as data: one table of transitions, and a pure function that takes them. No clock, no I/O.
//!
//! The store writes no state that [`apply`] or [`sources`] did not allow, and both read [`TRANSITIONS`].

use crate::queue::clock::Millis;
use crate::queue::policy::{Charge, Policy};
use protocol::ids::Fence;
use protocol::named;
use protocol::outcome::FailureClass;
use serde::{Deserialize, Serialize};

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Something it depends on is not there: what its condition needs is not done, or its input was found missing or wrong.
    Blocked,
    /// Waits for a worker, possibly until a back-off is over.
    Ready,
    /// Held by a worker under a lease.
    Running,
    /// Has its result.
    Done,
    /// Attempts used up, or a failure that a retry can't mend.
    Failed,
    /// Stopped by a person.
    Cancelled,
}

/// What can happen to a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    Claim,
    Complete,
    Fail,
    Cancel,
    Retry,
    Block,
    Unblock,
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    pub from: State,
    pub event: EventKind,
    pub to: State,
    /// When it is taken, for people.
    pub guard: &'static str,
}

/// Every transition there is.
pub const TRANSITIONS: [Transition; 12] = {
    use EventKind::*;
    use State::*;
    const fn row(from: State, event: EventKind, to: State, guard: &'static str) -> Transition {
        Transition { from, event, to, guard }
    }
    [
        row(Ready, Claim, Running, "its back-off is over; the claim gets a larger fence"),
        row(Ready, Block, Blocked, "another job of the condition failed with bad_input"),
        row(Ready, Cancel, Cancelled, "a person cancelled it"),
        row(Running, Complete, Done, "the result carries the fence of the current claim, and its image is stored"),
        row(Running, Fail, Ready, "the policy of the failure class allows another attempt"),
        row(
            Running,
            Fail,
            Failed,
            "attempts or losses used up, the same failure twice in a row, or one that a retry can't mend",
        ),
        row(Running, Cancel, Cancelled, "a person cancelled it; the worker hears of it at its next heartbeat"),
        row(
            Blocked,
            Unblock,
            Ready,
            "every job that its condition needs is done, and its input is not known to be bad",
        ),
        row(Blocked, Retry, Ready, "a person retried a job of its condition, and every job that it needs is done"),
        row(Blocked, Cancel, Cancelled, "a person cancelled it"),
        row(Failed, Retry, Ready, "a person retried it; it gets its attempts anew"),
        row(Cancelled, Retry, Ready, "a person retried it; it gets its attempts anew"),
    ]
};

/// What of a job decides its transitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Job {
    pub state: State,
    /// Of the last claim.
    pub fence: Fence,
    /// Attempts that count, ever.
    pub attempts: u32,
    /// The job fails when `attempts` reaches this.
    pub max_attempts: u32,
    /// Attempts that took their worker or device with them, since the last retry by hand.
    pub losses: u32,
    /// The job fails when `losses` reaches this.
    pub max_losses: u32,
}

/// An event with what it carries.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event {
    Claim,
    Complete {
        fence: Fence,
    },
    Fail {
        fence: Fence,
        class: FailureClass,
        /// The last counted failure had the same class and message.
        repeated: bool,
        /// In [0, 1): spreads the back-off.
        jitter: f64,
    },
    Cancel,
    Retry {
        /// Attempts that the job gets anew.
        attempts: u32,
    },
    Block,
    Unblock,
}

impl Event {
    pub fn kind(&self) -> EventKind {
        match self {
            Self::Claim => EventKind::Claim,
            Self::Complete { .. } => EventKind::Complete,
            Self::Fail { .. } => EventKind::Fail,
            Self::Cancel => EventKind::Cancel,
            Self::Retry { .. } => EventKind::Retry,
            Self::Block => EventKind::Block,
            Self::Unblock => EventKind::Unblock,
        }
    }

    fn fence(&self) -> Option<Fence> {
        match self {
            Self::Complete { fence } | Self::Fail { fence, .. } => Some(*fence),
            _ => None,
        }
    }
}

/// A transition that was taken, and what must be written with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    pub job: Job,
    /// The running attempt ends, and whether it counts against `max_attempts`.
    pub closes: Option<Closes>,
    /// No claim for this long, milliseconds.
    pub wait: Millis,
    /// The condition's ready jobs become blocked.
    pub blocks_condition: bool,
    /// The device that ran the attempt gets no more jobs.
    pub quarantines_device: bool,
}

/// How a step ends the running attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closes {
    /// Against the job's `max_attempts`.
    Counted,
    /// The attempt does not count.
    Free,
}

impl Step {
    /// Whether the attempt that this step ends counts.
    pub fn counts(&self) -> bool {
        self.closes == Some(Closes::Counted)
    }
}

/// Why an event changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It carries the fence that the job's counted result came with.
    Duplicate,
    /// It belongs to a claim that is not the current one.
    Superseded,
    /// The table has no such transition.
    NotAllowed,
}

/// Takes `event` on `job`, or says why not.
pub fn apply(job: Job, event: Event) -> Result<Step, Refused> {
    if let Some(fence) = event.fence()
        && (fence != job.fence || job.state != State::Running)
    {
        let delivered = matches!(event, Event::Complete { .. }) && job.state == State::Done && fence == job.fence;
        return Err(if delivered { Refused::Duplicate } else { Refused::Superseded });
    }
    let mut next = Step { job, closes: None, wait: 0, blocks_condition: false, quarantines_device: false };
    let to = match event {
        Event::Claim => {
            next.job.fence = Fence(job.fence.0 + 1);
            State::Running
        }
        Event::Complete { .. } => {
            next.job.attempts += 1;
            next.closes = Some(Closes::Counted);
            State::Done
        }
        Event::Fail { class, repeated, jitter, .. } => {
            let policy = Policy::of(class);
            next.closes = Some(if policy.charge == Charge::Attempt { Closes::Counted } else { Closes::Free });
            next.blocks_condition = policy.blocks_condition;
            next.quarantines_device = policy.quarantines_device;
            let goes_on = match policy.charge {
                Charge::Attempt => {
                    next.job.attempts += 1;
                    next.job.attempts < job.max_attempts && !repeated
                }
                Charge::Loss => {
                    next.job.losses += 1;
                    next.job.losses < job.max_losses
                }
                Charge::Nothing => true,
            };
            if policy.retry && goes_on {
                next.wait = policy.backoff(next.job.attempts, jitter);
                State::Ready
            } else {
                State::Failed
            }
        }
        Event::Cancel => {
            next.closes = (job.state == State::Running).then_some(Closes::Free);
            State::Cancelled
        }
        Event::Retry { attempts } => {
            next.job.max_attempts = job.attempts + attempts;
            next.job.losses = 0;
            State::Ready
        }
        Event::Block => State::Blocked,
        Event::Unblock => State::Ready,
    };
    next.job.state = to;
    let allowed = |row: &&Transition| row.from == job.state && row.event == event.kind() && row.to == to;
    TRANSITIONS.iter().find(allowed).map(|_| next).ok_or(Refused::NotAllowed)
}

/// The states that `event` can leave, for statements that move many jobs at once.
pub fn sources(event: EventKind) -> impl Iterator<Item = State> {
    TRANSITIONS.into_iter().filter(move |row| row.event == event).map(|row| row.from)
}

named!(State, "a job state", {
    Blocked: "blocked",
    Ready: "ready",
    Running: "running",
    Done: "done",
    Failed: "failed",
    Cancelled: "cancelled",
});

#[cfg(test)]
mod tests;
