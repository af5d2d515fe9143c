//! The images: as they were shown (HDF5 `imgBrick`), or cropped from COCO's photographs as the paper's authors did.

use super::hdf5::truncated;
use super::stim_info::{self, StimInfo};
use super::{Layout, NsdError};
use crate::image::RgbImage8;
use hdf5_reader::{Dataset, Datatype, Hdf5File, SliceInfo, SliceInfoElem};
use image::ImageFormat;
use std::path::{Path, PathBuf};

const DATASET: &str = "imgBrick";

/// Where images come from.
#[derive(Debug)]
pub struct Stimuli {
    /// The HDF5 file, or COCO's folder.
    path: PathBuf,
    source: Source,
}

enum Source {
    Shown { dataset: Box<Dataset>, images: usize, side: [usize; 2] },
    Coco(Vec<StimInfo>),
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Shown { .. } => "Shown",
            Self::Coco(_) => "Coco",
        })
    }
}

impl Stimuli {
    /// The images as they were shown.
    ///
    /// # Errors
    /// The file is no HDF5 file, is truncated, or has no `imgBrick` of 8-bit images by rows, columns and RGB.
    pub fn shown(path: &Path) -> Result<Self, NsdError> {
        let failed = |source| NsdError::Hdf5 { path: path.to_owned(), source };
        let file = Hdf5File::open(path).map_err(failed)?;
        if let Some(lengths) = truncated(&file) {
            return Err(NsdError::truncated(path, lengths));
        }
        let dataset = file.dataset(DATASET).map_err(failed)?;
        let bytes = matches!(dataset.dtype(), Datatype::FixedPoint { size: 1, signed: false, .. });
        match dataset.shape() {
            &[images, height, width, 3] if bytes && images * height * width > 0 => {
                let (images, side) = (images as usize, [height as usize, width as usize]);
                Ok(Self { path: path.to_owned(), source: Source::Shown { dataset: Box::new(dataset), images, side } })
            }
            shape => Err(NsdError::Unexpected {
                path: path.to_owned(),
                what: format!("`{DATASET}`"),
                found: format!("{:?} of shape {shape:?}", dataset.dtype()),
                expected: "8-bit numbers of shape [images, height, width, 3]".to_owned(),
            }),
        }
    }

    /// COCO's photographs in `folder`, cropped as the dataset's table says.
    ///
    /// # Errors
    /// The table is missing or malformed.
    pub fn coco(layout: &Layout, folder: &Path) -> Result<Self, NsdError> {
        let info = stim_info::read(&layout.stim_info())?;
        Ok(Self { path: folder.to_owned(), source: Source::Coco(info) })
    }

    /// What a manifest calls where the images come from.
    pub fn name(&self, layout: &Layout) -> String {
        match self.source {
            Source::Shown { .. } => format!("{}:{DATASET}", layout.name(&self.path)),
            Source::Coco(_) => "coco".to_owned(),
        }
    }

    /// Why an image isn't there, before any is read.
    ///
    /// # Errors
    /// There is no image of this id.
    pub fn check(&self, id: u32) -> Result<(), NsdError> {
        let images = match &self.source {
            Source::Shown { images, .. } => *images,
            Source::Coco(info) => info.len(),
        };
        if id as usize >= images {
            return Err(NsdError::Unexpected {
                path: self.path.clone(),
                what: "the number of images".to_owned(),
                found: images.to_string(),
                expected: format!("more than {id}, an id that the design shows"),
            });
        }
        let Source::Coco(info) = &self.source else { return Ok(()) };
        let path = self.photograph(&info[id as usize]);
        match path.is_file() {
            true => Ok(()),
            false => Err(NsdError::Missing { path, purpose: format!("image {id} is a part of it") }),
        }
    }

    fn photograph(&self, info: &StimInfo) -> PathBuf {
        self.path.join(&info.coco_split).join(format!("{:012}.jpg", info.coco_id))
    }

    /// An image, as large as it is there.
    ///
    /// # Errors
    /// It can't be read.
    pub fn image(&self, id: u32) -> Result<RgbImage8, NsdError> {
        self.check(id)?;
        let image = match &self.source {
            Source::Shown { dataset, side: [height, width], .. } => {
                let failed = |source| NsdError::Hdf5 { path: self.path.clone(), source };
                let mut slice = SliceInfo::all(4);
                slice.selections[0] = SliceInfoElem::Index(u64::from(id));
                let pixels = dataset.read_slice::<u8>(&slice).map_err(failed)?;
                let (pixels, _) = pixels.as_standard_layout().into_owned().into_raw_vec_and_offset();
                RgbImage8::new(*width, *height, pixels)
            }
            Source::Coco(info) => {
                let info = &info[id as usize];
                let path = self.photograph(info);
                let read = |source| NsdError::Read { path: path.clone(), source };
                let bytes = std::fs::read(&path).map_err(read)?;
                let photograph = image::load_from_memory_with_format(&bytes, ImageFormat::Jpeg)
                    .map_err(|source| NsdError::Jpeg { path: path.clone(), source })?
                    .to_rgb8();
                let (width, height) = (photograph.width() as usize, photograph.height() as usize);
                let [top, bottom, left, right] = info.kept(height, width);
                let rows = photograph.chunks_exact(3 * width).take(bottom).skip(top);
                let pixels = rows.flat_map(|row| &row[3 * left..3 * right]).copied().collect();
                RgbImage8::new(right - left, bottom - top, pixels)
            }
        };
        image.map_err(|source| NsdError::Image { path: self.path.clone(), id, source })
    }
}
