//! Experiment files: YAML text to a plan, with every mistake and every missing file named at once.
//!
//! A file's way through it: text → [`node`] (a tree with places) → [`draft`] (typed sections, by kind of work [`folder`], [`sample`],
//! [`score`] or [`simulate`]) → what the sections name ([`resolve`]: folders, heads, masks, objectives; [`input`]: what other jobs make) →
//! [`crate::plan`]. Every step tells what is wrong to the [`diagnose::Diagnostics`] and goes on.

pub mod bundle;
pub mod conflict;
pub mod diagnose;
pub mod draft;
pub mod encoder;
pub mod fields;
pub mod files;
pub mod folder;
pub mod grid;
pub mod input;
pub mod known;
pub mod model;
pub mod node;
pub mod objective;
pub mod probes;
pub mod region;
pub mod resolve;
pub mod sample;
pub mod sampling;
pub mod score;
pub mod settings;
pub mod simulate;
pub mod start;
pub mod summary;
pub mod volume;

use crate::plan::{self, Experiment, Plan, PlannedCondition};
use diagnose::{Diagnostics, Place};
use draft::{Draft, Work};
use files::{Digests, Files};
use known::Known;
use model::{HubCache, Whereabouts};
use protocol::ids::Seed;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// An experiment file that was read, and nothing that it names.
#[derive(Debug)]
pub struct Opened {
    /// As the user named it.
    pub path: PathBuf,
    text: String,
    /// Where relative paths start.
    base: PathBuf,
    pub diagnostics: Diagnostics,
    /// What the file asks for, as far as it can be read.
    pub draft: Option<Draft>,
}

/// What became of an experiment file.
#[derive(Debug)]
pub struct Loaded {
    /// As the user named it.
    pub path: PathBuf,
    /// In the file's order; empty if there is a plan.
    pub diagnostics: Diagnostics,
    /// What the file asks for, if it has no mistakes; files that it names may be missing.
    pub draft: Option<Draft>,
    /// What to run, if nothing is wrong and nothing is missing.
    pub plan: Option<Plan>,
}

/// Reads the experiment file at `path` and everything that it names; it needs no other experiment. Model files are hashed only if all of
/// them are there.
pub fn load(path: &Path, hub: &HubCache, digests: &mut Digests) -> Loaded {
    open(path).plan(hub, &Known::default(), digests)
}

/// Reads the experiment file at `path`.
pub fn open(path: &Path) -> Opened {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let base = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    let unreadable = |text: &str, diagnostics| Opened {
        path: path.to_owned(),
        text: text.to_owned(),
        base: base.clone(),
        diagnostics,
        draft: None,
    };
    let text = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            let mut diagnostics = Diagnostics::new(path, "");
            let told = diagnostics.mistake(Place::default(), format!("cannot read the experiment file: {error}"));
            if error.kind() == io::ErrorKind::NotFound {
                told.note("expected the path of a YAML file, for example experiments/miniature.yaml");
            }
            return unreadable("", diagnostics);
        }
    };
    match String::from_utf8(text) {
        Ok(text) => Opened::read(path, &text, &base),
        Err(error) => {
            let valid = String::from_utf8_lossy(&error.as_bytes()[..error.utf8_error().valid_up_to()]).into_owned();
            let line = valid.lines().count().max(1);
            let column = valid.lines().last().map_or(1, |last| last.chars().count() + 1);
            let mut diagnostics = Diagnostics::new(path, &valid);
            diagnostics
                .mistake(Place { line, column, width: 1 }, "not UTF-8 text")
                .note("an experiment file is YAML in UTF-8");
            unreadable(&valid, diagnostics)
        }
    }
}

impl Opened {
    /// The experiment in `text`; `path` names it in messages, `base` is where relative paths start.
    pub fn read(path: &Path, text: &str, base: &Path) -> Self {
        let mut diagnostics = Diagnostics::new(path, text);
        let draft = node::parse(text, &mut diagnostics).and_then(|root| draft::read(&root, &mut diagnostics));
        Self { path: path.to_owned(), text: text.to_owned(), base: base.to_owned(), diagnostics, draft }
    }

    /// Names of the experiments that come first.
    pub fn needs(&self) -> impl Iterator<Item = &str> {
        self.draft.iter().flat_map(|draft| &draft.needs).map(|need| need.value.as_str())
    }

    /// Looks at everything that the file names; `known` are experiments that may come first.
    pub fn plan(self, hub: &HubCache, known: &Known, digests: &mut Digests) -> Loaded {
        let known = known.only(self.needs());
        let Self { path, text, base, mut diagnostics, draft } = self;
        let places = Whereabouts { base, hub: hub.clone() };
        let plan = draft.as_ref().and_then(|draft| {
            let (conditions, seeds) = conditions(draft, &places, &known, &mut Files::new(digests), &mut diagnostics)?;
            let experiment = experiment(draft, &text);
            diagnostics.is_empty().then_some(Plan { experiment, conditions, seeds })
        });
        diagnostics.sort();
        let draft = draft.filter(|_| !diagnostics.has_mistakes());
        Loaded { path, diagnostics, draft, plan }
    }
}

/// Conditions and seeds; `None` if anything is wrong, missing or damaged, which is told.
fn conditions(
    draft: &Draft,
    places: &Whereabouts,
    known: &Known,
    files: &mut Files<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<(Vec<PlannedCondition>, Vec<Seed>)> {
    let conditions = match &draft.work {
        Work::Sample(sample) => {
            conflict::check(sample, diagnostics);
            let cells = resolve::resolve(sample, places, known, files, diagnostics);
            plan::samples(sample, &cells.filter(|_| diagnostics.is_empty())?)
        }
        Work::Simulate(simulate) => plan::simulated(simulate),
        Work::Folder(folder) => folder.resolve(places, known, files, diagnostics)?,
        Work::Score(score) => return score.resolve(places, known, files, diagnostics),
    };
    Some((conditions, draft.grid()?.seeds.clone()))
}

fn experiment(draft: &Draft, text: &str) -> Experiment {
    Experiment {
        name: draft.name.clone(),
        description: draft.description.clone(),
        kind: draft.kind(),
        priority: draft.priority,
        share: draft.share,
        max_attempts: draft.retries + 1,
        max_losses: draft.losses,
        needs: draft.needs.iter().map(|need| need.value.clone()).collect(),
        budget_gpu_hours: draft.budget_gpu_hours,
        yaml: text.to_owned(),
    }
}
