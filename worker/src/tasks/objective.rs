//! The experiment's objective in terms of the head's rows.

use super::input::{self, unchanged};
use super::models::ShelfError;
use braindive::Error;
use braindive::encoder::{Encoder, Head, Objective, Term, Threshold, VolumeMask};
use protocol::job::{self, Input, VoxelSet};

/// Resolves masks in the subject's volume; row lists were resolved when the experiment was submitted.
pub fn resolve(objective: &job::Objective, region: &str, encoder: &Encoder) -> Result<Objective, ShelfError> {
    let terms = objective.terms.iter().map(|term| {
        let (voxels, denominator) = match &term.voxels {
            VoxelSet::Rows { rows, denominator } => {
                (rows.iter().map(|&row| row as usize).collect(), *denominator as usize)
            }
            VoxelSet::Roi { name, whole_mask_mean } => named(name, *whole_mask_mean, &encoder.head)?,
            VoxelSet::Cluster { clusters, number } => {
                let rows = clustered(clusters, *number, &encoder.head)?;
                let voxels = rows.len();
                (rows, voxels)
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

/// An ROI of the head by its name.
fn named(name: &str, whole_mask_mean: bool, head: &Head) -> Result<(Vec<usize>, usize), ShelfError> {
    let Some(rows) = head.rois().get(name) else {
        let known = head.rois().keys().cloned().collect();
        return Err(
            Error::NoSuchRegion { head: head.path().to_owned(), kind: "ROI", name: name.to_owned(), known }.into()
        );
    };
    let mask_voxels = head.mask_voxels().get(name).copied().unwrap_or(rows.len());
    Ok((rows.clone(), if whole_mask_mean { mask_voxels } else { rows.len() }))
}

/// The voxels of a cluster, all of which a head of the same subject predicts.
fn clustered(clusters: &Input, number: u32, head: &Head) -> Result<Vec<usize>, ShelfError> {
    input::check(clusters)?;
    let mask = clusters.path().join("clusters.nii.gz");
    let labels = vec![i32::try_from(number).unwrap_or(i32::MAX)];
    Ok(VolumeMask { mask, labels, threshold: None }.rows_of(head).map_err(Error::from)?.rows)
}
