//! The images of the set, resized, to `images.safetensors`.

use super::{Plan, Work};
use crate::dataset::{IMAGES, TensorFile};
use crate::folder::FileRecord;
use crate::image::resize::bicubic;
use crate::nsd::NsdError;
use rayon::prelude::*;
use safetensors::Dtype;
use sha2::{Digest, Sha256};
use std::path::Path;

/// Images that are read before they are written.
const BATCH: usize = 64;

/// Writes the file; the record is of the pixels that were read, in the order of the images' ids, for a file of all images is larger than
/// what one subject saw.
pub fn images(plan: &Plan, folder: &Path, work: &mut Work<'_>) -> Result<FileRecord, NsdError> {
    let side = plan.image_size;
    let path = folder.join(IMAGES);
    let failed = |source| NsdError::Write { path: path.clone(), source };
    let file =
        TensorFile::create(&path, &[("images", Dtype::U8, vec![plan.images.len(), side, side, 3])]).map_err(failed)?;
    let (mut hash, mut bytes) = (Sha256::new(), 0);
    for (batch, ids) in plan.images.chunks(BATCH).enumerate() {
        let read = ids.par_iter().map(|&id| plan.stimuli.image(id)).collect::<Result<Vec<_>, _>>()?;
        let resized: Vec<_> = read.par_iter().map(|image| bicubic(image, side, side)).collect();
        for (at, (image, resized)) in read.iter().zip(&resized).enumerate() {
            hash.update(image.pixels());
            bytes += image.pixels().len() as u64;
            let start = (batch * BATCH + at) * resized.pixels().len();
            file.write("images", start, resized.pixels()).map_err(failed)?;
        }
        if work.step(plan.picture_bytes() * ids.len() as u64).is_break() {
            return Err(NsdError::Stopped);
        }
    }
    let name = format!("{} ({} images)", plan.stimuli.name(&plan.layout), plan.images.len());
    let sha256 = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(FileRecord { name, bytes, sha256 })
}
