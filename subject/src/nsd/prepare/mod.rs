//! NSD to a subject's prepared data: betas z-scored by session and averaged over repeats, a voxel set, regions, a split, images resized
//! (Luo et al. 2023, section 4.1).
//!
//! [`Plan`] reads everything that is small and finds all that is wrong; then the betas are read once, session by session, each leaving
//! its picked voxels in the draft, so that a later try goes on behind the last one; then they are averaged and the images resized.

mod average;
pub(crate) mod ceiling;
mod parcels;
mod pick;
mod pictures;
mod plan;
mod regions;
mod settings;
pub mod split;

pub use plan::Plan;
pub use settings::Settings;

use super::{NsdError, Subject};
use crate::dataset::{self, GRID, MONTAGE, Regions};
use crate::folder::{Draft, Manifest, Opened, Provenance};
use crate::image::{RgbImage8, png};
use crate::volume::{Montage, write_labels};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

/// What makes a folder: its manifest's `kind`.
pub const KIND: &str = "prepare";

/// Called with what is done and what there is to do, in bytes; breaking ends the work.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>;

/// Makes the folder `out` of a subject's prepared data ([`crate::dataset`]), or goes on making it; `identity`: what decides its content,
/// see [`Draft::open`]. `software`: name and version.
///
/// # Errors
/// Everything that is missing or wrong, before the betas are read; a damaged file of betas; the disk fails; `progress` breaks.
pub fn run(
    subject: Subject,
    settings: &Settings,
    out: &Path,
    identity: &str,
    software: &str,
    progress: Progress<'_>,
) -> Result<Manifest, NsdError> {
    if out.exists()
        && let Opened::Done(manifest) = Draft::open(out, identity)?
    {
        return Ok(manifest);
    }
    let plan = Plan::new(subject, settings)?;
    let draft = match Draft::open(out, identity)? {
        Opened::Done(manifest) => return Ok(manifest),
        Opened::Draft(draft) => draft,
    };
    let folder = draft.path();
    let mut work = Work { done: 0, total: plan.bytes(), progress };
    let mut inputs = plan.inputs.clone();
    inputs.extend(pick::sessions(&plan, folder, &mut work)?);
    average::betas(&plan, folder)?;
    inputs.push(pictures::images(&plan, folder, &mut work)?);
    dataset::write_voxels(folder, &plan.voxel_ijk(), &plan.ncsnr, &plan.noise_ceiling()).map_err(of_disk)?;
    dataset::write_regions(folder, &plan.regions).map_err(of_disk)?;
    let labels = plan.grid.scatter(&plan.voxels, &vec![1; plan.voxels.len()], 0)?;
    write_labels(&folder.join(GRID), &plan.grid, &labels)?;
    let ceiling = plan.grid.scatter(&plan.voxels, &plan.noise_ceiling(), f32::NAN)?;
    let picture = Montage { grid: &plan.grid, anatomy: None }.map(&ceiling, Some([0.0, 100.0]));
    picture.map_err(crate::Error::from).and_then(|picture| draw(&folder.join(MONTAGE), &picture)).map_err(of_disk)?;
    let provenance = Provenance {
        kind: KIND.to_owned(),
        subject: subject.to_string(),
        settings: serde_json::to_value(settings).unwrap_or_default(),
        inputs,
        summary: summary(&plan),
        software: software.to_owned(),
    };
    Ok(draft.publish(provenance)?)
}

fn draw(path: &Path, picture: &RgbImage8) -> crate::Result<()> {
    let file = png::encode(picture, &png::Text::new())?;
    std::fs::write(path, file).map_err(|source| crate::Error::Write { path: path.to_owned(), source })
}

/// How far the work is.
struct Work<'a> {
    done: u64,
    total: u64,
    progress: Progress<'a>,
}

impl Work<'_> {
    fn step(&mut self, bytes: u64) -> ControlFlow<()> {
        self.done = (self.done + bytes).min(self.total);
        (self.progress)(self.done, self.total)
    }
}

fn summary(plan: &Plan) -> BTreeMap<String, f64> {
    let Regions { regions, .. } = &plan.regions;
    let test = plan.test.iter().filter(|&&test| test == 1).count();
    [
        ("sessions", plan.sessions.len()),
        ("images", plan.images.len()),
        ("test_images", test),
        ("voxels", plan.voxels.len()),
        ("regions", regions.len()),
        ("empty_regions", regions.values().filter(|region| region.rows.is_empty()).count()),
    ]
    .map(|(name, number)| (name.to_owned(), number as f64))
    .into()
}

/// An error of the prepared data's own files, all of which are being written.
fn of_disk(error: crate::Error) -> NsdError {
    match error {
        crate::Error::Write { path, source } => NsdError::Write { path, source },
        other => NsdError::Write { path: Default::default(), source: std::io::Error::other(other) },
    }
}
