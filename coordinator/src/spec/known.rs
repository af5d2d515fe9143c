//! Experiments that come first, as far as they are known when a file is read: from the job table, or from files that were named before.

use crate::plan::{Plan, PlannedCondition};
use protocol::ids::Seed;
use protocol::job::{Kind, Origin};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What is known of other experiments, by their names.
#[derive(Debug, Clone, Default)]
pub struct Known(BTreeMap<String, Entry>);

#[derive(Debug, Clone)]
enum Entry {
    /// It is in the job table; nobody has asked what it makes.
    Named,
    /// It stands in a file that was read before, and has no plan.
    Unplanned(PathBuf),
    Needed(Needed),
}

/// How an experiment stands that comes first.
#[derive(Debug, PartialEq, Eq)]
pub enum Standing<'k> {
    Known,
    /// The file where it stands has mistakes, or names files that are missing.
    Unplanned(&'k Path),
    /// There are only these.
    Missing {
        names: Vec<&'k str>,
    },
}

/// An experiment that comes first.
#[derive(Debug, Clone)]
pub struct Needed {
    pub kind: Kind,
    pub conditions: Vec<PlannedCondition>,
    pub seeds: Vec<Seed>,
}

/// The job that makes a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maker<'k> {
    pub experiment: &'k str,
    pub kind: Kind,
    pub origin: Origin,
}

impl From<&Plan> for Needed {
    fn from(plan: &Plan) -> Self {
        Self { kind: plan.experiment.kind, conditions: plan.conditions.clone(), seeds: plan.seeds.clone() }
    }
}

impl Known {
    pub fn insert(&mut self, name: String, needed: Needed) {
        self.0.insert(name, Entry::Needed(needed));
    }

    /// Notes that there is an experiment, and no more of it.
    pub fn name(&mut self, name: String) {
        self.0.entry(name).or_insert(Entry::Named);
    }

    /// Notes that the file at `path` says anew what an experiment does, and cannot be planned.
    pub fn unplanned(&mut self, name: String, path: &Path) {
        self.0.insert(name, Entry::Unplanned(path.to_owned()));
    }

    pub fn get(&self, name: &str) -> Option<&Needed> {
        match self.0.get(name)? {
            Entry::Needed(needed) => Some(needed),
            Entry::Named | Entry::Unplanned(_) => None,
        }
    }

    pub fn standing(&self, name: &str) -> Standing<'_> {
        match self.0.get(name) {
            Some(Entry::Unplanned(path)) => Standing::Unplanned(path),
            Some(Entry::Named | Entry::Needed(_)) => Standing::Known,
            None => Standing::Missing { names: self.0.keys().map(String::as_str).collect() },
        }
    }

    /// The experiments of `names` that are known.
    pub fn only<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Self {
        let known = names.into_iter().filter_map(|name| Some((name.to_owned(), self.0.get(name)?.clone())));
        Self(known.collect())
    }

    /// The jobs that make the folder `path`. Several, if what an experiment makes there was changed and submitted again.
    pub fn makers(&self, path: &Path) -> Vec<Maker<'_>> {
        let mut makers = Vec::new();
        for (experiment, entry) in &self.0 {
            let Entry::Needed(needed) = entry else { continue };
            for condition in &needed.conditions {
                for &seed in &needed.seeds {
                    if condition.spec.out(seed).is_some_and(|out| out == path) {
                        let origin = Origin { condition: condition.key.clone(), seed };
                        makers.push(Maker { experiment, kind: needed.kind, origin });
                    }
                }
            }
        }
        makers
    }
}
