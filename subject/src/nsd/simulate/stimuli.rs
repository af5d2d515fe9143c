//! The pictures that subjects saw: drawn, or from a folder; and NSD's file of them.

use super::hdf5::{Dataset, Element, Writer};
use super::render::{Category, draw};
use super::{Images, Settings, written};
use crate::error::Result;
use crate::image::{RgbImage8, png, resize};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Pictures by number, with what they show where that is known.
pub type Stimuli = BTreeMap<usize, (RgbImage8, Option<Category>)>;

/// The pictures of `numbers`. What drawn ones show is random, but that all categories are equally frequent among those `shared`, on which
/// fits are tested.
pub fn stimuli(settings: &Settings, shared: &[usize], numbers: &BTreeSet<usize>) -> Result<Stimuli> {
    let (side, seed) = (settings.side, settings.seed);
    let files = match &settings.images {
        Images::Drawn => Vec::new(),
        Images::Folder(folder) => png::files(folder)?,
    };
    let picture = |&number: &usize| -> Result<_> {
        let picture = match files.as_slice() {
            [] => {
                let category = match shared.binary_search(&number) {
                    Ok(rank) => Category::ALL[rank % Category::ALL.len()],
                    Err(_) => Category::of(number, seed),
                };
                (draw(category, number, side, seed)?, Some(category))
            }
            files => {
                let (picture, _) = png::read(&files[number % files.len()])?;
                (resize::shortest_side_center_crop(&picture, side), None)
            }
        };
        Ok((number, picture))
    };
    numbers.par_iter().map(picture).collect()
}

/// Writes `nsd_stimuli.hdf5` with room for `count` pictures; those that nobody saw are black and take no disk.
pub fn write(path: &Path, stimuli: &Stimuli, count: usize, side: usize) -> Result<()> {
    let shape = vec![count, side, side, 3];
    let dataset = Dataset { name: "imgBrick", element: Element::U8, shape, chunk: None };
    let writer = Writer::create(path, dataset).map_err(written(path))?;
    for (number, (picture, _)) in stimuli {
        writer.write((number * 3 * side * side) as u64, picture.pixels()).map_err(written(path))?;
    }
    writer.finish().map_err(written(path))
}
