//! From the sessions' picked voxels to `betas.safetensors`: the mean over the repeats of every image.

use super::{Plan, pick};
use crate::dataset::{BETAS, TensorFile};
use crate::nsd::{NsdError, TRIALS};
use rayon::prelude::*;
use safetensors::Dtype;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Voxels whose means are in memory at a time: 160 MB for 10,000 images.
const BLOCK: usize = 4096;
/// Voxels of a block that one thread adds up: a cache line for every image.
const STRIP: usize = 16;

/// Writes the file from what the sessions left in `folder`.
pub fn betas(plan: &Plan, folder: &Path) -> Result<(), NsdError> {
    let (images, voxels) = (plan.images.len(), plan.voxels.len());
    let path = folder.join(BETAS);
    let failed = |source| NsdError::Write { path: path.clone(), source };
    let tensors = [
        ("betas", Dtype::F32, vec![images, voxels]),
        ("image_id", Dtype::I64, vec![images]),
        ("repeats", Dtype::U8, vec![images]),
        ("test", Dtype::U8, vec![images]),
    ];
    let file = TensorFile::create(&path, &tensors).map_err(failed)?;
    let ids: Vec<u8> = plan.images.iter().flat_map(|&id| i64::from(id).to_le_bytes()).collect();
    file.write("image_id", 0, &ids).map_err(failed)?;
    file.write("repeats", 0, &plan.repeats).map_err(failed)?;
    file.write("test", 0, &plan.test).map_err(failed)?;

    for first in (0..voxels).step_by(BLOCK) {
        let width = BLOCK.min(voxels - first);
        let mut strips: Vec<Vec<f32>> =
            (0..width).step_by(STRIP).map(|at| vec![0.0; images * STRIP.min(width - at)]).collect();
        for (session, image_of_trial) in plan.image_of_trial.chunks_exact(TRIALS).enumerate() {
            let path = pick::path(folder, session);
            let read = |source| NsdError::Read { path: path.clone(), source };
            let mut series = vec![0f32; width * TRIALS];
            let from = (first * TRIALS * size_of::<f32>()) as u64;
            File::open(&path)
                .and_then(|file| file.read_exact_at(bytemuck::cast_slice_mut(&mut series), from))
                .map_err(read)?;
            strips.par_iter_mut().zip(series.par_chunks(STRIP * TRIALS)).for_each(|(sums, series)| {
                let width = series.len() / TRIALS;
                for (trial, &image) in image_of_trial.iter().enumerate() {
                    let sums = &mut sums[image as usize * width..][..width];
                    sums.iter_mut().zip(series[trial..].iter().step_by(TRIALS)).for_each(|(sum, beta)| *sum += beta);
                }
            });
        }
        // Of little-endian values, as the file has them.
        let mut row: Vec<u32> = Vec::with_capacity(width);
        for (image, &repeats) in plan.repeats.iter().enumerate() {
            row.clear();
            for strip in &strips {
                let width = strip.len() / images;
                let sums = &strip[image * width..][..width];
                row.extend(sums.iter().map(|sum| (sum / f32::from(repeats)).to_bits().to_le()));
            }
            file.write("betas", (image * voxels + first) * size_of::<f32>(), bytemuck::cast_slice(&row))
                .map_err(failed)?;
        }
    }
    Ok(())
}
