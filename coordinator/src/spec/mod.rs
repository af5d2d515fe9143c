//! Experiment files: YAML text to a plan, with every mistake and every missing file named at once.
//!
//! A file's way through it: text → [`node`] (a tree with places) → [`draft`] (typed sections, by kind of work [`sample`] or
//! [`simulate`]) → [`resolve`] (folders, heads, masks, objectives of samples) → [`crate::plan`]. Every step tells what is wrong to the [`diagnose::Diagnostics`] and goes on.

pub mod bundle;
pub mod conflict;
pub mod diagnose;
pub mod draft;
pub mod fields;
pub mod files;
pub mod grid;
pub mod model;
pub mod node;
pub mod objective;
pub mod probes;
pub mod region;
pub mod resolve;
pub mod sample;
pub mod sampling;
pub mod simulate;
pub mod start;
pub mod summary;
pub mod volume;

use crate::plan::{self, Experiment, Plan};
use diagnose::{Diagnostics, Place};
use draft::{Draft, Work};
use files::{Digests, Files};
use model::{HubCache, Whereabouts};
use std::path::{Path, PathBuf};
use std::{fs, io};

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

/// Reads the experiment file at `path` and everything that it names. Model files are hashed only if all of them are there.
pub fn load(path: &Path, hub: &HubCache, digests: &mut Digests) -> Loaded {
    let text = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            let mut diagnostics = Diagnostics::new(path, "");
            let told = diagnostics.mistake(Place::default(), format!("cannot read the experiment file: {error}"));
            if error.kind() == io::ErrorKind::NotFound {
                told.note("expected the path of a YAML file, for example experiments/miniature.yaml");
            }
            return Loaded { path: path.to_owned(), diagnostics, draft: None, plan: None };
        }
    };
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let base = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    let places = Whereabouts { base, hub: hub.clone() };
    match String::from_utf8(text) {
        Ok(text) => read(path, &text, &places, digests),
        Err(error) => {
            let valid = String::from_utf8_lossy(&error.as_bytes()[..error.utf8_error().valid_up_to()]).into_owned();
            let line = valid.lines().count().max(1);
            let column = valid.lines().last().map_or(1, |last| last.chars().count() + 1);
            let mut diagnostics = Diagnostics::new(path, &valid);
            diagnostics
                .mistake(Place { line, column, width: 1 }, "not UTF-8 text")
                .note("an experiment file is YAML in UTF-8");
            Loaded { path: path.to_owned(), diagnostics, draft: None, plan: None }
        }
    }
}

/// Reads the experiment in `text`; `path` names it in messages.
pub fn read(path: &Path, text: &str, places: &Whereabouts, digests: &mut Digests) -> Loaded {
    let mut diagnostics = Diagnostics::new(path, text);
    let loaded = |mut diagnostics: Diagnostics, draft, plan| {
        diagnostics.sort();
        Loaded { path: path.to_owned(), diagnostics, draft, plan }
    };
    let Some(draft) = node::parse(text, &mut diagnostics).and_then(|root| draft::read(&root, &mut diagnostics)) else {
        return loaded(diagnostics, None, None);
    };
    let conditions = match &draft.work {
        Work::Sample(sample) => {
            conflict::check(sample, &mut diagnostics);
            let cells = resolve::resolve(sample, places, &mut Files::new(digests), &mut diagnostics);
            cells.filter(|_| diagnostics.is_empty()).map(|cells| plan::samples(sample, &cells))
        }
        Work::Simulate(simulate) => Some(plan::simulated(simulate)),
    };
    if diagnostics.has_mistakes() {
        return loaded(diagnostics, None, None);
    }
    let experiment = Experiment {
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
    };
    let plan = conditions.filter(|_| diagnostics.is_empty()).map(|conditions| Plan {
        experiment,
        conditions,
        seeds: draft.grid().seeds.clone(),
    });
    loaded(diagnostics, Some(draft), plan)
}
