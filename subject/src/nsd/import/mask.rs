//! Masks that BrainDiVE's authors and others keep as arrays, as volumes in a subject's space: booleans of the volume's shape, booleans or
//! indices over its voxels flattened (last axis fastest), or over those of them that lie in cortex.

use super::array::{Array, Kind, Type};
use super::error::{ImportError, Problem};
use super::npy;
use super::pickle::{self, Pickled};
use crate::error::{Error, Result};
use crate::folder::FileRecord;
use crate::nsd::mgh::{self, Mgh};
use crate::volume::{Grid, Volume, write_labels};
use serde_json::json;
use std::path::{Path, PathBuf};

/// A mask to take over.
#[derive(Debug, Clone)]
pub struct Source {
    /// FreeSurfer's `.mgh` or `.mgz`; else `.npy` or a pickle of arrays, as its content says.
    pub file: PathBuf,
    /// Which array of a pickle of several, counted from 0: lists over subjects begin with subject 1.
    pub item: Option<usize>,
    /// A volume of the subject.
    pub like: PathBuf,
    /// The volumes whose voxels above `above` a flattened mask covers; all voxels if there are none.
    pub within: Vec<PathBuf>,
    /// −0.5 for cortex in NSD's label volumes.
    pub above: f64,
}

/// A region of a volume.
#[derive(Debug, Clone)]
pub struct Mask {
    pub grid: Grid,
    /// Every voxel of the volume, the last axis fastest.
    pub selected: Vec<bool>,
    inputs: Vec<FileRecord>,
    settings: serde_json::Value,
}

impl Mask {
    /// Reads a mask.
    ///
    /// # Errors
    /// A file can't be read or holds something else, does not fit the volume, or selects no voxel.
    pub fn read(source: &Source) -> Result<Self> {
        let grid = Grid::read(&source.like)?;
        let mut covered = vec![source.within.is_empty(); grid.voxels()];
        for path in &source.within {
            let volume = Volume::read(path)?;
            if volume.grid.shape() != grid.shape() {
                let found = format!("a volume of shape {:?}", volume.grid.shape());
                let expected = format!("{:?} as {}", grid.shape(), source.like.display());
                return Err(Problem::unexpected(found, expected).of(path).into());
            }
            covered.iter_mut().zip(volume.values).for_each(|(covered, value)| *covered |= value > source.above);
        }
        let places: Vec<usize> = (0..covered.len()).filter(|&voxel| covered[voxel]).collect();
        let array = array(&source.file, source.item)?;
        let selected = select(&array, grid.shape(), &places).map_err(|problem| problem.of(&source.file))?;
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let files = [&source.file, &source.like].into_iter().chain(&source.within);
        let inputs = files.map(|path| FileRecord::of(path, &name(path))).collect::<Result<_, _>>()?;
        let within: Vec<String> = source.within.iter().map(|path| name(path)).collect();
        let settings = json!({ "item": source.item, "within": within, "above": source.above });
        Ok(Self { grid, selected, inputs, settings })
    }

    /// Writes the volume `path`: 1 in the region, else 0; and beside it, in `.json` for `.nii` or `.nii.gz`, what it was made of.
    ///
    /// # Errors
    /// The disk fails, or the name is no NIfTI file's.
    pub fn write(&self, path: &Path, software: &str) -> Result<()> {
        let labels: Vec<i16> = self.selected.iter().map(|&selected| i16::from(selected)).collect();
        write_labels(path, &self.grid, &labels)?;
        let described = json!({
            "voxels": self.voxels(),
            "settings": self.settings,
            "inputs": self.inputs,
            "software": software,
        });
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let stem = [".nii.gz", ".nii"].iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(&name);
        let path = path.with_file_name(format!("{stem}.json"));
        std::fs::write(&path, format!("{described:#}\n")).map_err(|source| Error::Write { path, source })
    }

    pub fn voxels(&self) -> usize {
        self.selected.iter().filter(|&&selected| selected).count()
    }
}

/// The array in a `.npy` file, a NIfTI volume or a file of FreeSurfer's, or the one of number `item` in a pickle.
///
/// # Errors
/// The file can't be read, or which of several arrays is meant is not said.
pub fn array(path: &Path, item: Option<usize>) -> Result<Array> {
    if path.extension().is_some_and(|extension| extension == "nii" || extension == "gz") {
        let Volume { grid, values } = Volume::read(path)?;
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let of = Type { kind: Kind::Float, width: 8, is_big_endian: false };
        return Ok(Array::new(of, grid.shape().to_vec(), false, bytes).map_err(|problem| problem.of(path))?);
    }
    Ok(numbers(path, item)?)
}

fn numbers(path: &Path, item: Option<usize>) -> Result<Array, ImportError> {
    if path.extension().is_some_and(|extension| extension == "mgh" || extension == "mgz") {
        return freesurfer(path).map_err(|problem| problem.of(path));
    }
    let file = std::fs::read(path).map_err(|source| Problem::Read(source).of(path))?;
    if file.starts_with(b"\x93NUMPY") {
        return npy::parse(file).map_err(|problem| problem.of(path));
    }
    if file.first() != Some(&0x80) {
        return Err(Problem::unexpected("neither", "a NumPy file or a pickle of protocol 2 to 5").of(path));
    }
    let Pickled::Arrays(mut arrays) = pickle::parse(&file).map_err(|problem| problem.of(path))? else {
        return Err(Problem::unexpected("texts", "arrays").of(path));
    };
    match (item, arrays.len()) {
        (None, 1) => Ok(arrays.remove(0)),
        (Some(item), count) if item < count => Ok(arrays.swap_remove(item)),
        (item, count) => {
            let found = item.map_or("no word which is meant".to_owned(), |item| format!("number {item} asked for"));
            Err(Problem::unexpected(format!("{count} arrays and {found}"), "the number of one, counted from 0")
                .of(path))
        }
    }
}

/// A volume, or along one axis the vertices of a surface.
fn freesurfer(path: &Path) -> Result<Array, Problem> {
    let Mgh { shape: [x, y, z, frames], values } = mgh::parse(&mgh::unpacked(path)?)?;
    if frames != 1 {
        return Err(Problem::unexpected(format!("{frames} frames"), "one"));
    }
    let shape = if (y, z) == (1, 1) { vec![x] } else { vec![x, y, z] };
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Array::new(Type { kind: Kind::Float, width: 4, is_big_endian: false }, shape, true, bytes)
}

/// Which voxels of a volume of `shape` the array selects; if it is flattened, it covers `places`, ascending.
fn select(array: &Array, shape: [usize; 3], places: &[usize]) -> Result<Vec<bool>, Problem> {
    let count = shape.iter().product();
    let unexpected = |expected: String| Problem::unexpected(array.describe(), expected);
    let mut selected = vec![false; count];
    let values = array.floats();
    let is_flags = values.iter().all(|&value| value == 0.0 || value == 1.0);
    if array.shape == shape {
        selected.iter_mut().zip(values).for_each(|(selected, value)| *selected = value > 0.5);
    } else if array.shape.len() != 1 {
        return Err(unexpected(format!("a volume of shape {shape:?}, or one axis")));
    } else if array.len() == places.len() && (array.kind() != Kind::Signed || is_flags) {
        places.iter().zip(values).for_each(|(&place, value)| selected[place] = value > 0.5);
    } else if array.kind() == Kind::Signed || array.kind() == Kind::Unsigned {
        for value in values {
            let place = (value >= 0.0).then(|| places.get(value as usize)).flatten();
            let place = *place.ok_or_else(|| {
                Problem::unexpected(format!("the index {value}"), format!("0 to {}", places.len().saturating_sub(1)))
            })?;
            if std::mem::replace(&mut selected[place], true) {
                return Err(Problem::unexpected(format!("the index {value} twice"), "each once"));
            }
        }
    } else {
        return Err(unexpected(format!("{} elements, one a voxel that a flattened mask covers", places.len())));
    }
    match selected.contains(&true) {
        true => Ok(selected),
        false => Err(Problem::unexpected("no voxel", "at least one")),
    }
}

/// The parcels of HCP_MMP1 in a file like the authors' `best_HCP.npy`: 1 to 180, each once.
///
/// # Errors
/// The file can't be read or holds something else.
pub fn parcels(path: &Path) -> Result<Vec<u16>, ImportError> {
    let array = numbers(path, None)?;
    let expected = "numbers of parcels from 1 to 180, each once";
    let indices = array.indices().map_err(|value| Problem::unexpected(value.to_string(), expected).of(path))?;
    let mut parcels = Vec::new();
    for index in indices {
        match u16::try_from(index) {
            Ok(parcel @ 1..=180) if !parcels.contains(&parcel) => parcels.push(parcel),
            _ => return Err(Problem::unexpected(index.to_string(), expected).of(path)),
        }
    }
    Ok(parcels)
}
