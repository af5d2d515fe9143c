//! What happens next, drawn from a seed.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use std::ops::Range;
use std::time::Duration;

/// Something that happens to a process, a link or the disk; workers by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// kill -9, and a new start.
    KillCoordinator,
    /// kill -9, and a new start.
    KillWorker(usize),
    /// SIGSTOP, until its leases have run out.
    Freeze(usize),
    /// No packet passes for a moment, shorter than a lease.
    CutBriefly(usize),
    /// No packet passes until its leases have run out.
    Cut(usize),
    /// SIGTERM, its end, and a new start.
    Drain(usize),
    /// No block left for database and images, until somebody notices.
    FillDisk,
}

/// What a worker goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Well,
    /// Frozen, cut off or draining.
    Harmed,
}

/// How long to wait for the next event, once there is progress again.
const MOMENTS: Range<u64> = 0..700;
/// Share of the events that do not wait for progress: they strike what has not recovered.
const AT_ONCE: f64 = 0.3;

/// When an event strikes.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Not before another job is done.
    pub after_progress: bool,
    /// And then so much later.
    pub delay: Duration,
}

/// The generator of events.
#[derive(Debug)]
pub struct Events {
    random: StdRng,
    /// Number of kills at which the disk is filled.
    fill_disk_at: Option<u32>,
}

impl Events {
    pub fn new(seed: u64, kills: u32) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let fill_disk_at = Some(random.random_range(kills / 4..=kills / 2));
        Self { random, fill_disk_at }
    }

    /// The next event, after so many `kills`. One worker at least stays well, so that there can be progress.
    pub fn draw(&mut self, workers: &[Standing], kills: u32) -> Event {
        if self.fill_disk_at.take_if(|at| *at <= kills).is_some() {
            return Event::FillDisk;
        }
        let any = self.random.random_range(0..workers.len());
        let well: Vec<usize> = (0..workers.len()).filter(|worker| workers[*worker] == Standing::Well).collect();
        let victim = if well.len() > 1 { well.choose(&mut self.random).copied() } else { None };
        match (self.random.random_range(0..100), victim) {
            (0..32, _) => Event::KillCoordinator,
            (70..78, Some(worker)) => Event::Freeze(worker),
            (78..85, Some(worker)) => Event::CutBriefly(worker),
            (85..93, Some(worker)) => Event::Cut(worker),
            (93..100, Some(worker)) => Event::Drain(worker),
            _ => Event::KillWorker(any),
        }
    }

    pub fn moment(&mut self) -> Moment {
        Moment {
            after_progress: !self.random.random_bool(AT_ONCE),
            delay: Duration::from_millis(self.random.random_range(MOMENTS)),
        }
    }
}
