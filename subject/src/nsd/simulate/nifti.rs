//! Writing compressed NIfTI-1 volumes piece by piece (NIfTI-1 standard, nifti1.h). Values are stored as they are, x fastest.

use flate2::Compression;
use flate2::write::GzEncoder;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// What the values are, little-endian.
#[derive(Debug, Clone, Copy)]
pub enum Element {
    U8,
    I16,
    F32,
}

/// A volume's header.
#[derive(Debug, Clone, Copy)]
pub struct Grid {
    /// Voxels along x, y, z.
    pub shape: [usize; 3],
    /// From voxel indices to millimetres: the upper three rows.
    pub affine: [[f32; 4]; 3],
}

/// Starts the volume, or with `volumes` above 1 the series of volumes, `path`; its values are then written to what is returned,
/// which has to be finished.
pub fn create(path: &Path, grid: &Grid, volumes: usize, element: Element) -> io::Result<GzEncoder<BufWriter<File>>> {
    let (code, bits) = match element {
        Element::U8 => (2_i16, 8_i16),
        Element::I16 => (4, 16),
        Element::F32 => (16, 32),
    };
    let mut header = [0_u8; 352];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &348_i32.to_le_bytes());
    let [x, y, z] = grid.shape.map(|length| length as i16);
    let rank = if volumes > 1 { 4 } else { 3 };
    for (axis, length) in [rank, x, y, z, volumes as i16, 1, 1, 1].into_iter().enumerate() {
        put(40 + 2 * axis, &length.to_le_bytes());
    }
    put(70, &code.to_le_bytes());
    put(72, &bits.to_le_bytes());
    let size = |axis: usize| grid.affine.iter().map(|row| row[axis] * row[axis]).sum::<f32>().sqrt();
    for (axis, size) in [1.0, size(0), size(1), size(2), 1.0, 1.0, 1.0, 1.0].into_iter().enumerate() {
        put(76 + 4 * axis, &size.to_le_bytes());
    }
    put(108, &352_f32.to_le_bytes());
    // Unscaled: 0 by the standard, NaN as nibabel writes it; volumes of both kinds are about.
    let unscaled = if matches!(element, Element::F32) { f32::NAN } else { 0.0 };
    put(112, &unscaled.to_le_bytes());
    put(116, &unscaled.to_le_bytes());
    put(123, &[10]); // millimetres and seconds
    put(254, &1_i16.to_le_bytes()); // the affine leads to the scanner's space
    for (at, value) in grid.affine.iter().flatten().enumerate() {
        put(280 + 4 * at, &value.to_le_bytes());
    }
    put(344, b"n+1\0");
    let mut file = GzEncoder::new(BufWriter::new(File::create(path)?), Compression::fast());
    file.write_all(&header)?;
    Ok(file)
}

/// Writes a whole volume.
pub fn write(path: &Path, grid: &Grid, element: Element, values: impl Iterator<Item = f32>) -> io::Result<()> {
    let mut bytes = Vec::new();
    for value in values {
        match element {
            Element::U8 => bytes.push(value as u8),
            Element::I16 => bytes.extend((value as i16).to_le_bytes()),
            Element::F32 => bytes.extend(value.to_le_bytes()),
        }
    }
    let mut file = create(path, grid, 1, element)?;
    file.write_all(&bytes)?;
    file.finish()?.flush()
}
