//! A subject's voxel head: image features → predicted activation of every voxel; in the paper the features have unit norm (Luo et al.
//! 2023, section 3.2).

use crate::error::{Error, Result};
use crate::layers::Linear;
use crate::models::VitConfig;
use crate::weights::{Weights, read_config};
use candle_core::{DType, Device, Tensor};
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One linear map from K image features to N voxels, z-scored beta units.
#[derive(Debug, Clone)]
pub struct Head {
    path: PathBuf,
    /// [N, K]
    weight: Tensor,
    /// [N]
    bias: Tensor,
    linear: Linear,
    config: HeadConfig,
    voxel_ijk: Option<Vec<[usize; 3]>>,
    held_out: Option<Vec<i64>>,
}

/// `config.json` beside the head; it may be missing.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct HeadConfig {
    image_size: Option<usize>,
    /// Whether the head reads features of unit norm; not said: it does.
    normalize: Option<bool>,
    rois: BTreeMap<String, Vec<usize>>,
    clusters: BTreeMap<String, Vec<usize>>,
    mask_voxels: BTreeMap<String, usize>,
}

impl Head {
    /// Reads a head and `config.json` beside it, which may be missing. `path` is the file or its folder: `head.safetensors` (weight
    /// [N, K], bias [N], perhaps voxel_ijk [N, 3] and held_out), or a checkpoint of BrainDiVE's trainer; see [`checkpoint::Head`].
    ///
    /// # Errors
    /// A file or tensor is missing or malformed, a checkpoint holds several subjects and nothing says which, a region lists a
    /// voxel that the head lacks.
    pub fn load(path: impl AsRef<Path>, dtype: DType, device: &Device) -> Result<Self> {
        let opened = checkpoint::Head::open(path.as_ref())?;
        let path = opened.checkpoint.path().to_owned();
        let weights = Weights::from_checkpoint(opened.checkpoint, dtype, device);
        let weight = weights.get(&[opened.voxels, opened.features], &opened.weight)?;
        let bias = weights.get(&[opened.voxels], &opened.bias)?;
        let config_path = path.with_file_name("config.json");
        let mut config: HeadConfig = match config_path.exists() {
            true => read_config(&config_path, &json!({}))?,
            false => HeadConfig::default(),
        };
        for (region, rows) in config.rois.iter_mut().chain(&mut config.clusters) {
            // An empty one is in nobody's way until it is asked for: not every subject has every region.
            if !rows.is_empty() {
                check_voxels(region, rows, opened.voxels)?;
            }
            // A region is a set: a voxel that is listed twice counts once.
            rows.sort_unstable();
            rows.dedup();
        }
        let voxel_ijk = weights.contains("voxel_ijk").then(|| read_voxel_ijk(&weights, opened.voxels)).transpose()?;
        let held_out = weights.contains("held_out").then(|| weights.integers("held_out")).transpose()?;
        Ok(Self { config, voxel_ijk, held_out, ..Self::new(path, weight, bias)? })
    }

    /// Reads `weight` [voxels, features] and `bias` [voxels] in `weights`; a head without regions or places.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn from_weights(voxels: usize, features: usize, weights: &Weights) -> Result<Self> {
        let (weight, bias) = (weights.get(&[voxels, features], "weight")?, weights.get(&[voxels], "bias")?);
        Self::new(weights.path().to_owned(), weight, bias)
    }

    fn new(path: PathBuf, weight: Tensor, bias: Tensor) -> Result<Self> {
        let linear = Linear::new(&weight, Some(&bias))?;
        Ok(Self { path, weight, bias, linear, config: HeadConfig::default(), voxel_ijk: None, held_out: None })
    }

    /// Predicted activation of every voxel. `features`: [batch, K], as [`VisionTransformer::head_input`](crate::models::vit::VisionTransformer::head_input) returns them; returns [batch, N].
    ///
    /// # Errors
    /// `features` has another width.
    pub fn predict(&self, features: &Tensor) -> candle_core::Result<Tensor> {
        Ok(self.linear.forward(&features.into())?.into_value())
    }

    /// N
    pub fn voxels(&self) -> usize {
        self.weight.dims()[0]
    }

    /// K
    pub fn features(&self) -> usize {
        self.weight.dims()[1]
    }

    /// Named regions and their row numbers in the head: ascending, each once.
    pub fn rois(&self) -> &BTreeMap<String, Vec<usize>> {
        &self.config.rois
    }

    /// Named clusters of voxels, as [`Head::rois`].
    pub fn clusters(&self) -> &BTreeMap<String, Vec<usize>> {
        &self.config.clusters
    }

    /// Voxels of the whole masks of regions and clusters, where they hold more than the head predicts.
    pub fn mask_voxels(&self) -> &BTreeMap<String, usize> {
        &self.config.mask_voxels
    }

    /// Where in the subject's functional volume each voxel lies, if the head says so.
    pub fn voxel_ijk(&self) -> Option<&[[usize; 3]]> {
        self.voxel_ijk.as_deref()
    }

    /// Ids of the images that the head was not fitted to, if it says so.
    pub fn held_out(&self) -> Option<&[i64]> {
        self.held_out.as_deref()
    }

    /// [N, K]
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// [N]
    pub fn bias(&self) -> &Tensor {
        &self.bias
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the head was fitted on features of the backbone in `folder`, as far as its configuration says.
    ///
    /// # Errors
    /// It reads another number of features, features of images of another size, or features that are normalised otherwise.
    pub(super) fn check_fits(&self, backbone: &VitConfig, folder: &Path) -> Result<()> {
        if self.features() != backbone.features {
            return Err(Error::HeadMismatch {
                head: self.path.clone(),
                backbone: folder.to_owned(),
                found: self.features(),
                expected: backbone.features,
            });
        }
        let HeadConfig { image_size, normalize, .. } = self.config;
        let (size, unit_norm) = (backbone.image_size, backbone.unit_norm);
        let (found, said) = (image_size.unwrap_or(size), normalize.unwrap_or(true));
        let (key, found, expected) = match (found == size, said == unit_norm) {
            (true, true) => return Ok(()),
            (false, _) => ("image_size", found.to_string(), format!("{size}, the image size")),
            (true, false) => ("normalize", said.to_string(), format!("{unit_norm}, as the features are")),
        };
        Err(Error::Unsupported {
            path: self.path.with_file_name("config.json"),
            key: key.to_owned(),
            found,
            expected: format!("{expected} of the backbone {}", folder.display()),
        })
    }
}

fn read_voxel_ijk(weights: &Weights, voxels: usize) -> Result<Vec<[usize; 3]>> {
    let found = weights.shape("voxel_ijk")?;
    let (path, key) = (weights.path().to_owned(), "voxel_ijk".to_owned());
    if found != [voxels, 3] {
        return Err(Error::WrongShape { path, key, found, expected: vec![voxels, 3] });
    }
    let indices = weights.integers("voxel_ijk")?.into_iter().map(usize::try_from).collect::<Result<Vec<_>, _>>();
    let negative = |_| Error::WrongType { path, key, found: "a negative index".into(), expected: "indices from 0" };
    Ok(indices.map_err(negative)?.as_chunks::<3>().0.to_vec())
}

/// A region must hold voxels, and only voxels of the head.
pub(super) fn check_voxels(region: &str, rows: &[usize], voxels: usize) -> Result<()> {
    let region = || region.to_owned();
    match rows.iter().max() {
        None => Err(Error::EmptyRegion { region: region() }),
        Some(&voxel) if voxel >= voxels => {
            Err(Error::NoSuchVoxel { region: region(), voxel, last: voxels.saturating_sub(1) })
        }
        Some(_) => Ok(()),
    }
}
