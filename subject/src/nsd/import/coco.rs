//! HDF5 files of one dataset an image under its COCO id, as BrainDiVE's notebooks leave them: betas of cortex beside the volume `mask`
//! (`cortex_subj_S.npy`, which is HDF5 in spite of its name), and images of [side, side, 3] under ids of twelve digits.

use super::dataset::Responses;
use super::error::{ImportError, Problem};
use super::pickle::{self, Pickled};
use crate::error::Result;
use crate::image::RgbImage8;
use crate::nsd::hdf5::truncated;
use hdf5_reader::{Dataset, Hdf5File};
use std::io::Read;
use std::path::Path;

const MASK: &str = "mask";

/// Whether the file begins as HDF5 does.
pub fn is_hdf5(path: &Path) -> bool {
    let mut start = [0; 8];
    std::fs::File::open(path)
        .and_then(|mut file| file.read_exact(&mut start))
        .is_ok_and(|()| start == *b"\x89HDF\r\n\x1a\n")
}

/// Betas of every image in the order of ids.
pub fn responses(path: &Path) -> Result<Responses> {
    let failed = |error: hdf5_reader::error::Error| Problem::Hdf5(error.to_string()).of(path);
    let (_, datasets) = open(path)?;
    let mask = datasets.iter().find(|dataset| dataset.name() == MASK);
    let mask =
        mask.ok_or_else(|| Problem::unexpected("no dataset `mask`", "cortex in the subject's volume").of(path))?;
    let shape: Vec<usize> = mask.shape().iter().map(|&length| length as usize).collect();
    let flags = mask.read_raw_bytes().map_err(failed)?;
    let (&[x, y, z], true) = (shape.as_slice(), flags.len() == shape.iter().product::<usize>()) else {
        let found = format!("a mask of shape {shape:?} and {} bytes", flags.len());
        return Err(Problem::unexpected(found, "booleans over three axes").of(path).into());
    };
    let place = |voxel: usize| [voxel / (y * z), voxel / z % y, voxel % z];
    let places: Vec<[usize; 3]> = (0..flags.len()).filter(|&voxel| flags[voxel] != 0).map(place).collect();
    let mut images = Vec::new();
    for dataset in datasets.iter().filter(|dataset| dataset.name() != MASK) {
        images.push((id(dataset.name()).map_err(|problem| problem.of(path))?, dataset));
    }
    images.sort_by_key(|(id, _)| *id);
    let mut betas = Vec::with_capacity(images.len() * places.len());
    for (id, dataset) in &images {
        if dataset.shape() != [places.len() as u64] {
            let found = format!("{:?} betas of image {id}", dataset.shape());
            return Err(Problem::unexpected(found, format!("{}, one a voxel of `mask`", places.len())).of(path).into());
        }
        betas.extend(dataset.read_array::<f32>().map_err(failed)?);
    }
    let ids = Some(images.iter().map(|(id, _)| *id).collect());
    Ok(Responses { ids, betas, voxels: places.len(), places: Some(([x, y, z], places)) })
}

/// The images of `ids`.
pub fn images(path: &Path, ids: &[i64]) -> Result<Vec<RgbImage8>> {
    let failed = |error: hdf5_reader::error::Error| Problem::Hdf5(error.to_string()).of(path);
    let (file, _) = open(path)?;
    let mut images = Vec::with_capacity(ids.len());
    for id in ids {
        let dataset = file.dataset(&format!("{id:012}")).or_else(|_| file.dataset(&id.to_string()));
        let dataset =
            dataset.map_err(|_| Problem::unexpected(format!("no image {id:012}"), "one for all betas").of(path))?;
        let &[height, width, 3] = dataset.shape() else {
            let found = format!("an image {id} of shape {:?}", dataset.shape());
            return Err(Problem::unexpected(found, "[height, width, 3]").of(path).into());
        };
        let pixels = dataset.read_array::<u8>().map_err(failed)?.into_iter().collect();
        images.push(RgbImage8::new(width as usize, height as usize, pixels)?);
    }
    Ok(images)
}

/// Ids of images, one a line, or texts in a pickle.
pub fn test_ids(path: &Path) -> Result<Vec<i64>, ImportError> {
    let file = std::fs::read(path).map_err(|source| Problem::Read(source).of(path))?;
    let texts = match file.first() {
        Some(0x80) => match pickle::parse(&file).map_err(|problem| problem.of(path))? {
            Pickled::Texts(texts) => texts,
            Pickled::Arrays(_) => return Err(Problem::unexpected("arrays", "ids as texts").of(path)),
        },
        _ => {
            let text = String::from_utf8(file).map_err(|_| Problem::unexpected("bytes", "an id a line").of(path))?;
            text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
        }
    };
    texts.iter().map(|text| id(text).map_err(|problem| problem.of(path))).collect()
}

fn id(text: &str) -> Result<i64, Problem> {
    text.parse().map_err(|_| Problem::unexpected(format!("the name {text:?}"), "the number of an image"))
}

fn open(path: &Path) -> Result<(Hdf5File, Vec<Dataset>), ImportError> {
    let failed = |error: hdf5_reader::error::Error| Problem::Hdf5(error.to_string()).of(path);
    let file = Hdf5File::open(path).map_err(failed)?;
    if let Some([length, announced]) = truncated(&file) {
        let expected = format!("{announced} as it says itself: it is truncated");
        return Err(Problem::unexpected(format!("{length} bytes"), expected).of(path));
    }
    let datasets = file.root_group().and_then(|root| root.datasets()).map_err(failed)?;
    Ok((file, datasets))
}
