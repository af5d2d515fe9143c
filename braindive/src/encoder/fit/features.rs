//! Passes of images through the frozen backbone. What a pass has computed lies on disk, batch by batch, so that the next try goes on.

use super::FitError;
use super::augment::{Draws, augment};
use super::progress::Progress;
use super::settings::Settings;
use crate::error::{Error, Result};
use crate::gradient::Tracked;
use crate::layers::resize_crop;
use crate::models::vit::VisionTransformer;
use candle_core::{DType, Device, Tensor};
use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use subject::dataset::Dataset;

/// How far features, over the largest of a batch or 1, may be from those that another run of the same backbone gave.
const TOLERANCE: f32 = 1e-3;

/// A frozen image tower and where it came from.
#[derive(Debug, Clone, Copy)]
pub struct Backbone<'a> {
    pub tower: &'a VisionTransformer,
    pub folder: &'a Path,
    pub device: &'a Device,
}

/// Images that go through the backbone in batches.
#[derive(Debug, Clone, Copy)]
pub struct Pass<'a> {
    pub data: &'a Dataset,
    pub backbone: Backbone<'a>,
    /// Numbers of the images, in this order.
    pub images: &'a [usize],
    pub batch: usize,
    /// How they are augmented, and the number of the pass; `None`: not at all.
    pub augmented: Option<(&'a Settings, usize)>,
}

impl Pass<'_> {
    /// What a head reads of all images: [images, K]. Those that `path` holds already are read, the others computed and appended.
    ///
    /// # Errors
    /// Told to stop, the disk fails, features are not finite, or those in the file are of another backbone.
    pub fn features(&self, path: &Path, progress: &mut Progress<'_>) -> Result<Vec<f32>> {
        let width = self.backbone.tower.config.features;
        let read = |source| Error::Read { path: path.to_owned(), source };
        let write = |source| Error::Write { path: path.to_owned(), source };
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(write)?;
        let mut features = self.read_whole_batches(&mut file, width).map_err(read)?;
        file.set_len(4 * features.len() as u64).map_err(write)?;
        file.seek(SeekFrom::End(0)).map_err(write)?;
        if !features.is_empty() {
            let again = self.batch(0)?;
            let difference = again.iter().zip(&features).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            let largest = again.iter().map(|feature| feature.abs()).fold(1.0, f32::max);
            if difference > TOLERANCE * largest {
                return Err(FitError::OtherFeatures { path: path.to_owned(), difference }.into());
            }
        }
        progress.add(features.len() / width)?;
        for number in features.len() / width / self.batch..self.images.len().div_ceil(self.batch) {
            if features.len() == self.images.len() * width {
                break;
            }
            let batch = self.batch(number)?;
            let bytes: Vec<u8> = batch.iter().flat_map(|feature| feature.to_le_bytes()).collect();
            file.write_all(&bytes).and_then(|()| file.sync_data()).map_err(write)?;
            features.extend(&batch);
            progress.add(batch.len() / width)?;
        }
        Ok(features)
    }

    /// What an earlier try has finished: a crash may have left part of a batch behind.
    fn read_whole_batches(&self, file: &mut File, width: usize) -> std::io::Result<Vec<f32>> {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let mut features: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|&word| f32::from_le_bytes(word)).collect();
        let whole = self.images.len() * width;
        features.truncate(if features.len() >= whole {
            whole
        } else {
            features.len() / (self.batch * width) * self.batch * width
        });
        Ok(features)
    }

    /// Features of batch `number`: [images of the batch, K].
    fn batch(&self, number: usize) -> Result<Vec<f32>> {
        let Backbone { tower, folder, device } = self.backbone;
        let size = tower.config.crop_from.unwrap_or(tower.config.image_size);
        let first = number * self.batch;
        let images = &self.images[first..self.images.len().min(first + self.batch)];
        let pixels: Vec<Cow<'_, [u8]>> = images.iter().map(|&image| self.data.image(image)).collect();
        let pixels: Vec<&[u8]> = pixels.iter().map(|pixels| &**pixels).collect();
        let draws = match self.augmented {
            Some((settings, pass)) => Draws::of(settings, pass as u32, number as u32, images.len(), size),
            None => Draws::none(images.len()),
        };
        let pixels = augment(&pixels, self.data.side(), size, &tower.config.preprocess, &draws);
        let mut pixels = Tracked::from(Tensor::from_vec(pixels, (images.len(), 3, size, size), device)?);
        if let Some(shorter) = tower.config.crop_from {
            pixels = resize_crop(&pixels, shorter, tower.config.image_size)?;
        }
        let features = tower.head_input(&tower.forward(&pixels)?)?.into_value();
        let features = features.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        match features.iter().position(|feature| !feature.is_finite()) {
            None => Ok(features),
            Some(at) => {
                let image = self.data.image_ids()[images[at / tower.config.features]];
                Err(FitError::NonFiniteFeatures { backbone: folder.to_owned(), image }.into())
            }
        }
    }
}
