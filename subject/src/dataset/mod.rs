//! A subject's prepared data: what `prepare` writes and fitting, evaluating and clustering read. Memory-mapped, so that a batch costs
//! what it holds.
//!
//! | file | tensors |
//! |---|---|
//! | `betas.safetensors` | `betas` f32 [images, voxels], z-scored by session and averaged over repeats; `image_id` i64 [images]; `repeats` u8 [images]; `test` u8 [images], 1 for held-out images |
//! | `images.safetensors` | `images` u8 [images, side, side, 3], RGB |
//! | `voxels.safetensors` | `voxel_ijk` i32 [voxels, 3]; `ncsnr` f32 [voxels]; `noise_ceiling` f32 [voxels], per cent, of the test images' means |
//! | `regions.json` | [`Regions`] |
//! | `voxels.nii.gz` | 1 at every voxel of the set, with the subject's own header |
//! | `montage.png` | the noise ceiling, slice by slice |

mod tensor_file;
mod write;

pub use tensor_file::TensorFile;
pub use write::{Parts, write, write_regions, write_voxels};

use crate::error::{Error, Result};
use crate::folder::Manifest;
use checkpoint::{Checkpoint, Tensor};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub const BETAS: &str = "betas.safetensors";
pub const IMAGES: &str = "images.safetensors";
pub const VOXELS: &str = "voxels.safetensors";
pub const REGIONS: &str = "regions.json";
/// The subject's grid and header, for volumes that are made from the data.
pub const GRID: &str = "voxels.nii.gz";
/// A picture for people.
pub const MONTAGE: &str = "montage.png";

/// Named regions of a subject, over the voxels of the set.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Regions {
    /// Of the subject's functional volume: voxels along x, y, z.
    pub shape: [usize; 3],
    /// Which images are held out, by name: `shared907`, `shared515`, or a file's.
    pub split: String,
    /// sha256 of the held-out images' ids in ascending order, one a line; results over different splits are not compared.
    pub split_sha256: String,
    /// The parcels of HCP_MMP1 in the voxel set, best first or as they were given; empty where none were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parcels: Vec<u16>,
    pub regions: BTreeMap<String, Region>,
}

/// A region: official label and, where a threshold is set, t map above it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Region {
    /// Rows of the voxel set, ascending, each once.
    pub rows: Vec<usize>,
    /// Voxels of the whole mask, in the set or not.
    pub mask_voxels: usize,
}

/// An opened folder.
#[derive(Debug)]
pub struct Dataset {
    folder: PathBuf,
    manifest: Manifest,
    regions: Regions,
    betas: Checkpoint,
    images: Checkpoint,
    voxels: Checkpoint,
    /// images, voxels, side
    size: [usize; 3],
}

impl Dataset {
    /// Opens the folder that `prepare` made; files are mapped, not read.
    ///
    /// # Errors
    /// A file is missing or truncated, or a tensor has a shape that does not fit the others.
    pub fn open(folder: &Path) -> Result<Self> {
        let manifest = Manifest::read(folder)?;
        let path = folder.join(REGIONS);
        let text = std::fs::read(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
        let regions = serde_json::from_slice(&text).map_err(|source| Error::Json { path, source })?;
        let open = |name: &str| Checkpoint::open(&folder.join(name));
        let (betas, images, voxels) = (open(BETAS)?, open(IMAGES)?, open(VOXELS)?);
        let &[rows, columns] = shape(&betas, "betas")? else { return Err(wrong(&betas, "betas", &[0, 0])) };
        let &[_, side, _, _] = shape(&images, "images")? else {
            return Err(wrong(&images, "images", &[rows, 0, 0, 3]));
        };
        for (file, key, expected) in [
            (&betas, "image_id", vec![rows]),
            (&betas, "repeats", vec![rows]),
            (&betas, "test", vec![rows]),
            (&images, "images", vec![rows, side, side, 3]),
            (&voxels, "voxel_ijk", vec![columns, 3]),
            (&voxels, "ncsnr", vec![columns]),
            (&voxels, "noise_ceiling", vec![columns]),
        ] {
            if shape(file, key)? != expected {
                return Err(wrong(file, key, &expected));
            }
        }
        let size = [rows, columns, side];
        Ok(Self { folder: folder.to_owned(), manifest, regions, betas, images, voxels, size })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub fn regions(&self) -> &Regions {
        &self.regions
    }

    pub fn images(&self) -> usize {
        self.size[0]
    }

    pub fn voxels(&self) -> usize {
        self.size[1]
    }

    /// Width and height of the images, pixels.
    pub fn side(&self) -> usize {
        self.size[2]
    }

    /// Copies what the voxels answered to an image into `betas` [voxels].
    pub fn betas(&self, image: usize, betas: &mut [f32]) {
        let row = self.row(&self.betas, "betas", image, 4 * self.voxels());
        row.as_chunks::<4>().0.iter().zip(betas).for_each(|(bytes, beta)| *beta = f32::from_le_bytes(*bytes));
    }

    /// An image's pixels [side, side, 3], RGB, row by row from the top.
    pub fn image(&self, image: usize) -> Cow<'_, [u8]> {
        self.row(&self.images, "images", image, 3 * self.side() * self.side())
    }

    /// What identifies each image: NSD's 73k id counted from 0, or its number in another dataset.
    pub fn image_ids(&self) -> Vec<i64> {
        integers(&self.betas, "image_id")
    }

    /// How many presentations each image's betas are the mean of.
    pub fn repeats(&self) -> Vec<i64> {
        integers(&self.betas, "repeats")
    }

    /// Numbers of the images that a head is fitted to, ascending.
    pub fn train(&self) -> Vec<usize> {
        self.of_split(0)
    }

    /// Numbers of the held-out images, ascending.
    pub fn test(&self) -> Vec<usize> {
        self.of_split(1)
    }

    /// Ids of the held-out images, ascending by number.
    pub fn held_out(&self) -> Vec<i64> {
        let ids = self.image_ids();
        self.test().into_iter().map(|image| ids[image]).collect()
    }

    /// Where each voxel lies in the subject's volume.
    pub fn voxel_ijk(&self) -> Vec<[i64; 3]> {
        integers(&self.voxels, "voxel_ijk").as_chunks::<3>().0.to_vec()
    }

    /// Noise ceiling signal-to-noise ratio of every voxel (Allen et al. 2022).
    pub fn ncsnr(&self) -> Vec<f32> {
        floats(&self.voxels, "ncsnr")
    }

    /// Most of the variance of a voxel's test means that a model can explain, per cent.
    pub fn noise_ceiling(&self) -> Vec<f32> {
        floats(&self.voxels, "noise_ceiling")
    }

    fn of_split(&self, wanted: i64) -> Vec<usize> {
        let test = integers(&self.betas, "test");
        (0..test.len()).filter(|&image| test[image] == wanted).collect()
    }

    fn row<'a>(&'a self, file: &'a Checkpoint, key: &str, row: usize, bytes: usize) -> Cow<'a, [u8]> {
        match file.bytes(&file.tensors()[key]) {
            Cow::Borrowed(all) => Cow::Borrowed(&all[row * bytes..(row + 1) * bytes]),
            Cow::Owned(all) => Cow::Owned(all[row * bytes..(row + 1) * bytes].to_vec()),
        }
    }
}

fn tensor<'a>(file: &'a Checkpoint, key: &str) -> Result<&'a Tensor> {
    file.tensors().get(key).ok_or_else(|| Error::MissingTensor { path: file.path().to_owned(), key: key.to_owned() })
}

fn shape<'a>(file: &'a Checkpoint, key: &str) -> Result<&'a [usize]> {
    Ok(&tensor(file, key)?.shape)
}

fn wrong(file: &Checkpoint, key: &str, expected: &[usize]) -> Error {
    let found = file.tensors().get(key).map(|tensor| tensor.shape.clone()).unwrap_or_default();
    Error::WrongShape { path: file.path().to_owned(), key: key.to_owned(), found, expected: expected.to_vec() }
}

/// A tensor of integers, whose presence was checked when the file was opened.
fn integers(file: &Checkpoint, key: &str) -> Vec<i64> {
    file.tensors().get(key).and_then(|tensor| file.integers(tensor)).unwrap_or_default()
}

fn floats(file: &Checkpoint, key: &str) -> Vec<f32> {
    let bytes = file.tensors().get(key).map(|tensor| file.bytes(tensor)).unwrap_or_default();
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}
