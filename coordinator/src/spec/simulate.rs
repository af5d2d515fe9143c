//! The sections of an experiment of simulated jobs, which take time and compute nothing: for load tests and rehearsals of failures.

use super::diagnose::Diagnostics;
use super::fields::{Fields, Located, entries};
use super::grid::{self, Grid};
use super::node::Node;
use protocol::job::SimulateCondition;
use protocol::outcome::FailureClass;
use std::collections::BTreeMap;

/// Longest simulated job: a day, in seconds.
const MOST_SECONDS: f64 = 86_400.0;
/// Largest picture, bytes.
const MOST_BYTES: i128 = 16 << 20;

/// What every simulated job does.
#[derive(Debug, Clone, PartialEq)]
pub struct SimulateDraft {
    pub grid: Grid,
    pub seconds: f64,
    pub spread: f64,
    pub fail: BTreeMap<FailureClass, f64>,
    pub bytes: u32,
}

impl SimulateDraft {
    pub fn read(fields: &Fields<'_>, diagnostics: &mut Diagnostics) -> Self {
        let grid = fields
            .required("grid", diagnostics)
            .map(|node| grid::read(node, grid::Shape { parameters: &[], regions: true, seed: None }, diagnostics));
        let mut draft =
            Self { grid: grid.unwrap_or_default(), seconds: 0.0, spread: 0.0, fail: BTreeMap::new(), bytes: 0 };
        if let Some(node) = fields.required("simulate", diagnostics) {
            draft.read_section(node, diagnostics);
        }
        draft
    }

    fn read_section(&mut self, node: &Node, diagnostics: &mut Diagnostics) {
        let keys = ["seconds", "spread", "fail", "bytes"];
        let Some(fields) = Fields::of(node, "`simulate`", &keys, diagnostics) else { return };
        if let Some(node) = fields.required("seconds", diagnostics) {
            let fits = |seconds| (0.0..=MOST_SECONDS).contains(&seconds);
            let seconds = node.number("`seconds`", "a number from 0 to 86400, a day", fits, diagnostics);
            self.seconds = seconds.unwrap_or_default();
        }
        if let Some(node) = fields.get("spread") {
            let expected = "a number from 0 (all take the same time) to 1 (between nothing and twice `seconds`)";
            let fits = |spread| (0.0..=1.0).contains(&spread);
            self.spread = node.number("`spread`", expected, fits, diagnostics).unwrap_or_default();
        }
        if let Some(node) = fields.get("fail") {
            self.fail = probabilities(node, diagnostics);
        }
        if let Some(node) = fields.get("bytes") {
            self.bytes = node.integer("`bytes`", 0, MOST_BYTES, diagnostics).unwrap_or_default();
        }
    }

    /// Every condition of the grid, the region running faster.
    pub fn conditions(&self) -> impl Iterator<Item = SimulateCondition> + '_ {
        let cells =
            self.grid.subjects.iter().flat_map(|subject| self.grid.regions.iter().map(move |region| (subject, region)));
        cells.map(|(subject, region): (&Located<String>, &Located<String>)| SimulateCondition {
            subject: subject.value.clone(),
            region: region.value.clone(),
            seconds: self.seconds,
            spread: self.spread,
            fail: self.fail.clone(),
            bytes: self.bytes,
        })
    }
}

/// `{ io: 0.1, lost: 0.01 }`: failure class to the probability that an attempt ends in it.
fn probabilities(node: &Node, diagnostics: &mut Diagnostics) -> BTreeMap<FailureClass, f64> {
    let mut fail = BTreeMap::new();
    for (key, value) in entries(node, "`fail`", diagnostics).unwrap_or_default() {
        let Ok(class) = key.name.parse::<FailureClass>() else {
            diagnostics
                .mistake(key.place, format!("there is no failure class `{}`", key.name))
                .one_of(&key.name, FailureClass::ALL.map(FailureClass::as_str));
            continue;
        };
        let fits = |probability| (0.0..=1.0).contains(&probability);
        let what = format!("the probability of `{class}`");
        if let Some(probability) = value.number(&what, "a number from 0 to 1", fits, diagnostics) {
            fail.insert(class, probability);
        }
    }
    let sum: f64 = fail.values().sum();
    // Ten probabilities of 0.1 may add up to a little more than 1.
    if sum > 1.0 + 1e-9 {
        diagnostics
            .mistake(node.place, format!("the probabilities under `fail` add up to {sum}"))
            .note("expected at most 1: what is left is success");
    }
    fail
}
