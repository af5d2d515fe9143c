//! The sections of an experiment of guided samples.

use super::diagnose::{Diagnostics, Place};
use super::fields::{Fields, Located};
use super::grid::{self, Grid};
use super::model::{self, ModelNames};
use super::probes;
use super::region::{self, Region};
use super::sampling::{self, PARAMETERS, Setting};
use protocol::probe::ProbeClass;

/// Models that every sample needs.
const MODELS: [&str; 4] = ["diffusion", "backbone", "encoder", "probe"];
const SHAPE: grid::Shape<'static> = grid::Shape { parameters: &PARAMETERS, regions: true, seed: None };

/// What is sampled, before the files that the sections name are looked at.
#[derive(Debug, Clone, PartialEq)]
pub struct SampleDraft {
    pub models: ModelNames,
    pub grid: Grid,
    /// In the file's order; `None` for a region with a mistake.
    pub regions: Vec<(String, Option<Region>)>,
    /// The `sampling` section, in the file's order.
    pub settings: Vec<Located<Setting>>,
    pub probes: Vec<ProbeClass>,
    /// Where the experiment begins, for what no single line asks for.
    pub place: Place,
}

impl SampleDraft {
    /// Reads the sections; `place` is the experiment's.
    pub fn read(fields: &Fields<'_>, place: Place, diagnostics: &mut Diagnostics) -> Self {
        let models = fields
            .required("models", diagnostics)
            .map(|node| model::read(node, &MODELS, &["volumes", "clusters"], diagnostics));
        let grid = fields.required("grid", diagnostics).map(|node| grid::read(node, SHAPE, diagnostics));
        let grid = grid.unwrap_or_default();
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
        let (models, probes) = (models.unwrap_or_default(), probes.unwrap_or_default());
        Self { models, grid, regions, settings, probes, place }
    }

    /// What the file sets in a cell of the grid's axes (see [`Grid::cells`]); the later of two counts.
    pub fn settings_at<'a>(&'a self, point: &'a [&'a Located<Setting>]) -> impl Iterator<Item = &'a Setting> + Clone {
        self.settings.iter().chain(point.iter().copied()).map(|setting| &setting.value)
    }

    /// Every setting of the file, under `sampling` and under `grid`.
    pub fn all_settings(&self) -> impl Iterator<Item = &Located<Setting>> {
        self.settings.iter().chain(self.grid.axes.iter().flat_map(|axis| &axis.values))
    }
}
