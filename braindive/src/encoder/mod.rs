//! The brain encoder: image to voxels, and objectives over voxels.

pub mod evaluate;
pub mod fit;
mod head;
mod objective;
mod volume;

pub use head::Head;
pub use objective::{Objective, Target, Term};
pub use volume::{MaskError, MaskedRows, Threshold, VolumeMask};

use crate::error::{Error, Result};
use crate::gradient::Tracked;
use crate::layers::unit_norm;
use crate::models::vit::VisionTransformer;
use candle_core::{DType, Device, Tensor};
use std::path::Path;
use std::sync::Arc;

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
    /// [batch, K], unit norm.
    pub unit_features: Tracked,
}

/// `image`: [batch, 3, height, width] in 0..1; differentiable.
///
/// # Errors
/// `image` is no batch of RGB images.
pub fn encode(backbone: &VisionTransformer, image: &Tracked) -> candle_core::Result<Encoding> {
    let clip_input = backbone.preprocess(image)?;
    let clip_features = backbone.forward(&clip_input)?;
    let unit_features = unit_norm(&clip_features)?;
    Ok(Encoding { clip_input: clip_input.into_value(), clip_features: clip_features.into_value(), unit_features })
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
        let (features, size) = (backbone.config.features, backbone.config.image_size);
        if head.features() != features {
            return Err(Error::HeadMismatch {
                head: head.path().to_owned(),
                backbone: folder.to_owned(),
                found: head.features(),
                expected: features,
            });
        }
        match head.image_size() {
            Some(found) if found != size => Err(Error::Unsupported {
                path: head.path().with_file_name("config.json"),
                key: "image_size".to_owned(),
                found: found.to_string(),
                expected: format!("{size}, the image size of the backbone {}", folder.display()),
            }),
            _ => Ok(Self { backbone, head }),
        }
    }

    /// Predicted activation of every voxel of `image` [batch, 3, height, width] in 0..1: [batch, N], z-scored beta units.
    ///
    /// # Errors
    /// As [`encode`].
    pub fn voxels(&self, image: &Tensor) -> candle_core::Result<Tensor> {
        self.head.predict(encode(&self.backbone, &image.into())?.unit_features.value())
    }
}
