//! Volumes of a subject's brain as NIfTI-1 files (Cox et al. 2004): read with their place in space, written so that they lie where the
//! subject's own volumes lie, and shown as a sheet of slices.
//!
//! Values stand in C order, the last axis running fastest: voxel (i, j, k) of the shape [x, y, z] is at (i·y + j)·z + k, as in the
//! arrays that nibabel and NumPy hand out.

mod digits;
mod grid;
mod montage;
mod read;
mod write;

pub use grid::Grid;
pub use montage::{Montage, MontageError};
pub use read::Volume;
pub use write::{write_labels, write_map};

use crate::error::may_pass;
use std::path::PathBuf;

/// Why a volume can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("reading the NIfTI volume {}: {source}", path.display())]
    Read { path: PathBuf, source: nifti::NiftiError },
    #[error("{} has the shape {found:?}; expected one volume with three axes", path.display())]
    NotOneVolume { path: PathBuf, found: Vec<u16> },
    #[error(
        "the header of {} says {bits} bits per voxel, its data type has {expected}: the file is damaged",
        path.display()
    )]
    Bits { path: PathBuf, bits: i16, expected: usize },
    #[error(
        "the header of {} scales values by {slope} and adds {intercept}, which makes every voxel NaN; expected a finite intercept",
        path.display()
    )]
    Intercept { path: PathBuf, slope: f32, intercept: f32 },
    #[error(
        "the header of {} places the volume by a quaternion of length above 1 ({quaternion:?}), which is no rotation: the file is damaged",
        path.display()
    )]
    Quaternion { path: PathBuf, quaternion: [f32; 3] },
    #[error("voxel {voxel:?} is outside the volume of shape {shape:?}; is it another subject's?")]
    Outside { voxel: [usize; 3], shape: [usize; 3] },
    #[error("a grid of shape {shape:?} has {} voxels, {found} values were given", shape.iter().product::<usize>())]
    Length { shape: [usize; 3], found: usize },
    #[error("a NIfTI-1 volume has 1 to 32767 voxels along each axis, {shape:?} were asked for")]
    Shape { shape: [usize; 3] },
    #[error("writing the NIfTI volume {}: its name has to end in .nii or .nii.gz", path.display())]
    Name { path: PathBuf },
    #[error("writing the NIfTI volume {}: {source}", path.display())]
    Write { path: PathBuf, source: nifti::NiftiError },
}

impl VolumeError {
    /// Whether another try may help.
    pub fn is_io(&self) -> bool {
        match self {
            Self::Read { source: nifti::NiftiError::Io(source), .. } => may_pass(source),
            Self::Write { .. } => true,
            _ => false,
        }
    }
}
