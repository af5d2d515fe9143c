//! A subject's betas: per session one HDF5 file, voxels outermost, and the same numbers as a NIfTI series.

use super::anatomy::{Anatomy, Place};
use super::design::TRIALS;
use super::features::Features;
use super::hdf5::{Dataset, Element, Writer};
use super::nifti;
use super::tuning::{Tuned, Tuning};
use super::written;
use crate::error::{Error, Result};
use crate::random::Random;
use rayon::prelude::*;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// NSD stores per cent signal change times this.
const SCALE: f64 = 300.0;
/// Standard deviation of the noise of one trial, per cent.
const NOISE: f64 = 0.8;
const VOXEL_BYTES: usize = 2 * TRIALS;
/// Trials of a NIfTI series that are held in memory at a time.
const GATHERED: usize = 50;

/// What the sessions of a subject are made from.
#[derive(Debug)]
pub struct Sessions<'a> {
    pub anatomy: &'a Anatomy,
    pub tuning: &'a Tuning<'a>,
    pub features: &'a Features,
    pub seed: u64,
}

impl Sessions<'_> {
    /// Writes a session, in which `shown` images were shown, as HDF5 to `path`.
    pub fn write_hdf5(&self, path: &Path, session: usize, shown: &[usize]) -> Result<()> {
        let [x, y, z] = self.anatomy.grid.shape;
        let dataset = Dataset {
            name: "betas",
            element: Element::I16,
            shape: vec![TRIALS, z, y, x],
            chunk: Some(vec![TRIALS, 1, 1, 1]),
        };
        let features: Vec<&[f32]> = shown.iter().map(|&image| self.features.of(image)).collect();
        let writer = Writer::create(path, dataset).map_err(written(path))?;
        // A slice at a time.
        (0..z).into_par_iter().try_for_each(|slice| {
            let first = slice * x * y;
            let mut block = vec![0; x * y * VOXEL_BYTES];
            for (voxel, betas) in block.chunks_exact_mut(VOXEL_BYTES).enumerate() {
                self.voxel(first + voxel, session, &features, betas);
            }
            writer.write((first * VOXEL_BYTES) as u64, &block).map_err(written(path))
        })?;
        writer.finish().map_err(written(path))
    }

    /// Betas of a voxel in a session: `betas` are 750 numbers of 16 bits, little-endian.
    fn voxel(&self, voxel: usize, session: usize, features: &[&[f32]], betas: &mut [u8]) {
        if !self.anatomy.brain[voxel] {
            return;
        }
        let place = self.anatomy.cortex.binary_search_by_key(&voxel, |place| place.voxel);
        let tuned = place.ok().map(|place| self.tuning.of(self.anatomy, self.anatomy.cortex[place]));
        if tuned.as_ref().is_some_and(|tuned| tuned.is_dead) {
            return;
        }
        let weight: Option<(Vec<f32>, f64)> = tuned.map(|tuned| {
            (tuned.weight.iter().map(|weight| (weight * tuned.ncsnr) as f32).collect(), tuned.bias * tuned.ncsnr)
        });
        let key = [5, u64::from(self.anatomy.subject), session as u64, voxel as u64];
        let mut random = Random::new(self.seed, &key);
        // Sessions differ in level and gain, which is why betas are z-scored by session.
        let (level, gain) = (0.5 * random.normal(), NOISE * random.uniform(0.7, 1.3));
        for (features, beta) in features.iter().zip(betas.as_chunks_mut::<2>().0) {
            let signal = weight.as_ref().map_or(0.0, |(weight, bias)| {
                bias + f64::from(weight.iter().zip(*features).map(|(weight, feature)| weight * feature).sum::<f32>())
            });
            let percent = level + gain * (signal + random.normal());
            *beta = ((SCALE * percent).round() as i16).to_le_bytes();
        }
    }

    /// Writes the session in the HDF5 file `from` as a NIfTI series to `path`.
    pub fn write_nifti(&self, path: &Path, from: &Path) -> Result<()> {
        let read = |source| Error::Read { path: from.to_owned(), source };
        let betas = File::open(from).map_err(read)?;
        let voxels = self.anatomy.brain.len();
        let mut file = nifti::create(path, &self.anatomy.grid, TRIALS, nifti::Element::I16).map_err(written(path))?;
        let [x, y, _] = self.anatomy.grid.shape;
        let mut slice = vec![0; x * y * VOXEL_BYTES];
        for first in (0..TRIALS).step_by(GATHERED) {
            let mut series = vec![0; GATHERED * voxels * 2];
            for (number, voxels_of_slice) in (0..voxels).step_by(x * y).enumerate() {
                let at = super::hdf5::DATA + (number * slice.len()) as u64;
                betas.read_exact_at(&mut slice, at).map_err(read)?;
                for (voxel, trials) in slice.chunks_exact(VOXEL_BYTES).enumerate() {
                    for trial in 0..GATHERED {
                        let to = 2 * (trial * voxels + voxels_of_slice + voxel);
                        series[to..to + 2].copy_from_slice(&trials[2 * (first + trial)..2 * (first + trial) + 2]);
                    }
                }
            }
            file.write_all(&series).map_err(written(path))?;
        }
        file.finish().and_then(|mut file| file.flush()).map_err(written(path))
    }
}

/// Answers of all of cortex.
pub fn tuned(anatomy: &Anatomy, tuning: &Tuning<'_>) -> Vec<(Place, Tuned)> {
    anatomy.cortex.par_iter().map(|&place| (place, tuning.of(anatomy, place))).collect()
}

/// Writes the noise ceiling's signal-to-noise ratio at every voxel: NaN where nothing was measured.
pub fn write_ncsnr(path: &Path, anatomy: &Anatomy, tuned: &[(Place, Tuned)]) -> io::Result<()> {
    let mut map: Vec<f32> = anatomy.brain.iter().map(|&brain| if brain { 0.0 } else { f32::NAN }).collect();
    for (place, tuned) in tuned {
        map[place.voxel] = if tuned.is_dead { f32::NAN } else { tuned.ncsnr as f32 };
    }
    nifti::write(path, &anatomy.grid, nifti::Element::F32, map.into_iter())
}
