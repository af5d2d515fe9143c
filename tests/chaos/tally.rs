//! What happened, as a table for people and as JSON.

use crate::arena::Arena;
use crate::event::Event;
use crate::record;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Counts by what was counted, in the order in which they are shown.
#[derive(Debug)]
pub struct Tally {
    seed: u64,
    setting: [&'static str; 2],
    events: BTreeMap<&'static str, u32>,
    outcomes: Vec<(&'static str, i64)>,
    seconds: f64,
}

impl Tally {
    pub fn new(seed: u64) -> Self {
        Self { seed, setting: [""; 2], events: BTreeMap::new(), outcomes: Vec::new(), seconds: 0.0 }
    }

    pub fn count(&mut self, event: Event) {
        let name = match event {
            Event::KillCoordinator => "coordinator killed",
            Event::KillWorker(_) => "worker killed",
            Event::Freeze(_) => "worker frozen past its lease",
            Event::CutBriefly(_) => "link cut briefly",
            Event::Cut(_) => "link cut past the lease",
            Event::Drain(_) => "worker drained",
            Event::FillDisk => "disk filled, coordinator killed",
        };
        *self.events.entry(name).or_default() += 1;
    }

    /// Processes killed on purpose so far, without that of the full disk.
    pub fn kills(&self) -> u32 {
        let kills = ["coordinator killed", "worker killed"];
        kills.iter().map(|name| self.events.get(name).copied().unwrap_or_default()).sum()
    }

    /// Reads the outcomes from the table and from what the workers were told.
    pub fn read(&mut self, arena: &Arena, took: Duration) {
        let number = |query| arena.table.number(query);
        self.setting = [arena.network(), arena.disk()];
        self.seconds = took.as_secs_f64();
        self.outcomes = vec![
            ("jobs done", number("SELECT count(*) FROM job WHERE state = 'done'")),
            ("results acknowledged to workers", record::acknowledged(&arena.campaign).len() as i64),
            ("acknowledged and lost", record::lost(arena) as i64),
            ("superseded results, kept and not counted", number("SELECT count(*) FROM result WHERE counted = 0")),
            ("rejected results", record::rejected(&arena.campaign) as i64),
            ("attempts", number("SELECT count(*) FROM attempt")),
            (
                "attempts lost with their lease, and executed again",
                number("SELECT count(*) FROM attempt WHERE class = 'lost'"),
            ),
            ("attempts given back", number("SELECT count(*) FROM attempt WHERE class = 'drained'")),
            (
                "attempts failed as simulated",
                number("SELECT count(*) FROM attempt WHERE outcome = 'failed' AND class NOT IN ('lost', 'drained')"),
            ),
            (
                "executed again after the result counted",
                number(
                    "SELECT count(*) FROM attempt a JOIN result r ON r.job_id = a.job_id AND r.counted = 1 WHERE a.fence > r.fence",
                ),
            ),
            ("jobs retried by hand (one failure twice in a row)", arena.retried),
            ("workers drained with exit code 0", arena.drained.into()),
            ("worker processes", number("SELECT count(*) FROM worker")),
        ];
    }

    pub fn lost(&self) -> i64 {
        let must_be_none = ["acknowledged and lost", "executed again after the result counted"];
        self.outcomes.iter().filter(|(name, _)| must_be_none.contains(name)).map(|(_, count)| count).sum()
    }

    pub fn json(&self) -> Value {
        json!({
            "seed": self.seed,
            "network": self.setting[0],
            "disk": self.setting[1],
            "kills": self.kills(),
            "events": self.events,
            "outcomes": self.outcomes.iter().copied().collect::<BTreeMap<_, _>>(),
            "seconds": self.seconds,
        })
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, count) in &self.events {
            writeln!(f, "{count:8}  {name}")?;
        }
        writeln!(f)?;
        for (name, count) in &self.outcomes {
            writeln!(f, "{count:8}  {name}")?;
        }
        writeln!(f, "\n{:8.0}  seconds", self.seconds)
    }
}
