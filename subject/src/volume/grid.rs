//! Where a subject's voxels lie: shape and header that its volumes share. Places in space as NIfTI-1 defines them (nifti1.h, section
//! "3D image orientation and location in space").

use super::VolumeError;
use nifti::NiftiHeader;
use std::path::{Path, PathBuf};

/// NIFTI_XFORM_ALIGNED_ANAT: coordinates of another scan of the same subject.
const ALIGNED: i16 = 2;
/// Millimetres.
const MILLIMETRES: u8 = 2;

/// The grid of a subject's volumes.
#[derive(Debug, Clone, PartialEq)]
pub struct Grid {
    path: PathBuf,
    shape: [usize; 3],
    affine: [[f64; 4]; 4],
    header: NiftiHeader,
}

impl Grid {
    /// Reads the header of a NIfTI-1 file, `.nii` or `.nii.gz`.
    ///
    /// # Errors
    /// The file can't be read, is not one volume with three axes, or lies nowhere.
    pub fn read(path: &Path) -> Result<Self, VolumeError> {
        let header =
            NiftiHeader::from_file(path).map_err(|source| VolumeError::Read { path: path.to_owned(), source })?;
        Self::of(path, header)
    }

    /// A grid that no file has yet. `affine`: its first three rows, voxel (i, j, k) to millimetres towards right, anterior, superior.
    ///
    /// # Errors
    /// An axis is empty or longer than NIfTI-1 allows.
    pub fn new(shape: [usize; 3], affine: [[f32; 4]; 3]) -> Result<Self, VolumeError> {
        let mut dim = [1; 8];
        dim[0] = 3;
        for (stored, length) in dim[1..].iter_mut().zip(shape) {
            match i16::try_from(length) {
                Ok(1..) => *stored = length as u16,
                _ => return Err(VolumeError::Shape { shape }),
            }
        }
        let mut pixdim = [1.0; 8];
        for axis in 0..3 {
            pixdim[axis + 1] = affine.iter().map(|row| row[axis] * row[axis]).sum::<f32>().sqrt();
        }
        let [srow_x, srow_y, srow_z] = affine;
        let placed = NiftiHeader {
            dim,
            pixdim,
            xyzt_units: MILLIMETRES,
            qform_code: 0,
            sform_code: ALIGNED,
            srow_x,
            srow_y,
            srow_z,
            ..NiftiHeader::default()
        };
        Self::of(Path::new(""), placed)
    }

    pub(super) fn of(path: &Path, header: NiftiHeader) -> Result<Self, VolumeError> {
        let dim = header.dim().map_err(|source| VolumeError::Read { path: path.to_owned(), source })?;
        let (&[x, y, z], true) = (dim.get(..3).unwrap_or(&[]), dim.iter().skip(3).all(|&axis| axis == 1)) else {
            return Err(VolumeError::NotOneVolume { path: path.to_owned(), found: dim.to_vec() });
        };
        let shape = [x, y, z].map(usize::from);
        let affine = affine(&header, shape).ok_or_else(|| VolumeError::Quaternion {
            path: path.to_owned(),
            quaternion: [header.quatern_b, header.quatern_c, header.quatern_d],
        })?;
        Ok(Self { path: path.to_owned(), shape, affine, header })
    }

    /// Voxels along x, y, z.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// Number of voxels.
    pub fn voxels(&self) -> usize {
        self.shape.iter().product()
    }

    /// Voxel (i, j, k, 1) to millimetres towards right, anterior, superior: the sform if there is one, else the qform, else the voxels'
    /// size around the volume's centre with x running to the left. Equal to nibabel's.
    pub fn affine(&self) -> [[f64; 4]; 4] {
        self.affine
    }

    /// The file that it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn header(&self) -> &NiftiHeader {
        &self.header
    }

    /// Where a voxel's value stands among the volume's; `None` outside the volume.
    pub fn position(&self, [i, j, k]: [usize; 3]) -> Option<usize> {
        let [x, y, z] = self.shape;
        (i < x && j < y && k < z).then_some((i * y + j) * z + k)
    }

    /// A whole volume with `values` at `voxels` and `outside` elsewhere.
    ///
    /// # Errors
    /// A voxel is outside the volume.
    pub fn scatter<T: Copy>(&self, voxels: &[[usize; 3]], values: &[T], outside: T) -> Result<Vec<T>, VolumeError> {
        let mut volume = vec![outside; self.voxels()];
        for (&voxel, &value) in voxels.iter().zip(values) {
            let position = self.position(voxel).ok_or(VolumeError::Outside { voxel, shape: self.shape })?;
            volume[position] = value;
        }
        Ok(volume)
    }
}

/// `None` if the quaternion is no rotation.
fn affine(header: &NiftiHeader, shape: [usize; 3]) -> Option<[[f64; 4]; 4]> {
    const LAST: [f64; 4] = [0.0, 0.0, 0.0, 1.0];
    if header.sform_code > 0 {
        let [x, y, z] = [header.srow_x, header.srow_y, header.srow_z].map(|row| row.map(f64::from));
        return Some([x, y, z, LAST]);
    }
    let mut size = [1, 2, 3].map(|axis| f64::from(header.pixdim[axis]));
    if header.qform_code > 0 {
        // pixdim[0] is the handedness of the axes; 0 counts as 1.
        if header.pixdim[0] < 0.0 {
            size[2] = -size[2];
        }
        let offset = [header.quatern_x, header.quatern_y, header.quatern_z].map(f64::from);
        let rotation = rotation([header.quatern_b, header.quatern_c, header.quatern_d].map(f64::from))?;
        let row = |at: usize| {
            let [x, y, z]: [f64; 3] = rotation[at];
            [x * size[0], y * size[1], z * size[2], offset[at]]
        };
        return Some([row(0), row(1), row(2), LAST]);
    }
    size[0] = -size[0];
    let mut centred = [[0.0; 4], [0.0; 4], [0.0; 4], LAST];
    for axis in 0..3 {
        centred[axis][axis] = size[axis];
        centred[axis][3] = -size[axis] * (shape[axis] as f64 - 1.0) / 2.0;
    }
    Some(centred)
}

/// The rotation of the unit quaternion (a, b, c, d), a ≥ 0.
fn rotation([b, c, d]: [f64; 3]) -> Option<[[f64; 3]; 3]> {
    let squared = 1.0 - (b * b + c * c + d * d);
    // Three rounded f32 may come out a little too long; nibabel allows as much.
    if squared.is_nan() || squared < -3.0 * f64::from(f32::EPSILON) {
        return None;
    }
    let a = squared.max(0.0).sqrt();
    Some([
        [a * a + b * b - c * c - d * d, 2.0 * (b * c - a * d), 2.0 * (b * d + a * c)],
        [2.0 * (b * c + a * d), a * a + c * c - b * b - d * d, 2.0 * (c * d - a * b)],
        [2.0 * (b * d - a * c), 2.0 * (c * d + a * b), a * a + d * d - c * c - b * b],
    ])
}
