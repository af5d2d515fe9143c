//! Reading one volume of whole or real numbers.

use super::{Grid, VolumeError};
use nifti::{InMemNiftiVolume, IntoNdArray, NiftiObject, ReaderOptions};
use std::path::Path;

/// A volume's values and where they lie.
#[derive(Debug, Clone, PartialEq)]
pub struct Volume {
    pub grid: Grid,
    /// Scaled by the header's slope and intercept; C order.
    pub values: Vec<f64>,
}

impl Volume {
    /// Reads a NIfTI-1 file, `.nii` or `.nii.gz`.
    ///
    /// # Errors
    /// The file can't be read, is not one volume with three axes, or its header contradicts itself.
    pub fn read(path: &Path) -> Result<Self, VolumeError> {
        let failed = |source| VolumeError::Read { path: path.to_owned(), source };
        let object = ReaderOptions::new().read_file(path).map_err(failed)?;
        let mut header = object.header().clone();
        let grid = Grid::of(path, header.clone())?;
        let (bits, expected) = (header.bitpix, 8 * header.data_type().map_err(failed)?.size_of());
        // The reader takes one for the number of bytes and the other for the number of voxels.
        if usize::try_from(bits) != Ok(expected) {
            return Err(VolumeError::Bits { path: path.to_owned(), bits, expected });
        }
        // NIfTI-1 marks unscaled data by a slope of 0; some writers put NaN there.
        if !header.scl_slope.is_finite() {
            header.scl_slope = 0.0;
        }
        let (slope, intercept) = (header.scl_slope, header.scl_inter);
        if slope != 0.0 && !intercept.is_finite() {
            return Err(VolumeError::Intercept { path: path.to_owned(), slope, intercept });
        }
        let values = InMemNiftiVolume::from_raw_data(&header, object.into_volume().into_raw_data())
            .and_then(|volume| volume.into_ndarray::<f64>())
            .map_err(failed)?;
        Ok(Self { grid, values: values.iter().copied().collect() })
    }

    /// The value at a voxel; `None` outside the volume.
    pub fn get(&self, voxel: [usize; 3]) -> Option<f64> {
        self.grid.position(voxel).map(|position| self.values[position])
    }
}
