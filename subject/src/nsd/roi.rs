//! ROI volumes: −1 outside cortex, 0 in cortex without label, above 0 a label (NSD data manual).

use super::ctab::{self, Labels};
use super::{Layout, NsdError, Subject};
use crate::volume::Volume;

/// Values at or above this are cortex.
const CORTEX: f64 = -0.5;
/// Values above this are labels.
const LABELLED: f64 = 0.5;

/// An ROI volume with its labels' names.
#[derive(Debug, Clone, PartialEq)]
pub struct Roi {
    pub name: String,
    pub volume: Volume,
    pub labels: Labels,
}

impl Roi {
    /// Reads the volume and, where there is one, its colour table; else the manual's names, else the labels' numbers.
    ///
    /// # Errors
    /// A file is missing or malformed.
    pub fn read(layout: &Layout, subject: Subject, name: &str) -> Result<Self, NsdError> {
        let volume = Volume::read(&layout.roi(subject, name))?;
        let table = layout.ctab(subject, name);
        let mut labels = match table.is_file() {
            true => ctab::read(&table)?,
            false => ctab::known(name).unwrap_or_default(),
        };
        for &value in volume.values.iter().filter(|&&value| value > LABELLED) {
            labels.entry(value.round() as i32).or_insert_with_key(|label| format!("{name}-{label}"));
        }
        Ok(Self { name: name.to_owned(), volume, labels })
    }

    pub fn is_cortex(&self, position: usize) -> bool {
        self.volume.values[position] >= CORTEX
    }

    pub fn is_labelled(&self, position: usize) -> bool {
        self.volume.values[position] > LABELLED
    }

    /// The label at a position; 0 for none.
    pub fn label(&self, position: usize) -> i32 {
        (self.volume.values[position].round() as i32).max(0)
    }
}
