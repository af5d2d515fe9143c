//! NIfTI masks to head rows: which of the voxels that an encoder predicts lie in a region of the subject's functional volume.
//!
//! NSD's label volumes hold −1 outside cortex, 0 in unlabelled cortex, and positive labels (Allen et al. 2022); its category regions
//! are drawn at t > 0, which is why the paper thresholds the localiser's t map again (Luo et al. 2023, section 4.1).

use super::head::Head;
use std::fmt;
use std::path::PathBuf;
use subject::volume::{Volume, VolumeError};

/// A region of a subject's functional volume.
#[derive(Debug, Clone, PartialEq)]
pub struct VolumeMask {
    /// A NIfTI volume, `.nii` or `.nii.gz`.
    pub mask: PathBuf,
    /// The values that belong to the region; empty for all positive values.
    pub labels: Vec<i32>,
    /// Restricts the region to voxels of larger value in a second volume of the same shape.
    pub threshold: Option<Threshold>,
}

/// The voxels whose value in a NIfTI map is larger than `above`.
#[derive(Debug, Clone, PartialEq)]
pub struct Threshold {
    pub map: PathBuf,
    pub above: f64,
}

/// The part of a mask that a head predicts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaskedRows {
    /// Rows of the head whose voxel lies in the mask, ascending; never empty.
    pub rows: Vec<usize>,
    /// Voxels of the whole mask, whether the head predicts them or not: the denominator of preset `paper`.
    pub mask_voxels: usize,
}

/// Why a mask could not be turned into rows of a head.
#[derive(Debug, thiserror::Error)]
pub enum MaskError {
    #[error(transparent)]
    Volume(#[from] VolumeError),
    #[error("{map} has the shape {map_shape:?} and {mask} {mask_shape:?}; both have to be in the same space")]
    Shapes { mask: PathBuf, mask_shape: Vec<usize>, map: PathBuf, map_shape: Vec<usize> },
    #[error(
        "{path} has no tensor `voxel_ijk`, so its voxels have no place in a volume; \
         name regions by the head's own ROIs, or export the head with `voxel_ijk`"
    )]
    NoVoxelIjk { path: PathBuf },
    #[error(
        "row {row} of {head} is voxel {voxel:?}, which is outside {mask} of shape {shape:?}; is it another subject's volume?"
    )]
    Outside { head: PathBuf, row: usize, voxel: [usize; 3], mask: PathBuf, shape: Vec<usize> },
    #[error(
        "no voxel of {head} ({head_voxels} voxels) lies in {mask}, which selects {mask_voxels} voxels; \
         check its labels and threshold, and that head and mask are of the same subject"
    )]
    Empty { head: PathBuf, head_voxels: usize, mask: Box<VolumeMask>, mask_voxels: usize },
}

impl VolumeMask {
    /// The rows of a head whose voxel, a zero-based index along each axis of the NIfTI array, lies in the mask.
    ///
    /// # Errors
    /// A volume cannot be read or has another shape, the head has no `voxel_ijk`, or none of its voxels lies in the mask.
    pub fn rows_of(&self, head: &Head) -> Result<MaskedRows, MaskError> {
        let path = || head.path().to_owned();
        let voxels = head.voxel_ijk().ok_or_else(|| MaskError::NoVoxelIjk { path: path() })?;
        let mask = Volume::read(&self.mask)?;
        let selected = self.select(&mask)?;
        let mask_voxels = selected.iter().filter(|&&selected| selected).count();
        let mut rows = Vec::new();
        for (row, &voxel) in voxels.iter().enumerate() {
            let outside = || MaskError::Outside {
                head: path(),
                row,
                voxel,
                mask: self.mask.clone(),
                shape: mask.grid.shape().to_vec(),
            };
            if selected[mask.grid.position(voxel).ok_or_else(outside)?] {
                rows.push(row);
            }
        }
        match rows.is_empty() {
            false => Ok(MaskedRows { rows, mask_voxels }),
            true => Err(MaskError::Empty {
                head: path(),
                head_voxels: voxels.len(),
                mask: Box::new(self.clone()),
                mask_voxels,
            }),
        }
    }

    /// Whether each voxel of the volume `mask` is in the region.
    fn select(&self, mask: &Volume) -> Result<Vec<bool>, MaskError> {
        let labelled = |value: f64| match self.labels.as_slice() {
            [] => value > 0.0,
            labels => labels.iter().any(|&label| f64::from(label) == value),
        };
        let mut selected: Vec<bool> = mask.values.iter().map(|&value| labelled(value)).collect();
        if let Some(threshold) = &self.threshold {
            let map = Volume::read(&threshold.map)?;
            if map.grid.shape() != mask.grid.shape() {
                return Err(MaskError::Shapes {
                    mask: self.mask.clone(),
                    mask_shape: mask.grid.shape().to_vec(),
                    map: threshold.map.clone(),
                    map_shape: map.grid.shape().to_vec(),
                });
            }
            selected.iter_mut().zip(map.values).for_each(|(selected, t)| *selected &= t > threshold.above);
        }
        Ok(selected)
    }
}

impl fmt::Display for VolumeMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.mask.display())?;
        if !self.labels.is_empty() {
            write!(f, " (labels {:?})", self.labels)?;
        }
        match &self.threshold {
            Some(threshold) => write!(f, " where {} > {}", threshold.map.display(), threshold.above),
            None => Ok(()),
        }
    }
}
