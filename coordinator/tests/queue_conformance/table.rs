//! What a job table does, as far as its promises go: the SQLite store and the model in memory both do it.

use coordinator::queue::state::Job;
use protocol::ids::{Fence, JobId};
use protocol::outcome::{Disposition, FailureClass};
use std::collections::{BTreeMap, BTreeSet};

/// When tables begin, milliseconds since 1970.
pub const NOW: i64 = 1_700_000_000_000;

/// A worker, by the order of registration.
pub type Worker = usize;

/// A claim that a worker got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Given {
    pub job: JobId,
    pub fence: Fence,
}

/// Which jobs a person means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    Job(JobId),
    /// Everything of an experiment that is not finished, or that failed or is blocked.
    Experiment(&'static str),
}

/// An experiment as tests know it: conditions that differ in their region, seeds from 0.
#[derive(Debug, Clone, Copy)]
pub struct Grid {
    pub name: &'static str,
    pub conditions: u8,
    pub seeds: u64,
    pub priority: i32,
    /// Each condition waits for the one of the same region there.
    pub needs: Option<&'static str>,
}

/// What stands in the table of one job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub job: Job,
    /// Fence of the result that counts.
    pub counted: Option<Fence>,
    /// Fences of results that were kept and do not count.
    pub superseded: BTreeSet<Fence>,
}

/// What a heartbeat tells a worker to drop.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dropped {
    pub cancelled: Vec<JobId>,
    pub lost: Vec<JobId>,
}

#[allow(async_fn_in_trait)]
pub trait Table {
    /// A table without experiments, at some time.
    async fn empty() -> Self;
    async fn submit(&mut self, grid: Grid);
    async fn register(&mut self) -> Worker;
    /// Up to `max` jobs, without waiting; `None` if the worker is told that it will never get any.
    async fn claim(&mut self, worker: Worker, max: u32) -> Option<Vec<Given>>;
    async fn heartbeat(&mut self, worker: Worker, held: &[Given]) -> Dropped;
    /// The worker's last heartbeat.
    async fn leave(&mut self, worker: Worker);
    async fn complete(&mut self, worker: Worker, given: Given) -> Disposition;
    async fn fail(&mut self, worker: Worker, given: Given, class: FailureClass, message: &str) -> Disposition;
    /// Whether the job was still held.
    async fn release(&mut self, worker: Worker, given: Given) -> bool;
    /// How many jobs changed.
    async fn cancel(&mut self, which: Which) -> u64;
    async fn retry(&mut self, which: Which) -> u64;
    /// Jobs whose leases have run out, taken back.
    async fn expire(&mut self) -> Vec<JobId>;
    /// The clock moves, forward or back; seconds.
    fn jump(&mut self, seconds: i64);
    /// The coordinator ends, and another one starts on the same file.
    async fn restart(&mut self);
    async fn rows(&mut self) -> BTreeMap<JobId, Row>;
}
