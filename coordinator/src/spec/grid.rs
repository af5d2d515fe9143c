//! The grid: subjects × regions × swept sampling parameters, and the seeds.

use super::diagnose::Diagnostics;
use super::fields::{Fields, Located};
use super::node::{Node, Value};
use super::region::ClusterName;
use super::sampling::Setting;
use protocol::ids::Seed;
use std::collections::HashSet;

/// Jobs that one file may ask for: ten times a large campaign.
pub const MOST_JOBS: u128 = 10_000_000;

/// The `grid` section.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Grid {
    pub subjects: Vec<Located<String>>,
    pub regions: Vec<Located<String>>,
    /// Without duplicates, in the order of the file.
    pub seeds: Vec<Seed>,
    /// In the order of the file.
    pub axes: Vec<Axis>,
}

/// A sampling parameter with the values that the grid gives it.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    pub name: String,
    pub values: Vec<Located<Setting>>,
}

impl Grid {
    /// Subjects × regions × axes.
    pub fn conditions(&self) -> u64 {
        let cells = (self.subjects.len() as u64).saturating_mul(self.regions.len() as u64);
        cells.saturating_mul(self.points())
    }

    /// How many [`Grid::cells`] there are.
    pub fn points(&self) -> u64 {
        self.axes.iter().fold(1, |product: u64, axis| product.saturating_mul(axis.values.len() as u64))
    }

    /// Every cell of the swept parameters: one setting per axis, the last axis running fastest.
    pub fn cells(&self) -> Vec<Vec<&Located<Setting>>> {
        self.axes.iter().fold(vec![Vec::new()], |cells, axis| {
            cells
                .iter()
                .flat_map(|cell| {
                    axis.values.iter().map(move |setting| {
                        let mut longer = cell.clone();
                        longer.push(setting);
                        longer
                    })
                })
                .collect()
        })
    }
}

/// What a grid may have.
#[derive(Debug, Clone, Copy)]
pub struct Shape<'a> {
    /// Parameters that can be swept.
    pub parameters: &'a [&'a str],
    /// Whether jobs are about regions, or about whole subjects.
    pub regions: bool,
    /// The seed if none is given; `None`: one must be.
    pub seed: Option<Seed>,
}

/// Reads the `grid` section. A grid without regions has one, without a name.
pub fn read(node: &Node, shape: Shape<'_>, diagnostics: &mut Diagnostics) -> Grid {
    let Shape { parameters, regions, seed } = shape;
    let own = if regions { &["subject", "region", "seed"][..] } else { &["subject", "seed"] };
    let keys = [own, parameters].concat();
    let Some(fields) = Fields::of(node, "`grid`", &keys, diagnostics) else { return Grid::default() };
    let subjects = fields
        .required("subject", diagnostics)
        .map(|node| node.distinct("`subject`", diagnostics, |item, d| item.name("the name of a subject", d)));
    let regions = match regions {
        true => fields
            .required("region", diagnostics)
            .map(|node| node.distinct("`region`", diagnostics, region_name))
            .unwrap_or_default(),
        false => vec![Located { place: node.place, value: String::new() }],
    };
    let mut grid = Grid { subjects: subjects.unwrap_or_default(), regions, ..Grid::default() };
    for (key, value) in fields.iter().filter(|(key, _)| parameters.contains(&key.name.as_str())) {
        let values =
            value.distinct(&format!("`{}`", key.name), diagnostics, |item, d| Setting::read(&key.name, item, d));
        grid.axes.push(Axis { name: key.name.clone(), values });
    }
    let seeds_node = if seed.is_some() { fields.get("seed") } else { fields.required("seed", diagnostics) };
    grid.seeds.extend(seed.filter(|_| seeds_node.is_none()));
    if let Some(node) = seeds_node {
        grid.seeds = seeds(node, diagnostics);
        let jobs = u128::from(grid.conditions()) * grid.seeds.len() as u128;
        if jobs > MOST_JOBS {
            diagnostics
                .mistake(node.place, format!("the grid asks for {jobs} jobs"))
                .note(format!("expected at most {MOST_JOBS}: split the experiment into several files"));
        }
    }
    grid
}

/// A name, or that of a region's cluster.
fn region_name(node: &Node, diagnostics: &mut Diagnostics) -> Option<String> {
    match &node.value {
        Value::Text(text) if ClusterName::parse(text).is_some() => Some(text.clone()),
        _ => node.name("the name of a region", diagnostics),
    }
}

/// `{ start: 0, count: 500 }`, a list of numbers, or one number.
fn seeds(node: &Node, diagnostics: &mut Diagnostics) -> Vec<Seed> {
    let most = i128::from(u64::MAX);
    if matches!(node.value, Value::Map(_)) {
        let Some(fields) = Fields::of(node, "`seed`", &["start", "count"], diagnostics) else { return Vec::new() };
        let start: Option<u64> = match fields.get("start") {
            Some(start) => start.integer("`start`", 0, most, diagnostics),
            None => Some(0),
        };
        let count: Option<u64> = fields
            .required("count", diagnostics)
            .and_then(|count| count.integer("`count`", 1, MOST_JOBS as i128, diagnostics));
        let (Some(start), Some(count)) = (start, count) else { return Vec::new() };
        let Some(last) = start.checked_add(count - 1) else {
            diagnostics.mistake(node.place, "the last seed does not fit into 64 bits").note("take a smaller `start`");
            return Vec::new();
        };
        return (start..=last).map(Seed).collect();
    }
    let mut seen = HashSet::new();
    let mut seeds = Vec::new();
    for item in node.items("seeds", diagnostics) {
        let Some(seed) = item.integer::<u64>("a seed", 0, most, diagnostics) else { continue };
        if seen.insert(seed) {
            seeds.push(Seed(seed));
        } else {
            diagnostics.mistake(item.place, format!("seed {seed} is listed twice")).note("a seed names one image");
        }
    }
    seeds
}
