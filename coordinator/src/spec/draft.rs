//! An experiment file as typed sections, before the files that it names are looked at.

use super::diagnose::{Diagnostics, Place};
use super::fields::{Fields, Located};
use super::grid::{self, Grid};
use super::model::{self, ModelNames};
use super::node::Node;
use super::probes;
use super::region::{self, Region};
use super::sampling::{self, Setting};
use protocol::probe::ProbeClass;

/// What an experiment file asks for. Where the file has mistakes, which have been told, parts are missing.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    pub name: String,
    pub name_place: Place,
    pub description: String,
    pub models: ModelNames,
    pub grid: Grid,
    /// In the file's order; `None` for a region with a mistake.
    pub regions: Vec<(String, Option<Region>)>,
    /// The `sampling` section, in the file's order.
    pub settings: Vec<Located<Setting>>,
    pub probes: Vec<ProbeClass>,
    pub priority: i32,
    pub retries: u32,
    pub budget_gpu_hours: Option<f64>,
    /// Where the experiment begins, for what no single line asks for.
    pub place: Place,
}

impl Draft {
    /// What the file sets in a cell of the grid's axes (see [`Grid::cells`]); the later of two counts.
    pub fn settings_at<'a>(&'a self, point: &'a [&'a Located<Setting>]) -> impl Iterator<Item = &'a Setting> + Clone {
        self.settings.iter().chain(point.iter().copied()).map(|setting| &setting.value)
    }

    /// Every setting of the file, under `sampling` and under `grid`.
    pub fn all_settings(&self) -> impl Iterator<Item = &Located<Setting>> {
        self.settings.iter().chain(self.grid.axes.iter().flat_map(|axis| &axis.values))
    }
}

const KEYS: [&str; 11] =
    ["name", "description", "kind", "models", "grid", "regions", "sampling", "probes", "priority", "retries", "budget"];

/// Reads the sections of the file's root.
pub fn read(root: &Node, diagnostics: &mut Diagnostics) -> Option<Draft> {
    let fields = Fields::of(root, "an experiment", &KEYS, diagnostics)?;
    let name = fields.required("name", diagnostics).and_then(|node| node.name("the experiment's name", diagnostics));
    let description = fields.get("description").and_then(|node| node.text("`description`", diagnostics));
    if let Some(node) = fields.required("kind", diagnostics) {
        let _: Option<()> = node.choice("`kind`", &[("sample", ())], diagnostics);
    }
    let models = fields.required("models", diagnostics).map(|node| model::read(node, diagnostics));
    let grid = fields.required("grid", diagnostics).map(|node| grid::read(node, diagnostics)).unwrap_or_default();
    let probes = match fields.get("probes") {
        Some(node) => probes::read(node, diagnostics),
        None => Some(protocol::probe::paper()),
    };
    let regions =
        fields.get("regions").map(|node| region::read(node, probes.as_deref(), diagnostics)).unwrap_or_default();
    let settings = fields.get("sampling").map(|node| sampling::read(node, diagnostics)).unwrap_or_default();
    for setting in &settings {
        let name = setting.value.name();
        if grid.axes.iter().any(|axis| axis.name == name) {
            diagnostics
                .mistake(setting.place, format!("`{name}` stands both under `sampling` and under `grid`"))
                .note("a swept parameter stands under `grid` only: leave it out here");
        }
    }
    let priority = fields
        .get("priority")
        .and_then(|node| node.integer("`priority`", i32::MIN.into(), i32::MAX.into(), diagnostics));
    let retries = fields.get("retries").and_then(|node| node.integer("`retries`", 0, 100, diagnostics));
    let budget_gpu_hours = fields.get("budget").and_then(|node| {
        let fields = Fields::of(node, "`budget`", &["gpu_hours"], diagnostics)?;
        let hours = fields.required("gpu_hours", diagnostics)?;
        hours.number("`gpu_hours`", "a number of hours above 0", |hours| hours > 0.0, diagnostics)
    });
    Some(Draft {
        name: name.unwrap_or_default(),
        name_place: fields.get("name").map(|node| node.place).unwrap_or_default(),
        description: description.unwrap_or_default(),
        models: models.unwrap_or_default(),
        grid,
        regions,
        settings,
        probes: probes.unwrap_or_default(),
        priority: priority.unwrap_or(0),
        retries: retries.unwrap_or(3),
        budget_gpu_hours,
        place: root.place,
    })
}
