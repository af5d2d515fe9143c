//! Writing volumes that lie where the subject's own lie: its header, unscaled values.

use super::{Grid, VolumeError};
use ndarray::Array3;
use nifti::NiftiHeader;
use nifti::writer::WriterOptions;
use std::path::Path;

/// NIFTI_INTENT_LABEL: values are names of regions.
const LABELS: i16 = 1002;

/// Writes a map of real numbers; NaN marks voxels without one.
///
/// # Errors
/// The values are not the grid's, the name is not a NIfTI file's, or the disk fails.
pub fn write_map(path: &Path, grid: &Grid, values: &[f32]) -> Result<(), VolumeError> {
    let (header, values) = (header(path, grid, 0)?, array(grid, values)?);
    WriterOptions::new(path).reference_header(&header).write_nifti(&values).map_err(|source| failed(path, source))
}

/// Writes a map of labels; 0 marks voxels without one.
///
/// # Errors
/// As [`write_map`].
pub fn write_labels(path: &Path, grid: &Grid, labels: &[i16]) -> Result<(), VolumeError> {
    let (header, labels) = (header(path, grid, LABELS)?, array(grid, labels)?);
    WriterOptions::new(path).reference_header(&header).write_nifti(&labels).map_err(|source| failed(path, source))
}

fn array<T: Copy>(grid: &Grid, values: &[T]) -> Result<Array3<T>, VolumeError> {
    let [x, y, z] = grid.shape();
    Array3::from_shape_vec((x, y, z), values.to_vec())
        .map_err(|_| VolumeError::Length { shape: grid.shape(), found: values.len() })
}

/// The grid's header without what it says of the values of the file that it came from.
fn header(path: &Path, grid: &Grid, intent_code: i16) -> Result<NiftiHeader, VolumeError> {
    let name = path.to_string_lossy();
    // With another name the writer would make one up.
    if !(name.ends_with(".nii") || name.ends_with(".nii.gz")) {
        return Err(VolumeError::Name { path: path.to_owned() });
    }
    let mut header = NiftiHeader {
        intent_code,
        intent_name: [0; 16],
        intent_p1: 0.0,
        intent_p2: 0.0,
        intent_p3: 0.0,
        cal_min: 0.0,
        cal_max: 0.0,
        glmin: 0,
        glmax: 0,
        ..grid.header().clone()
    };
    let software = concat!("braindive ", env!("CARGO_PKG_VERSION"));
    header.set_description_str(software).map_err(|source| failed(path, source))?;
    Ok(header)
}

fn failed(path: &Path, source: nifti::NiftiError) -> VolumeError {
    VolumeError::Write { path: path.to_owned(), source }
}
