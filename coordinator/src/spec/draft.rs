//! An experiment file as typed sections, before the files that it names are looked at.

use super::diagnose::{Diagnostics, Place};
use super::fields::{Fields, Located};
use super::grid::Grid;
use super::node::Node;
use super::sample::SampleDraft;
use super::simulate::SimulateDraft;
use protocol::job::Kind;

/// What an experiment file asks for. Where the file has mistakes, which have been told, parts are missing.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    pub name: String,
    pub name_place: Place,
    pub description: String,
    pub priority: i32,
    /// Weight among experiments of the same priority.
    pub share: f64,
    pub retries: u32,
    /// Losses of a job that make it the suspect.
    pub losses: u32,
    /// Names of experiments that come first.
    pub needs: Vec<Located<String>>,
    pub budget_gpu_hours: Option<f64>,
    pub work: Work,
}

/// What the jobs do.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    Sample(Box<SampleDraft>),
    Simulate(SimulateDraft),
}

impl Draft {
    pub fn kind(&self) -> Kind {
        match self.work {
            Work::Sample(_) => Kind::Sample,
            Work::Simulate(_) => Kind::Simulate,
        }
    }

    pub fn grid(&self) -> &Grid {
        match &self.work {
            Work::Sample(sample) => &sample.grid,
            Work::Simulate(simulate) => &simulate.grid,
        }
    }
}

/// Sections of every experiment.
const KEYS: [&str; 10] =
    ["name", "description", "kind", "needs", "grid", "priority", "share", "retries", "losses", "budget"];
/// Sections of one kind's experiments only.
const OWN_KEYS: [(Kind, &str); 5] = [
    (Kind::Sample, "models"),
    (Kind::Sample, "regions"),
    (Kind::Sample, "sampling"),
    (Kind::Sample, "probes"),
    (Kind::Simulate, "simulate"),
];

/// Losses after which a job is taken for the culprit, unless the file says otherwise; HyperQueue's crash limit.
const LOSSES: u32 = 5;

/// Reads the sections of the file's root.
pub fn read(root: &Node, diagnostics: &mut Diagnostics) -> Option<Draft> {
    let keys: Vec<&str> = KEYS.into_iter().chain(OWN_KEYS.map(|(_, key)| key)).collect();
    let fields = Fields::of(root, "an experiment", &keys, diagnostics)?;
    let name = fields.required("name", diagnostics).and_then(|node| node.name("the experiment's name", diagnostics));
    let description = fields.get("description").and_then(|node| node.text("`description`", diagnostics));
    let kind = kind(&fields, diagnostics);
    let work = match kind {
        Kind::Sample => Work::Sample(Box::new(SampleDraft::read(&fields, root.place, diagnostics))),
        Kind::Simulate => Work::Simulate(SimulateDraft::read(&fields, diagnostics)),
    };
    let needs = fields.get("needs").map(|node| needs(node, name.as_deref(), diagnostics)).unwrap_or_default();
    let priority = fields
        .get("priority")
        .and_then(|node| node.integer("`priority`", i32::MIN.into(), i32::MAX.into(), diagnostics));
    let share =
        fields.get("share").and_then(|node| node.number("`share`", "a number above 0", |s| s > 0.0, diagnostics));
    let retries = fields.get("retries").and_then(|node| node.integer("`retries`", 0, 100, diagnostics));
    let losses = fields.get("losses").and_then(|node| node.integer("`losses`", 1, 1000, diagnostics));
    let budget_gpu_hours = fields.get("budget").and_then(|node| {
        let fields = Fields::of(node, "`budget`", &["gpu_hours"], diagnostics)?;
        let hours = fields.required("gpu_hours", diagnostics)?;
        hours.number("`gpu_hours`", "a number of hours above 0", |hours| hours > 0.0, diagnostics)
    });
    Some(Draft {
        name: name.unwrap_or_default(),
        name_place: fields.get("name").map(|node| node.place).unwrap_or_default(),
        description: description.unwrap_or_default(),
        priority: priority.unwrap_or(0),
        share: share.unwrap_or(1.0),
        retries: retries.unwrap_or(3),
        losses: losses.unwrap_or(LOSSES),
        needs,
        budget_gpu_hours,
        work,
    })
}

/// The kind of work; sections of another kind are mistakes. Where the kind itself is one, the rest is read as what it looks like.
fn kind(fields: &Fields<'_>, diagnostics: &mut Diagnostics) -> Kind {
    let valid = Kind::ALL.map(|kind| (kind.as_str(), kind));
    let said = fields.required("kind", diagnostics).and_then(|node| node.choice("`kind`", &valid, diagnostics));
    let Some(said) = said else {
        return if fields.get("simulate").is_some() { Kind::Simulate } else { Kind::Sample };
    };
    for (kind, key) in OWN_KEYS {
        if let (true, Some(place)) = (kind != said, fields.key(key)) {
            let note = match said {
                Kind::Sample => "it says what simulated jobs do: leave it out, or write `kind: simulate`",
                Kind::Simulate => "simulated jobs only take time, they read no model and compute nothing: leave it out",
            };
            diagnostics.mistake(place, format!("`{key}` means nothing to jobs of kind {said}")).note(note);
        }
    }
    said
}

fn needs(node: &Node, name: Option<&str>, diagnostics: &mut Diagnostics) -> Vec<Located<String>> {
    let needs = node.distinct("`needs`", diagnostics, |item, d| item.name("the name of an experiment", d));
    for need in needs.iter().filter(|need| name == Some(need.value.as_str())) {
        diagnostics.mistake(need.place, "an experiment cannot need itself").note("name another experiment");
    }
    needs
}
