//! NIfTI masks to head rows: which of the voxels that an encoder predicts lie in a region of the subject's functional volume.
//!
//! NSD's label volumes hold −1 outside cortex, 0 in unlabelled cortex, and positive labels (Allen et al. 2022); its category regions
//! are drawn at t > 0, which is why the paper thresholds the localiser's t map again (Luo et al. 2023, section 4.1).

use super::head::Head;
use nifti::{InMemNiftiVolume, IntoNdArray, NiftiObject, NiftiVolume, ReaderOptions};
use std::fmt;
use std::path::{Path, PathBuf};

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
pub enum VolumeError {
    #[error("reading the NIfTI volume {path}: {source}")]
    Nifti { path: PathBuf, source: nifti::NiftiError },
    #[error("{path} has the shape {found:?}; a mask or t map is one volume with three axes")]
    NotOneVolume { path: PathBuf, found: Vec<u16> },
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
    pub fn rows_of(&self, head: &Head) -> Result<MaskedRows, VolumeError> {
        let path = || head.path().to_owned();
        let voxels = head.voxel_ijk().ok_or_else(|| VolumeError::NoVoxelIjk { path: path() })?;
        let mask = Volume::read(&self.mask)?;
        let selected = self.select(&mask)?;
        let mask_voxels = selected.iter().filter(|&&selected| selected).count();
        let mut rows = Vec::new();
        for (row, &voxel) in voxels.iter().enumerate() {
            let outside = || VolumeError::Outside {
                head: path(),
                row,
                voxel,
                mask: self.mask.clone(),
                shape: mask.shape.to_vec(),
            };
            if selected[mask.position(voxel).ok_or_else(outside)?] {
                rows.push(row);
            }
        }
        match rows.is_empty() {
            false => Ok(MaskedRows { rows, mask_voxels }),
            true => Err(VolumeError::Empty {
                head: path(),
                head_voxels: voxels.len(),
                mask: Box::new(self.clone()),
                mask_voxels,
            }),
        }
    }

    /// Whether each voxel of the volume `mask` is in the region.
    fn select(&self, mask: &Volume) -> Result<Vec<bool>, VolumeError> {
        let labelled = |value: f64| match self.labels.as_slice() {
            [] => value > 0.0,
            labels => labels.iter().any(|&label| f64::from(label) == value),
        };
        let mut selected: Vec<bool> = mask.values.iter().map(|&value| labelled(value)).collect();
        if let Some(threshold) = &self.threshold {
            let map = Volume::read(&threshold.map)?;
            if map.shape != mask.shape {
                return Err(VolumeError::Shapes {
                    mask: self.mask.clone(),
                    mask_shape: mask.shape.to_vec(),
                    map: threshold.map.clone(),
                    map_shape: map.shape.to_vec(),
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

/// A volume's values, scaled by the header's slope and intercept; the last axis runs fastest.
struct Volume {
    shape: [usize; 3],
    values: Vec<f64>,
}

impl Volume {
    fn read(path: &Path) -> Result<Self, VolumeError> {
        let nifti = |source| VolumeError::Nifti { path: path.to_owned(), source };
        let object = ReaderOptions::new().read_file(path).map_err(nifti)?;
        let mut header = object.header().clone();
        // NIfTI-1 marks unscaled data by a slope of 0; some writers put NaN there.
        if !header.scl_slope.is_finite() {
            header.scl_slope = 0.0;
        }
        let raw = object.into_volume();
        let dim = raw.dim().to_vec();
        let (&[x, y, z], true) = (dim.get(..3).unwrap_or(&[]), dim.iter().skip(3).all(|&axis| axis == 1)) else {
            return Err(VolumeError::NotOneVolume { path: path.to_owned(), found: dim });
        };
        let values = InMemNiftiVolume::from_raw_data(&header, raw.into_raw_data())
            .and_then(|volume| volume.into_ndarray::<f64>())
            .map_err(nifti)?;
        Ok(Self { shape: [x, y, z].map(usize::from), values: values.iter().copied().collect() })
    }

    /// Where a voxel's value stands in `values`; `None` outside the volume.
    fn position(&self, [i, j, k]: [usize; 3]) -> Option<usize> {
        let [x, y, z] = self.shape;
        (i < x && j < y && k < z).then_some((i * y + j) * z + k)
    }
}
