//! Counting the voxels of a mask in a subject's functional volume, so that an empty region is told before anything runs.
//! Label volumes of the Natural Scenes Dataset: -1 not cortex, 0 no label, above 0 a label.

use nifti::{IntoNdArray, NiftiObject, ReaderOptions};
use std::path::Path;

/// A three-dimensional NIfTI volume; values in the file's order, the first axis running fastest.
#[derive(Debug, Clone, PartialEq)]
pub struct Voxels {
    pub shape: [usize; 3],
    pub values: Vec<f32>,
}

/// Why a volume cannot be used. Reads after the name of a file or region.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("not a readable NIfTI volume")]
    Nifti(#[from] nifti::NiftiError),
    #[error("the header says {bits} bits per voxel, its data type has {expected}: the file is damaged")]
    Bits { bits: i16, expected: usize },
    #[error("the volume has {0} dimensions, expected 3")]
    Dimensions(usize),
    #[error("the mask is {mask:?} voxels and the threshold map {map:?}: both must be of the same space")]
    Shapes { mask: [usize; 3], map: [usize; 3] },
    #[error("the head has no `voxel_ijk`, so that its voxels cannot be found in a volume; use `roi` or `voxels`")]
    NoVoxelIndex,
    #[error("voxel {voxel:?} of the head lies outside the mask's {shape:?} voxels: another space or subject")]
    Outside { voxel: [i64; 3], shape: [usize; 3] },
}

impl Voxels {
    /// Reads a NIfTI file, compressed or not.
    pub fn read(path: &Path) -> Result<Self, VolumeError> {
        let object = ReaderOptions::new().read_file(path)?;
        let (bits, expected) = (object.header().bitpix, 8 * object.header().data_type()?.size_of());
        // The reader takes one for the number of bytes and the other for the number of voxels.
        if usize::try_from(bits) != Ok(expected) {
            return Err(VolumeError::Bits { bits, expected });
        }
        let array = object.into_volume().into_ndarray::<f32>()?;
        let mut shape: Vec<usize> = array.shape().to_vec();
        while shape.len() > 3 && shape.last() == Some(&1) {
            shape.pop();
        }
        let &[x, y, z] = &shape[..] else { return Err(VolumeError::Dimensions(shape.len())) };
        Ok(Self { shape: [x, y, z], values: array.reversed_axes().iter().copied().collect() })
    }
}

/// What makes a voxel part of a region.
#[derive(Debug)]
pub struct Selection<'a> {
    pub mask: &'a Voxels,
    /// Empty: every positive value.
    pub labels: &'a [i32],
    /// The value in this map must be larger than the threshold.
    pub above: Option<(&'a Voxels, f64)>,
}

/// The voxels of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    pub in_mask: usize,
    /// Of those, the ones that the head predicts.
    pub predicted: usize,
}

impl Selection<'_> {
    /// Counts the selected voxels, and those among them that are in `voxel_ijk`.
    pub fn count(&self, voxel_ijk: Option<&[[i64; 3]]>) -> Result<Count, VolumeError> {
        let shape = self.mask.shape;
        if let Some((map, _)) = self.above
            && map.shape != shape
        {
            return Err(VolumeError::Shapes { mask: shape, map: map.shape });
        }
        let voxel_ijk = voxel_ijk.ok_or(VolumeError::NoVoxelIndex)?;
        let in_mask = (0..self.mask.values.len()).filter(|&index| self.holds(index)).count();
        let mut predicted = 0;
        for &voxel in voxel_ijk {
            let index = index(voxel, shape).ok_or(VolumeError::Outside { voxel, shape })?;
            predicted += usize::from(self.holds(index));
        }
        Ok(Count { in_mask, predicted })
    }

    fn holds(&self, index: usize) -> bool {
        let value = self.mask.values[index];
        let labelled = match self.labels {
            [] => value > 0.0,
            labels => labels.iter().any(|&label| value == label as f32),
        };
        labelled && self.above.is_none_or(|(map, threshold)| f64::from(map.values[index]) > threshold)
    }
}

fn index([i, j, k]: [i64; 3], [x, y, z]: [usize; 3]) -> Option<usize> {
    let on_axis = |at: i64, length: usize| usize::try_from(at).ok().filter(|at| *at < length);
    let (i, j, k) = (on_axis(i, x)?, on_axis(j, y)?, on_axis(k, z)?);
    Some(i + x * (j + y * k))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn voxels(values: [f32; 8]) -> Voxels {
        Voxels { shape: [2, 2, 2], values: values.to_vec() }
    }

    #[test]
    fn a_region_is_the_label_and_the_threshold_and_what_the_head_predicts() {
        let mask = voxels([-1.0, 0.0, 1.0, 2.0, 2.0, 3.0, 2.0, 0.0]);
        let map = voxels([9.0, 9.0, 9.0, 2.0, 2.1, 9.0, 5.0, 9.0]);
        let selection = Selection { mask: &mask, labels: &[2], above: Some((&map, 2.0)) };
        // Flat positions 4 = (0, 0, 1) and 6 = (0, 1, 1) fit; the head predicts only the second.
        let ijk = [[0, 1, 1], [1, 1, 1], [0, 0, 0]];
        assert_eq!(selection.count(Some(&ijk)).unwrap(), Count { in_mask: 2, predicted: 1 });
        let any = Selection { mask: &mask, labels: &[], above: None };
        assert_eq!(any.count(Some(&[])).unwrap(), Count { in_mask: 5, predicted: 0 });
    }

    #[test]
    fn volumes_of_different_spaces_are_refused() {
        let mask = voxels([1.0; 8]);
        let map = Voxels { shape: [1, 2, 2], values: vec![9.0; 4] };
        let selection = Selection { mask: &mask, labels: &[], above: Some((&map, 0.0)) };
        assert!(matches!(selection.count(Some(&[])), Err(VolumeError::Shapes { .. })));
        let selection = Selection { mask: &mask, labels: &[], above: None };
        assert!(matches!(selection.count(Some(&[[0, 0, 2]])), Err(VolumeError::Outside { .. })));
        assert!(matches!(selection.count(None), Err(VolumeError::NoVoxelIndex)));
    }
}
