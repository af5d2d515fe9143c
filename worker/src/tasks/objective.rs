//! The experiment's objective in terms of the head's rows.

use super::models::{ShelfError, sha256};
use braindive::encoder::{Encoder, Objective, Term, Threshold, VolumeMask};
use protocol::ids::Digest;
use protocol::job::{self, VoxelSet};
use std::path::Path;

/// Resolves masks in the subject's volume; row lists were resolved when the experiment was submitted.
pub fn resolve(objective: &job::Objective, region: &str, encoder: &Encoder) -> Result<Objective, ShelfError> {
    let terms = objective.terms.iter().map(|term| {
        let (voxels, denominator) = match &term.voxels {
            VoxelSet::Rows { rows, denominator } => {
                (rows.iter().map(|&row| row as usize).collect(), *denominator as usize)
            }
            VoxelSet::Volume(volume) => masked(volume, encoder)?,
        };
        Ok(Term { region: region.to_owned(), weight: term.weight, voxels, denominator })
    });
    Ok(Objective { terms: terms.collect::<Result<_, ShelfError>>()? })
}

/// The rows in a mask, and what their sum is divided by.
fn masked(volume: &job::VolumeMask, encoder: &Encoder) -> Result<(Vec<usize>, usize), ShelfError> {
    unchanged(&volume.mask, &volume.mask_sha256)?;
    if let (Some(map), Some(expected)) = (&volume.t_map, &volume.t_map_sha256) {
        unchanged(map, expected)?;
    }
    let threshold = volume.t_map.clone().zip(volume.t_above).map(|(map, above)| Threshold { map, above });
    let mask = VolumeMask { mask: volume.mask.clone(), labels: volume.labels.clone(), threshold };
    let found = mask.rows_of(&encoder.head).map_err(braindive::Error::from)?;
    let denominator = if volume.whole_mask_mean { found.mask_voxels } else { found.rows.len() };
    Ok((found.rows, denominator))
}

/// The file must have the content that was submitted.
pub(super) fn unchanged(path: &Path, expected: &Digest) -> Result<(), ShelfError> {
    let found = sha256(path)?;
    if found == *expected {
        return Ok(());
    }
    Err(ShelfError::Changed { path: path.to_owned(), found, expected: expected.clone() })
}
