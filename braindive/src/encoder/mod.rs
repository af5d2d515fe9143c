//! The brain encoder: image to voxels, and objectives over voxels.

pub mod berg;
pub mod evaluate;
pub mod fit;
mod head;
mod objective;
mod volume;

pub use head::Head;
pub use objective::{Objective, Target, Term};
pub use volume::{MaskError, MaskedRows, Threshold, VolumeMask};

use crate::error::Result;
use crate::gradient::Tracked;
use crate::image::to_tensor;
use crate::models::vit::VisionTransformer;
use candle_core::{DType, Device, Tensor};
use std::path::Path;
use std::sync::Arc;
use subject::image::RgbImage8;

/// A frozen backbone and a subject's head on it.
#[derive(Debug)]
pub struct Encoder {
    pub backbone: Arc<VisionTransformer>,
    pub head: Head,
}

/// What the backbone makes of an image.
#[derive(Debug, Clone)]
pub struct Encoding {
    /// [batch, 3, size, size], normalised pixels.
    pub clip_input: Tensor,
    /// [batch, K]
    pub clip_features: Tensor,
    /// [batch, K]; what a head reads: of unit norm, unless the backbone's configuration says otherwise.
    pub features: Tracked,
}

/// `image`: [batch, 3, height, width] in 0..1; differentiable.
///
/// # Errors
/// `image` is no batch of RGB images.
pub fn encode(backbone: &VisionTransformer, image: &Tracked) -> candle_core::Result<Encoding> {
    let clip_input = backbone.preprocess(image)?;
    let clip_features = backbone.forward(&clip_input)?;
    let features = backbone.head_input(&clip_features)?;
    Ok(Encoding { clip_input: clip_input.into_value(), clip_features: clip_features.into_value(), features })
}

/// The backbone's features of images of one size, [images, K], as heads read them.
///
/// # Errors
/// The images differ in size, or the device fails.
pub fn features(
    backbone: &VisionTransformer,
    images: &[&RgbImage8],
    device: &Device,
) -> candle_core::Result<Vec<Vec<f32>>> {
    let pixels = images.iter().map(|image| to_tensor(image, device)).collect::<Result<Vec<_>, _>>()?;
    encode(backbone, &Tensor::cat(&pixels, 0)?.into())?.features.value().to_vec2()
}

impl Encoder {
    /// Reads the image tower in the folder `backbone`, and `head`, a file or its folder; see [`VisionTransformer::load`] and
    /// [`Head::load`].
    ///
    /// # Errors
    /// A file or tensor is missing or malformed, or the head was fitted on another backbone.
    pub fn load(backbone: impl AsRef<Path>, head: impl AsRef<Path>, dtype: DType, device: &Device) -> Result<Self> {
        let folder = backbone.as_ref();
        let backbone = Arc::new(VisionTransformer::load(folder, dtype, device)?);
        Self::new(backbone, folder, Head::load(head, dtype, device)?)
    }

    /// A head on a backbone that other heads may share; `folder` is where the backbone came from.
    ///
    /// # Errors
    /// The head was fitted on another backbone.
    pub fn new(backbone: Arc<VisionTransformer>, folder: &Path, head: Head) -> Result<Self> {
        head.check_fits(&backbone.config, folder)?;
        Ok(Self { backbone, head })
    }

    /// Predicted activation of every voxel of `image` [batch, 3, height, width] in 0..1: [batch, N], z-scored beta units.
    ///
    /// # Errors
    /// As [`encode`].
    pub fn voxels(&self, image: &Tensor) -> candle_core::Result<Tensor> {
        self.head.predict(encode(&self.backbone, &image.into())?.features.value())
    }
}
