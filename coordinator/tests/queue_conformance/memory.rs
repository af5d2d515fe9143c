//! The model: the state machine, leases and needs in plain maps. It has no back-off of its own choice: how long a job must and may
//! wait follows from the policy's bounds, so that the store's random jitter can be followed.

use super::table::{Dropped, Given, Grid, Row, Table, Which, Worker};
use coordinator::queue::policy::Policy;
use coordinator::queue::state::{Event, Job, Refused, State, Step, apply};
use protocol::ids::{Fence, JobId};
use protocol::outcome::{Disposition, FailureClass};
use std::collections::{BTreeMap, BTreeSet};

pub const LEASE: i64 = 60_000;
pub const MAX_ATTEMPTS: u32 = 3;
pub const MAX_LOSSES: u32 = 5;
const AT_ONCE: (i64, i64) = (i64::MIN, i64::MIN);

/// An experiment's condition: its name, and the number of its region.
type Cell = (&'static str, u8);

#[derive(Debug, Clone)]
struct Entry {
    cell: Cell,
    seed: u64,
    row: Row,
    holder: Option<Worker>,
    lease_until: i64,
    /// Not before the first, surely from the second on.
    due: (i64, i64),
    /// Class and message of the last counted failure since the last retry.
    signature: Option<(FailureClass, String)>,
    /// How attempts ended, by fence, with the failure's message: what a late word is told.
    ended: BTreeMap<Fence, (Event, String)>,
}

#[derive(Debug, Default)]
struct Device {
    quarantined: bool,
}

/// A job table in memory.
#[derive(Debug)]
pub struct Memory {
    now: i64,
    grids: Vec<Grid>,
    open_breakers: BTreeSet<Cell>,
    jobs: BTreeMap<JobId, Entry>,
    workers: Vec<Device>,
}

impl Memory {
    /// Takes an event and all that goes with it; the worker is the one that held the job.
    fn take(&mut self, id: JobId, event: Event) -> Result<Step, Refused> {
        self.take_saying(id, event, "")
    }

    fn take_saying(&mut self, id: JobId, event: Event, message: &str) -> Result<Step, Refused> {
        let now = self.now;
        let entry = self.jobs.get_mut(&id).expect("a job of this table");
        let step = apply(entry.row.job, event)?;
        let holder = entry.holder.take();
        entry.row.job = step.job;
        entry.due = AT_ONCE;
        if step.closes.is_some() {
            entry.ended.insert(step.job.fence, (event, message.to_owned()));
        }
        match event {
            Event::Complete { fence } => entry.row.counted = Some(fence),
            Event::Retry { .. } => entry.signature = None,
            Event::Fail { class, .. } => {
                let policy = Policy::of(class);
                let wait = |jitter| policy.backoff(step.job.attempts, jitter);
                if wait(1.0) > 0 {
                    entry.due = (now + wait(0.0), now + wait(1.0));
                }
            }
            _ => {}
        }
        let cell = entry.cell;
        if step.blocks_condition {
            self.open_breakers.insert(cell);
            self.take_all(Event::Block, |entry| entry.cell == cell);
        }
        if let (true, Some(worker)) = (step.quarantines_device, holder) {
            self.workers[worker].quarantined = true;
        }
        if step.job.state == State::Done {
            let waiting: Vec<Cell> = self.dependents(cell).into_iter().filter(|cell| self.may_start(*cell)).collect();
            self.take_all(Event::Unblock, |entry| waiting.contains(&entry.cell));
        }
        Ok(step)
    }

    fn take_all(&mut self, event: Event, which: impl Fn(&Entry) -> bool) -> u64 {
        let chosen: Vec<JobId> = self.jobs.iter().filter(|(_, entry)| which(entry)).map(|(id, _)| *id).collect();
        chosen.into_iter().filter(|id| self.take(*id, event).is_ok()).count() as u64
    }

    fn grid(&self, name: &str) -> &Grid {
        self.grids.iter().find(|grid| grid.name == name).expect("an experiment of this table")
    }

    fn dependents(&self, cell: Cell) -> Vec<Cell> {
        self.grids.iter().filter(|grid| grid.needs == Some(cell.0)).map(|grid| (grid.name, cell.1)).collect()
    }

    fn needs_met(&self, cell: Cell) -> bool {
        let Some(needs) = self.grid(cell.0).needs else { return true };
        let mut needed = self.jobs.values().filter(|entry| entry.cell == (needs, cell.1)).peekable();
        needed.peek().is_some() && needed.all(|entry| entry.row.job.state == State::Done)
    }

    fn may_start(&self, cell: Cell) -> bool {
        !self.open_breakers.contains(&cell) && self.needs_met(cell)
    }

    fn priority(&self, entry: &Entry) -> i32 {
        self.grid(entry.cell.0).priority
    }

    /// Ready jobs that can surely be claimed, highest priority first, then the oldest.
    fn due(&self) -> Vec<JobId> {
        let mut due: Vec<(i32, JobId)> = self
            .jobs
            .iter()
            .filter(|(_, entry)| entry.row.job.state == State::Ready && entry.due.1 <= self.now)
            .map(|(id, entry)| (-self.priority(entry), *id))
            .collect();
        due.sort();
        due.into_iter().map(|(_, id)| id).collect()
    }

    fn give(&mut self, worker: Worker, id: JobId) -> Given {
        let step = self.take(id, Event::Claim).expect("only ready jobs are handed out");
        let lease_until = self.now + LEASE;
        let entry = self.jobs.get_mut(&id).expect("a job of this table");
        (entry.holder, entry.lease_until) = (Some(worker), lease_until);
        Given { job: id, fence: step.job.fence }
    }

    /// Takes over what another table handed out, after looking whether it was allowed to, and whether it was enough.
    pub fn follow(&mut self, worker: Worker, max: u32, answer: Option<&[Given]>) {
        let Some(given) = answer else {
            assert!(self.workers[worker].quarantined, "only a quarantined device never gets anything");
            return;
        };
        assert!(!self.workers[worker].quarantined, "a quarantined device got {given:?}");
        assert!(given.len() <= max as usize, "more than asked for");
        let surely = self.due();
        assert!(given.len() >= surely.len().min(max as usize), "idle although {surely:?} were ready: {given:?}");
        for claim in given {
            let entry = &self.jobs[&claim.job];
            assert!(entry.due.0 <= self.now, "job {} is handed out before its back-off is over", claim.job);
            let highest = surely
                .iter()
                .filter(|id| !given.iter().any(|claim| claim.job == **id))
                .map(|id| self.priority(&self.jobs[id]))
                .max();
            assert!(
                highest.is_none_or(|highest| highest <= self.priority(entry)),
                "a more important job was left behind"
            );
        }
        for claim in given {
            let own = self.give(worker, claim.job);
            assert_eq!(own, *claim, "every claim has a larger fence");
        }
    }
}

impl Table for Memory {
    async fn empty() -> Self {
        let now = super::table::NOW;
        Self { now, grids: Vec::new(), open_breakers: BTreeSet::new(), jobs: BTreeMap::new(), workers: Vec::new() }
    }

    async fn submit(&mut self, grid: Grid) {
        self.grids.retain(|known| known.name != grid.name);
        self.grids.push(grid);
        for region in 0..grid.conditions {
            let cell = (grid.name, region);
            let state = if self.may_start(cell) { State::Ready } else { State::Blocked };
            for seed in 0..grid.seeds {
                if self.jobs.values().any(|entry| entry.cell == cell && entry.seed == seed) {
                    continue;
                }
                let id = JobId(self.jobs.len() as i64 + 1);
                let job = Job {
                    state,
                    fence: Fence(0),
                    attempts: 0,
                    max_attempts: MAX_ATTEMPTS,
                    losses: 0,
                    max_losses: MAX_LOSSES,
                };
                let row = Row { job, counted: None, superseded: BTreeSet::new() };
                let due = AT_ONCE;
                let (holder, lease_until, signature, ended) = (None, 0, None, BTreeMap::new());
                self.jobs.insert(id, Entry { cell, seed, row, holder, lease_until, due, signature, ended });
            }
        }
    }

    async fn register(&mut self) -> Worker {
        self.workers.push(Device::default());
        self.workers.len() - 1
    }

    async fn claim(&mut self, worker: Worker, max: u32) -> Option<Vec<Given>> {
        if self.workers[worker].quarantined {
            return None;
        }
        Some(self.due().into_iter().take(max as usize).map(|id| self.give(worker, id)).collect())
    }

    async fn heartbeat(&mut self, worker: Worker, held: &[Given]) -> Dropped {
        let (now, mut dropped) = (self.now, Dropped::default());
        for given in held {
            let entry = self.jobs.get_mut(&given.job).expect("a job of this table");
            if entry.holder == Some(worker) && entry.row.job.fence == given.fence {
                entry.lease_until = now + LEASE;
                continue;
            }
            match entry.ended.get(&given.fence).map(|(event, _)| event) {
                Some(Event::Cancel) => dropped.cancelled.push(given.job),
                Some(Event::Fail { class: FailureClass::Lost, .. }) => dropped.lost.push(given.job),
                // The worker's own word ended it.
                _ => {}
            }
        }
        dropped
    }

    async fn leave(&mut self, worker: Worker) {
        let held: Vec<JobId> =
            self.jobs.iter().filter(|(_, entry)| entry.holder == Some(worker)).map(|(id, _)| *id).collect();
        for id in held {
            self.lose(id);
        }
    }

    async fn complete(&mut self, _worker: Worker, given: Given) -> Disposition {
        match self.take(given.job, Event::Complete { fence: given.fence }) {
            Ok(_) => Disposition::Accepted,
            Err(Refused::Duplicate) => Disposition::Duplicate,
            Err(_) => {
                let row = &mut self.jobs.get_mut(&given.job).expect("a job of this table").row;
                row.superseded.insert(given.fence);
                Disposition::Superseded
            }
        }
    }

    async fn fail(&mut self, _worker: Worker, given: Given, class: FailureClass, message: &str) -> Disposition {
        let signature = (class, message.to_owned());
        let entry = &self.jobs[&given.job];
        let repeated = entry.signature.as_ref() == Some(&signature);
        let same = matches!(entry.ended.get(&given.fence), Some((Event::Fail { class: known, .. }, said))
                            if (*known, said.as_str()) == (class, message));
        let event = Event::Fail { fence: given.fence, class, repeated, jitter: 0.0 };
        match self.take_saying(given.job, event, message) {
            Ok(step) => {
                if step.counts() {
                    self.jobs.get_mut(&given.job).expect("a job of this table").signature = Some(signature);
                }
                Disposition::Accepted
            }
            Err(_) if same => Disposition::Duplicate,
            Err(_) => Disposition::Superseded,
        }
    }

    async fn release(&mut self, _worker: Worker, given: Given) -> bool {
        let event = Event::Fail { fence: given.fence, class: FailureClass::Drained, repeated: false, jitter: 0.0 };
        self.take(given.job, event).is_ok()
    }

    async fn cancel(&mut self, which: Which) -> u64 {
        match which {
            Which::Job(id) => self.take(id, Event::Cancel).is_ok().into(),
            Which::Experiment(name) => self.take_all(Event::Cancel, |entry| entry.cell.0 == name),
        }
    }

    async fn retry(&mut self, which: Which) -> u64 {
        let anew = Event::Retry { attempts: MAX_ATTEMPTS };
        let stuck = |state: State| matches!(state, State::Failed | State::Blocked);
        let cells: BTreeSet<Cell> = match which {
            Which::Job(id) => {
                let entry = &self.jobs[&id];
                let retried = stuck(entry.row.job.state) || entry.row.job.state == State::Cancelled;
                retried.then_some(entry.cell).into_iter().collect()
            }
            Which::Experiment(name) => {
                self.jobs.values().filter(|entry| entry.cell.0 == name).map(|entry| entry.cell).collect()
            }
        };
        cells.iter().for_each(|cell| {
            self.open_breakers.remove(cell);
        });
        let met: BTreeSet<Cell> = cells.iter().copied().filter(|cell| self.needs_met(*cell)).collect();
        let blocked = |entry: &Entry| entry.row.job.state == State::Blocked && met.contains(&entry.cell);
        match which {
            Which::Job(id) => {
                let entry = &self.jobs[&id];
                let moves = entry.row.job.state != State::Blocked || met.contains(&entry.cell);
                let named = u64::from(moves && self.take(id, anew).is_ok());
                named + self.take_all(anew, blocked)
            }
            Which::Experiment(_) => self.take_all(anew, |entry| {
                cells.contains(&entry.cell) && (entry.row.job.state == State::Failed || blocked(entry))
            }),
        }
    }

    async fn expire(&mut self) -> Vec<JobId> {
        let now = self.now;
        let late = |entry: &Entry| entry.row.job.state == State::Running && entry.lease_until <= now;
        let late: Vec<JobId> = self.jobs.iter().filter(|(_, entry)| late(entry)).map(|(id, _)| *id).collect();
        late.iter().for_each(|id| self.lose(*id));
        late
    }

    fn jump(&mut self, seconds: i64) {
        self.now += seconds * 1000;
    }

    async fn restart(&mut self) {
        let renewed = self.now + LEASE;
        self.jobs.values_mut().for_each(|entry| entry.lease_until = renewed);
    }

    async fn rows(&mut self) -> BTreeMap<JobId, Row> {
        self.jobs.iter().map(|(id, entry)| (*id, entry.row.clone())).collect()
    }
}

impl Memory {
    fn lose(&mut self, id: JobId) {
        let fence = self.jobs[&id].row.job.fence;
        let event = Event::Fail { fence, class: FailureClass::Lost, repeated: false, jitter: 0.0 };
        self.take(id, event).expect("a running job can be lost");
    }
}
