//! Images, betas and masks of any experiment as a prepared subject, for labs without NSD: arrays of NumPy or safetensors, the
//! folders of the Algonauts Project 2023 (Gifford et al. 2023), or the HDF5 files that BrainDiVE's notebooks leave behind, one dataset an
//! image under COCO's id. Everything is held in memory once.

use super::array::Array;
use super::coco;
use super::error::Problem;
use super::{mask, npy};

pub use super::settings::{RegionFiles, Settings};

use crate::dataset::{self, GRID, Parts, Region, Regions};
use crate::error::{Error, Result};
use crate::folder::{Draft, FileRecord, Manifest, Opened, Provenance, sha256};
use crate::image::{RgbImage8, png, resize};
use crate::nsd::prepare::ceiling::noise_ceiling;
use crate::volume::{Grid, write_labels};
use checkpoint::{Checkpoint, Dtype};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Voxels without a place are laid out in rows of this length.
const ROW: usize = 256;

/// Images in memory.
pub(super) struct Pixels {
    pub ids: Vec<i64>,
    /// Each of the prepared side.
    pub images: Vec<RgbImage8>,
}

/// Betas in memory.
pub(super) struct Responses {
    /// Without ids, images are numbered from 0.
    pub ids: Option<Vec<i64>>,
    /// [images, voxels]
    pub betas: Vec<f32>,
    pub voxels: usize,
    /// Shape of the volume, and places of the voxels in it.
    pub places: Option<([usize; 3], Vec<[usize; 3]>)>,
}

/// Writes the prepared subject to the folder `out`, which appears whole.
///
/// # Errors
/// A file is missing, damaged or does not fit the others, a region is empty, or the disk fails; the error names the file.
pub fn import(settings: &Settings, out: &Path) -> Result<Manifest> {
    let mut inputs = Vec::new();
    for path in settings.files()? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        inputs.push(FileRecord::of(&path, &name)?);
    }
    let identity = serde_json::json!({ "import": settings.named(), "inputs": inputs }).to_string();
    let draft = match Draft::open(out, &identity)? {
        Opened::Done(manifest) => return Ok(manifest),
        Opened::Draft(draft) => draft,
    };
    let (parts, grid) = settings.parts()?;
    dataset::write(draft.path(), &parts)?;
    let mut voxels = vec![0_i16; grid.voxels()];
    for place in &parts.voxel_ijk {
        let position = grid.position(place.map(|index| index as usize));
        if let Some(voxel) = position.and_then(|position| voxels.get_mut(position)) {
            *voxel = 1;
        }
    }
    write_labels(&draft.path().join(GRID), &grid, &voxels)?;
    let test = parts.test.iter().filter(|&&test| test == 1).count();
    let count = |count: usize| count as f64;
    let summary = [("images", parts.image_ids.len()), ("test_images", test), ("voxels", parts.voxel_ijk.len())];
    Ok(draft.publish(Provenance {
        kind: "import".to_owned(),
        subject: settings.subject.clone(),
        settings: settings.named(),
        inputs,
        summary: summary.map(|(name, number)| (name.to_owned(), count(number))).into(),
        software: concat!("braindive ", env!("CARGO_PKG_VERSION")).to_owned(),
    })?)
}

impl Settings {
    fn parts(&self) -> Result<(Parts, Grid)> {
        let Responses { ids, mut betas, voxels, places } = self.responses()?;
        let (grid, places) = self.places(places, voxels)?;
        let kept = self.kept(&grid, &places)?;
        keep(&mut betas, voxels, &kept);
        let pixels = self.pixels(ids.as_deref())?;
        let (images, rows) = (pixels.ids.len(), betas.len().checked_div(kept.len()).unwrap_or(0));
        if images != rows || images == 0 {
            let found = format!("{images} images");
            return Err(Problem::unexpected(found, format!("{rows}, as many as there are betas"))
                .of(&self.images)
                .into());
        }
        if let Some(at) = betas.iter().position(|beta| !beta.is_finite()) {
            let (image, voxel) = (at / kept.len(), kept[at % kept.len()]);
            let found = format!("{} for image {image} in voxel {voxel}", betas[at]);
            return Err(Problem::unexpected(found, "finite betas").of(&self.betas[0]).into());
        }
        if self.zscore {
            zscore(&mut betas, kept.len());
        }
        let mut regions = BTreeMap::new();
        for (name, files) in &self.regions {
            let Region { rows, mask_voxels } = self.region(files, &grid, &places)?;
            // Both ascend.
            let rows: Vec<usize> = rows.iter().filter_map(|row| kept.binary_search(row).ok()).collect();
            if rows.is_empty() {
                return Err(Error::EmptyRegion { region: name.clone() });
            }
            regions.insert(name.clone(), Region { rows, mask_voxels });
        }
        let places: Vec<[usize; 3]> = kept.iter().map(|&voxel| places[voxel]).collect();
        let (split, test) = self.split(&pixels.ids)?;
        let held_out: Vec<i64> = (0..images).filter(|&image| test[image] == 1).map(|image| pixels.ids[image]).collect();
        let ncsnr = match &self.ncsnr {
            Some(path) => self.per_voxel(path, voxels)?,
            None => vec![f32::NAN; voxels],
        };
        let ncsnr: Vec<f32> = kept.iter().map(|&voxel| ncsnr[voxel]).collect();
        let ceiling = |ncsnr: &f32| noise_ceiling(*ncsnr, [self.repeats.max(1)].into_iter());
        let parts = Parts {
            images: pixels.images.iter().flat_map(|image| image.pixels().iter().copied()).collect(),
            side: self.image_size,
            betas,
            image_ids: pixels.ids,
            repeats: vec![self.repeats; images],
            test,
            voxel_ijk: places.iter().map(|place| place.map(|index| index as i32)).collect(),
            noise_ceiling: ncsnr.iter().map(ceiling).collect(),
            ncsnr,
            regions: Regions {
                shape: grid.shape(),
                split,
                split_sha256: digest(held_out),
                parcels: Vec::new(),
                regions,
            },
        };
        Ok((parts, grid))
    }

    fn responses(&self) -> Result<Responses> {
        if let [only] = self.betas.as_slice()
            && coco::is_hdf5(only)
        {
            return coco::responses(only);
        }
        let mut blocks = Vec::new();
        for path in &self.betas {
            let block = Block::read(path, "betas")?;
            let &[rows, columns] = block.shape.as_slice() else {
                let found = format!("an array of shape {:?}", block.shape);
                return Err(Problem::unexpected(found, "[images, voxels]").of(path).into());
            };
            blocks.push((rows, columns, block.values));
        }
        let rows = blocks.first().map_or(0, |block| block.0);
        if let Some(at) = blocks.iter().position(|block| block.0 != rows) {
            let found = format!("{} images", blocks[at].0);
            return Err(Problem::unexpected(found, format!("{rows} as the first file")).of(&self.betas[at]).into());
        }
        let voxels = blocks.iter().map(|block| block.1).sum();
        let mut betas = Vec::with_capacity(rows * voxels);
        for row in 0..rows {
            blocks.iter().for_each(|(_, columns, values)| betas.extend(&values[row * columns..(row + 1) * columns]));
        }
        Ok(Responses { ids: None, betas, voxels, places: None })
    }

    fn pixels(&self, ids: Option<&[i64]>) -> Result<Pixels> {
        let side = self.image_size;
        if !(1..=4096).contains(&side) {
            let expected = "1 to 4096 pixels".to_owned();
            return Err(Error::Parameter { what: "image_size", found: side.to_string(), expected });
        }
        let square = |image: RgbImage8| resize::bicubic(&image, side, side);
        let images = if self.images.is_dir() {
            png::files(&self.images)?.iter().map(|path| Ok(square(png::read(path)?.0))).collect::<Result<Vec<_>>>()?
        } else if coco::is_hdf5(&self.images) {
            let ids = ids.unwrap_or_default();
            return Ok(Pixels {
                ids: ids.to_vec(),
                images: coco::images(&self.images, ids)?.into_iter().map(square).collect(),
            });
        } else {
            let (shape, bytes) = pixels(&self.images)?;
            let &[_, height, width, 3] = shape.as_slice() else {
                let found = format!("an array of shape {shape:?}");
                return Err(Problem::unexpected(found, "[images, height, width, 3]").of(&self.images).into());
            };
            let each = bytes.chunks_exact((height * width * 3).max(1));
            each.map(|pixels| Ok(square(RgbImage8::new(width, height, pixels.to_vec())?)))
                .collect::<Result<Vec<_>>>()?
        };
        let ids = ids.map_or_else(|| (0..images.len() as i64).collect(), <[i64]>::to_vec);
        if ids.len() != images.len() {
            let expected = format!("{}, as many as there are betas", ids.len());
            return Err(Problem::unexpected(format!("{} images", images.len()), expected).of(&self.images).into());
        }
        Ok(Pixels { ids, images })
    }

    /// Where the voxels lie: as the betas' file says, as `voxel_ijk` says, or side by side.
    fn places(&self, known: Option<([usize; 3], Vec<[usize; 3]>)>, voxels: usize) -> Result<(Grid, Vec<[usize; 3]>)> {
        let (shape, places) = match (&self.voxel_ijk, known) {
            (Some(path), _) => {
                let array = npy::read(path)?;
                let indices = array.indices().ok().filter(|_| array.shape == [voxels, 3]);
                let unexpected =
                    || Problem::unexpected(array.describe(), format!("indices of shape [{voxels}, 3]")).of(path);
                (None, indices.ok_or_else(unexpected)?.as_chunks::<3>().0.to_vec())
            }
            (None, Some((shape, places))) => (Some(shape), places),
            (None, None) => {
                let side_by_side = (0..voxels).map(|voxel| [voxel % ROW, voxel / ROW, 0]).collect();
                (Some([ROW, voxels.div_ceil(ROW), 1]), side_by_side)
            }
        };
        let identity = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]];
        let grid = match (&self.like, shape) {
            (Some(path), _) => Grid::read(path)?,
            (None, Some(shape)) => Grid::new(shape, identity)?,
            (None, None) => {
                let longest = |axis: usize| 1 + places.iter().map(|place| place[axis]).max().unwrap_or(0);
                Grid::new([longest(0), longest(1), longest(2)], identity)?
            }
        };
        match places.iter().position(|&place| grid.position(place).is_none()) {
            None => Ok((grid, places)),
            Some(row) => {
                let found = format!("voxel {row} at {:?}", places[row]);
                let path = self.like.as_ref().or(self.voxel_ijk.as_ref()).unwrap_or(&self.betas[0]);
                Err(Problem::unexpected(found, format!("voxels inside {:?}", grid.shape())).of(path).into())
            }
        }
    }

    /// The betas' voxels that are taken over, ascending.
    fn kept(&self, grid: &Grid, places: &[[usize; 3]]) -> Result<Vec<usize>> {
        let rows = |masks: &[RegionFiles]| -> Result<BTreeSet<usize>> {
            let rows = masks.iter().map(|files| Ok(self.region(files, grid, places)?.rows));
            Ok(rows.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
        };
        let without = rows(&self.without)?;
        let inside = if self.voxels.is_empty() { (0..places.len()).collect() } else { rows(&self.voxels)? };
        let kept: Vec<usize> = inside.difference(&without).copied().collect();
        match kept.is_empty() {
            false => Ok(kept),
            true => {
                let expected = "at least one voxel of the betas".to_owned();
                Err(Error::Parameter { what: "voxels", found: "an empty set".to_owned(), expected })
            }
        }
    }

    /// A region's voxels, perhaps none. A mask is over the voxels of its file of betas, or a volume.
    fn region(&self, files: &RegionFiles, grid: &Grid, places: &[[usize; 3]]) -> Result<Region> {
        let labels = files.labels()?;
        let belongs = |value: f64| match labels.as_slice() {
            [] => value > 0.5,
            labels => labels.iter().any(|&label| f64::from(label) == value),
        };
        let mut flags: Vec<bool> = Vec::new();
        for path in &files.masks {
            let array = mask::array(path, files.item)?;
            flags.extend(array.floats().into_iter().map(belongs));
            if array.shape == grid.shape() && files.masks.len() == 1 {
                let volume = std::mem::take(&mut flags);
                let inside = |place: &[usize; 3]| grid.position(*place).is_some_and(|position| volume[position]);
                let rows: Vec<usize> = (0..places.len()).filter(|&row| inside(&places[row])).collect();
                let mask_voxels = volume.iter().filter(|&&flag| flag).count();
                return Ok(Region { rows, mask_voxels });
            }
        }
        if flags.len() != places.len() {
            let path = files.masks.last().unwrap_or(&self.betas[0]);
            let found = format!("masks of {} voxels", flags.len());
            let expected =
                format!("{}, as many as there are betas, or a volume of shape {:?}", places.len(), grid.shape());
            return Err(Problem::unexpected(found, expected).of(path).into());
        }
        let rows: Vec<usize> = (0..flags.len()).filter(|&row| flags[row]).collect();
        Ok(Region { mask_voxels: rows.len(), rows })
    }

    fn per_voxel(&self, path: &Path, voxels: usize) -> Result<Vec<f32>> {
        let array = npy::read(path)?;
        match array.len() == voxels {
            true => Ok(array.floats().into_iter().map(|value| value as f32).collect()),
            false => {
                Err(Problem::unexpected(array.describe(), format!("{voxels} numbers, one a voxel")).of(path).into())
            }
        }
    }

    /// The split's name, and 1 for every image that is held out.
    fn split(&self, ids: &[i64]) -> Result<(String, Vec<u8>)> {
        let Some(path) = &self.test else {
            let mut order: Vec<usize> = (0..ids.len()).collect();
            order.sort_unstable_by_key(|&image| ids[image]);
            let every = self.test_every.max(2);
            let mut test = vec![0; ids.len()];
            order.iter().step_by(every).for_each(|&image| test[image] = 1);
            return Ok((format!("every {every}"), test));
        };
        let held_out = coco::test_ids(path)?;
        if let Some(missing) = held_out.iter().find(|id| !ids.contains(id)) {
            let found = format!("the id {missing}");
            return Err(Problem::unexpected(found, "ids of images that there are").of(path).into());
        }
        let test: Vec<u8> = ids.iter().map(|id| u8::from(held_out.contains(id))).collect();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok((name, test))
    }
}

/// Real numbers of a file.
struct Block {
    shape: Vec<usize>,
    values: Vec<f32>,
}

impl Block {
    /// Reads `.npy`, or the tensor `key` of safetensors.
    fn read(path: &Path, key: &str) -> Result<Self> {
        if path.extension().is_some_and(|extension| extension == "npy") {
            let array = npy::read(path)?;
            let values = array.floats().into_iter().map(|value| value as f32).collect();
            return Ok(Self { shape: array.shape, values });
        }
        let (shape, bytes) = tensor(path, key, Dtype::F32)?;
        let values = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        Ok(Self { shape, values })
    }
}

/// Bytes of `.npy`, or of the tensor `images` of safetensors.
fn pixels(path: &Path) -> Result<(Vec<usize>, Vec<u8>)> {
    if path.extension().is_some_and(|extension| extension == "npy") {
        let array: Array = npy::read(path)?;
        let unexpected = || Problem::unexpected(array.describe(), "integers of 8 bits without sign").of(path);
        let bytes = array.bytes().ok_or_else(unexpected)?.to_vec();
        return Ok((array.shape, bytes));
    }
    tensor(path, "images", Dtype::U8)
}

fn tensor(path: &Path, key: &str, expected: Dtype) -> Result<(Vec<usize>, Vec<u8>)> {
    let file = Checkpoint::open(path)?;
    let found = file.tensors().get(key).filter(|tensor| tensor.dtype == expected);
    let unexpected = || {
        let keys: Vec<&str> = file.tensors().keys().map(String::as_str).take(8).collect();
        Problem::unexpected(format!("the tensors {}", keys.join(", ")), format!("`{key}` of type {expected:?}"))
            .of(path)
    };
    let tensor = found.ok_or_else(unexpected)?;
    Ok((tensor.shape.clone(), file.bytes(tensor).into_owned()))
}

/// Leaves of every row of `voxels` betas those of the voxels `kept`, ascending.
fn keep(betas: &mut Vec<f32>, voxels: usize, kept: &[usize]) {
    let images = betas.len().checked_div(voxels).unwrap_or(0);
    for image in 0..images {
        for (to, from) in kept.iter().enumerate() {
            betas[image * kept.len() + to] = betas[image * voxels + from];
        }
    }
    betas.truncate(images * kept.len());
}

/// Gives every voxel mean 0 and variance 1; one that never changes becomes 0.
fn zscore(betas: &mut [f32], voxels: usize) {
    let images = (betas.len() / voxels) as f64;
    let (mut mean, mut square) = (vec![0.0; voxels], vec![0.0; voxels]);
    for row in betas.chunks_exact(voxels) {
        row.iter().zip(&mut mean).for_each(|(&beta, mean)| *mean += f64::from(beta) / images);
    }
    for row in betas.chunks_exact(voxels) {
        for ((&beta, mean), square) in row.iter().zip(&mean).zip(&mut square) {
            *square += (f64::from(beta) - mean).powi(2) / images;
        }
    }
    for row in betas.chunks_exact_mut(voxels) {
        for ((beta, mean), square) in row.iter_mut().zip(&mean).zip(&square) {
            *beta = ((f64::from(*beta) - mean) / (square.sqrt() + 1e-6)) as f32;
        }
    }
}

/// sha256 of ids in ascending order, one a line.
fn digest(mut ids: Vec<i64>) -> String {
    ids.sort_unstable();
    let lines: String = ids.iter().map(|id| format!("{id}\n")).collect();
    sha256(lines.as_bytes()).map(|(_, digits)| digits).unwrap_or_default()
}
