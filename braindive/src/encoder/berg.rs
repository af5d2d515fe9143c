//! Encoders of the Brain Encoding Response Generator (Gifford et al., github.com/gifale95/BERG), model `fmri-nsd_fsaverage-vit_b_32`: the
//! outputs of all blocks of torchvision's ViT-B/32, standardised, brought to 250 principal components, and mapped linearly to the
//! vertices of fsaverage. Scaler and components become one matrix of the backbone; the regression becomes the head.

use super::fit::SOFTWARE;
use crate::error::{Error, Result};
use crate::models::vit::Trunk;
use crate::models::{Torchvision, VitConfig};
use crate::weights::Weights;
use candle_core::{DType, Device};
use checkpoint::{Checkpoint, Dtype};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use subject::folder::{Draft, FileRecord, Manifest, Opened, Provenance};
use subject::nsd::import::named::Named;
use subject::nsd::import::{Array, ImportError, Problem, npy};
use subject::nsd::prepare::split;
use subject::write_tensors;

/// Left, right: 0 and 1 in `hemisphere_vertex`.
const HEMISPHERES: [&str; 2] = ["lh", "rh"];
/// Pixel statistics of ImageNet, which torchvision's classifiers are trained with.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const STD: [f32; 3] = [0.229, 0.224, 0.225];

/// What to take over.
#[derive(Debug, Clone)]
pub struct Source {
    /// `weights_subject-NN.npy`
    pub weights: PathBuf,
    /// `metadata_subject-NN.npy`
    pub metadata: PathBuf,
    /// The state dict of torchvision's tower: a `.pth` file or safetensors.
    pub backbone: PathBuf,
    pub subject: String,
    /// Whose vertices the head predicts; empty for all vertices.
    pub regions: Vec<String>,
    /// The shorter side of the image whose centre the tower sees, pixels.
    pub resize: usize,
    /// Attention heads, if they are not 64 features wide.
    pub heads: Option<usize>,
}

/// Writes the folders `backbone` and `encoder` in `out`, each of which appears whole. It holds the components in memory three times: at the published
/// sizes it takes 2.4 GB.
///
/// # Errors
/// A file is missing, damaged, would execute code or does not fit the others, a region is unknown or empty, or the disk fails; the
/// error names the file.
pub fn import(source: &Source, out: &Path) -> Result<[Manifest; 2]> {
    let record = |path: &PathBuf| FileRecord::of(path, &path.file_name().unwrap_or_default().to_string_lossy());
    let inputs = [&source.weights, &source.metadata, &source.backbone].map(record);
    let [weights, metadata, backbone] = inputs;
    let (weights, metadata, backbone) = (weights?, metadata?, backbone?);
    let mut atlas = Atlas::read(&source.metadata)?;
    atlas.keep(&source.regions, &source.metadata)?;

    let settings = json!({ "resize": source.resize, "heads": source.heads });
    let tower = Folder { place: out.join("backbone"), settings, inputs: vec![weights.clone(), backbone], source };
    let settings = json!({ "regions": source.regions });
    let head = Folder { place: out.join("encoder"), settings, inputs: vec![weights, metadata], source };
    let (tower_draft, head_draft) = match [tower.open()?, head.open()?] {
        [Opened::Done(tower), Opened::Done(head)] => return Ok([tower, head]),
        drafts => drafts.into(),
    };
    let mut parameters = Parameters::read(&source.weights)?;
    let readout = parameters.readout()?;
    let config = source.tower(&readout)?;
    let tower = match tower_draft {
        Opened::Done(manifest) => manifest,
        Opened::Draft(draft) => {
            write_tower(draft.path(), &source.backbone, &config, &readout)?;
            tower.publish(draft, [("features", config.features)])?
        }
    };
    drop(readout);
    let head = match head_draft {
        Opened::Done(manifest) => manifest,
        Opened::Draft(draft) => {
            let vertices = write_head(draft.path(), source, &atlas, &mut parameters, &config, &tower.files)?;
            head.publish(draft, [("vertices", vertices), ("regions", atlas.regions.len())])?
        }
    };
    Ok([tower, head])
}

/// A folder that is made of BERG's files.
struct Folder<'a> {
    place: PathBuf,
    settings: serde_json::Value,
    inputs: Vec<FileRecord>,
    source: &'a Source,
}

impl Folder<'_> {
    fn open(&self) -> Result<Opened> {
        let identity = json!({ "berg": self.settings, "inputs": self.inputs, "subject": self.source.subject });
        Ok(Draft::open(&self.place, &identity.to_string())?)
    }

    fn publish<const N: usize>(&self, draft: Draft, summary: [(&str, usize); N]) -> Result<Manifest> {
        Ok(draft.publish(Provenance {
            kind: "import".to_owned(),
            subject: self.source.subject.clone(),
            settings: self.settings.clone(),
            inputs: self.inputs.clone(),
            summary: summary.map(|(name, number)| (name.to_owned(), number as f64)).into(),
            software: SOFTWARE.to_owned(),
        })?)
    }
}

/// The dictionary in a file that `numpy.save` wrote.
fn named(path: &Path) -> Result<Named, ImportError> {
    let file = std::fs::read(path).map_err(|source| Problem::Read(source).of(path))?;
    npy::pickle(&file).and_then(Named::parse).map_err(|problem| problem.of(path))
}

/// Which vertices are called what.
struct Atlas {
    /// Vertices by region, left and right.
    regions: BTreeMap<String, [Vec<usize>; 2]>,
    /// Of the images that the regression was not fitted to and was tested on; see [`split::digest`].
    test_sha256: String,
    /// Whether only the vertices of `regions` are wanted.
    is_part: bool,
}

impl Atlas {
    fn read(path: &Path) -> Result<Self, ImportError> {
        let read = || {
            let mut metadata = named(path).map_err(|error| error.problem)?;
            let mut regions: BTreeMap<String, [Vec<usize>; 2]> = BTreeMap::new();
            for (side, hemisphere) in HEMISPHERES.iter().enumerate() {
                let group = format!("{hemisphere}_fsaverage_rois");
                let names: Vec<String> = metadata.names(&["fmri", &group])?.into_iter().map(str::to_owned).collect();
                for name in names {
                    let vertices = indices(metadata.take(&["fmri", &group, &name])?, &name)?;
                    regions.entry(name).or_default()[side] = vertices;
                }
            }
            let images = indices(metadata.take(&["encoding_models", "test_img_num"])?, "test_img_num")?;
            let images: BTreeSet<u32> = images.into_iter().map(|image| image as u32).collect();
            Ok(Self { regions, test_sha256: split::digest(&images), is_part: false })
        };
        read().map_err(|problem: Problem| problem.of(path))
    }

    /// Leaves out all regions but `names`, if there are any.
    fn keep(&mut self, names: &[String], path: &Path) -> Result<()> {
        for name in names {
            match self.regions.get(name) {
                None => {
                    let known: Vec<&str> = self.regions.keys().map(String::as_str).collect();
                    let expected = format!("one of {}", known.join(", "));
                    return Err(Problem::unexpected(format!("no region `{name}`"), expected).of(path).into());
                }
                Some([left, right]) if left.is_empty() && right.is_empty() => {
                    return Err(Error::EmptyRegion { region: name.clone() });
                }
                Some(_) => {}
            }
        }
        if !names.is_empty() {
            self.regions.retain(|name, _| names.contains(name));
            self.is_part = true;
        }
        Ok(())
    }

    /// Hemisphere and vertex of every row of the head, ascending. `vertices`: how many each hemisphere has.
    fn rows(&self, vertices: [usize; 2], path: &Path) -> Result<Vec<[usize; 2]>> {
        let mut rows = BTreeSet::new();
        for (name, sides) in &self.regions {
            for (side, wanted) in sides.iter().enumerate() {
                if let Some(vertex) = wanted.iter().find(|&&vertex| vertex >= vertices[side]) {
                    let found = format!("vertex {vertex} of {} in region `{name}`", HEMISPHERES[side]);
                    let expected = format!("vertices below {}, as many as the weights have", vertices[side]);
                    return Err(Problem::unexpected(found, expected).of(path).into());
                }
                rows.extend(wanted.iter().map(|&vertex| [side, vertex]));
            }
        }
        if !self.is_part {
            rows.extend((0..2).flat_map(|side| (0..vertices[side]).map(move |vertex| [side, vertex])));
        }
        Ok(rows.into_iter().collect())
    }
}

fn indices(array: Array, name: &str) -> Result<Vec<usize>, Problem> {
    let bad = |value| Problem::unexpected(format!("{value} in `{name}`"), "numbers of 0, 1, 2, …");
    array.indices().map_err(bad)
}

/// What was fitted: `scaler_param`, `pca_param`, `lh_reg_param`, `rh_reg_param`.
struct Parameters<'a> {
    path: &'a Path,
    named: Named,
}

/// Standardisation and principal components as one affine map.
struct Readout {
    /// [features, joined]: principal component over standard deviation.
    components: Array,
    /// [joined]
    scale: Vec<f64>,
    /// [features]: what the map makes of outputs of zero.
    bias: Vec<f64>,
}

impl<'a> Parameters<'a> {
    fn read(path: &'a Path) -> Result<Self, ImportError> {
        Ok(Self { path, named: named(path)? })
    }

    /// The array at `group`.`name`, which has to have `shape`; `None` stands for any length.
    fn take<const N: usize>(&mut self, group: &str, name: &str, shape: [Option<usize>; N]) -> Result<Array> {
        let array = self.named.take(&[group, name]).map_err(|problem| problem.of(self.path))?;
        let fits = |(found, wanted): (&usize, &Option<usize>)| wanted.is_none_or(|wanted| wanted == *found);
        if array.shape.len() == N && array.shape.iter().zip(&shape).all(fits) {
            return Ok(array);
        }
        let word = |length: &Option<usize>| length.map_or("any".to_owned(), |length| length.to_string());
        let expected = format!("the shape [{}]", shape.iter().map(word).collect::<Vec<_>>().join(", "));
        Err(Problem::unexpected(format!("{} in `{group}.{name}`", array.describe()), expected).of(self.path).into())
    }

    /// component · ((outputs − mean)/scale − pca_mean), as scikit-learn's `StandardScaler` and `PCA` transform; folded in 64 bits.
    fn readout(&mut self) -> Result<Readout> {
        let components = self.take("pca_param", "components_", [None, None])?;
        let joined = components.shape[1];
        let mut vector = |group, name| Ok::<_, Error>(self.take(group, name, [Some(joined)])?.floats());
        let (mean, scale) = (vector("scaler_param", "mean_")?, vector("scaler_param", "scale_")?);
        let pca_mean = vector("pca_param", "mean_")?;
        let center: Vec<f64> = mean.iter().zip(&scale).zip(pca_mean).map(|((m, s), p)| m / s + p).collect();
        let dot = |row: usize| {
            let component = components.floats_in(row * joined..(row + 1) * joined);
            component.iter().zip(&center).map(|(c, x)| c * x).sum::<f64>()
        };
        let bias: Vec<f64> = (0..components.shape[0]).map(|row| -dot(row)).collect();
        match bias.iter().chain(&scale).all(|value| value.is_finite()) {
            true => Ok(Readout { components, scale, bias }),
            false => {
                let found = "NaN or infinity in `scaler_param` or `pca_param`, or a scale of 0";
                Err(Problem::unexpected(found, "finite numbers").of(self.path).into())
            }
        }
    }

    /// `coef_` [vertices, features] and `intercept_` [vertices] of a hemisphere.
    fn regression(&mut self, hemisphere: &str, features: usize) -> Result<(Array, Vec<f64>)> {
        let group = format!("{hemisphere}_reg_param");
        let coefficients = self.take(&group, "coef_", [None, Some(features)])?;
        let intercept = self.take(&group, "intercept_", [Some(coefficients.shape[0])])?;
        Ok((coefficients, intercept.floats()))
    }
}

impl Source {
    /// The tower's sizes, as its tensors have them, checked against all of them and against what the readout reads.
    fn tower(&self, readout: &Readout) -> Result<Torchvision> {
        let weights = Weights::open(&self.backbone, DType::F32, &Device::Cpu)?;
        let axis = |key: &str, axis: usize, rank: usize| {
            let shape = weights.shape(key)?;
            let (path, key, expected) = (self.backbone.clone(), key.to_owned(), vec![0; rank]);
            match shape.len() == rank {
                true => Ok(shape[axis]),
                false => Err(Error::WrongShape { path, key, found: shape, expected }),
            }
        };
        let block = |i: usize| format!("encoder.layers.encoder_layer_{i}");
        let hidden_dim = axis("conv_proj.weight", 0, 4)?;
        let patch_size = axis("conv_proj.weight", 2, 4)?;
        let feed_forward = match weights.contains(&format!("{}.mlp.linear_1.weight", block(0))) {
            true => "mlp.linear_1.weight",
            false => "mlp.0.weight",
        };
        let patches = axis("encoder.pos_embedding", 1, 3)?.saturating_sub(1);
        let config = Torchvision {
            image_size: patches.isqrt() * patch_size,
            patch_size,
            hidden_dim,
            num_layers: (0..).take_while(|&i| weights.contains(&format!("{}.ln_1.weight", block(i)))).count(),
            num_heads: self.heads.unwrap_or(hidden_dim / 64),
            mlp_dim: axis(&format!("{}.{feed_forward}", block(0)), 0, 2)?,
            resize_size: self.resize,
            mean: MEAN,
            std: STD,
            features: readout.components.shape[0],
            unit_norm: false,
        };
        let tower = VitConfig::torchvision(config.clone(), &self.backbone)?;
        let (blocks, tokens, joined) = (tower.layers, tower.tokens(), readout.components.shape[1]);
        if blocks * tokens * tower.width != joined {
            let found = format!("components of {joined} outputs");
            let width = tower.width;
            let expected = format!(
                "{blocks} blocks × {tokens} tokens × {width}, which {} makes; is it another backbone?",
                self.backbone.display()
            );
            return Err(Problem::unexpected(found, expected).of(&self.weights).into());
        }
        Trunk::load(&tower, &weights)?;
        Ok(config)
    }
}

/// Writes the tower with its readout, block by block.
fn write_tower(folder: &Path, backbone: &Path, config: &Torchvision, readout: &Readout) -> Result<()> {
    let checkpoint = Checkpoint::open(backbone)?;
    let kept = checkpoint.tensors().iter().filter(|(key, _)| {
        ["class_token", "conv_proj.", "encoder.pos_embedding", "encoder.layers."].iter().any(|of| key.starts_with(of))
    });
    let kept: Vec<_> = kept.map(|(key, tensor)| (key, tensor, checkpoint.bytes(tensor))).collect();
    let (features, joined) = (config.features, readout.scale.len());
    let columns = joined / config.num_layers;
    let mut blocks = vec![Vec::with_capacity(4 * features * columns); config.num_layers];
    for row in 0..features {
        let component = readout.components.floats_in(row * joined..(row + 1) * joined);
        let parts = component.chunks(columns).zip(readout.scale.chunks(columns));
        for (block, (component, scale)) in blocks.iter_mut().zip(parts) {
            block.extend(component.iter().zip(scale).flat_map(|(c, s)| ((c / s) as f32).to_le_bytes()));
        }
    }
    let bias: Vec<u8> = readout.bias.iter().flat_map(|&value| (value as f32).to_le_bytes()).collect();
    let names: Vec<String> = (0..blocks.len()).map(|block| format!("readout.{block}.weight")).collect();
    let named = names.iter().zip(&blocks);
    let tensors: Vec<_> = kept
        .iter()
        .map(|(key, tensor, bytes)| (key.as_str(), tensor.dtype, tensor.shape.clone(), &**bytes))
        .chain(named.map(|(name, block)| (name.as_str(), Dtype::F32, vec![features, columns], &block[..])))
        .chain([("readout.bias", Dtype::F32, vec![features], &bias[..])])
        .collect();
    write_tensors(&folder.join("model.safetensors"), &tensors, None)?;
    let mut config = json!(config);
    config["model_type"] = json!("torchvision_vit");
    write(&folder.join("config.json"), &config)
}

/// Writes the head and its configuration; returns how many vertices it predicts. `backbone`: files of the tower's folder.
fn write_head(
    folder: &Path,
    source: &Source,
    atlas: &Atlas,
    parameters: &mut Parameters<'_>,
    config: &Torchvision,
    backbone: &[FileRecord],
) -> Result<usize> {
    let features = config.features;
    let mut regression = |side: usize| parameters.regression(HEMISPHERES[side], features);
    let hemispheres = [regression(0)?, regression(1)?];
    let rows = atlas.rows(hemispheres.each_ref().map(|(_, intercept)| intercept.len()), &source.metadata)?;
    let (mut weight, mut bias, mut places) = (Vec::with_capacity(4 * rows.len() * features), Vec::new(), Vec::new());
    for &[side, vertex] in &rows {
        let (coefficients, intercept) = &hemispheres[side];
        let row = coefficients.floats_in(vertex * features..(vertex + 1) * features);
        if !row.iter().chain([&intercept[vertex]]).all(|value| value.is_finite()) {
            let found = format!("NaN or infinity in `{}_reg_param`, vertex {vertex}", HEMISPHERES[side]);
            return Err(Problem::unexpected(found, "finite numbers").of(&source.weights).into());
        }
        weight.extend(row.into_iter().flat_map(|value| (value as f32).to_le_bytes()));
        bias.extend((intercept[vertex] as f32).to_le_bytes());
        places.extend([side, vertex].into_iter().flat_map(|index| (index as i32).to_le_bytes()));
    }
    let tensors = [
        ("weight", Dtype::F32, vec![rows.len(), features], &weight[..]),
        ("bias", Dtype::F32, vec![rows.len()], &bias),
        ("hemisphere_vertex", Dtype::I32, vec![rows.len(), 2], &places),
    ];
    let provenance = json!({
        "subject": source.subject,
        "space": "fsaverage",
        "split": "test_img_num",
        "split_sha256": atlas.test_sha256,
        "backbone": backbone,
        "software": SOFTWARE,
    });
    let provenance = HashMap::from([("braindive".to_owned(), provenance.to_string())]);
    write_tensors(&folder.join("head.safetensors"), &tensors, Some(provenance))?;
    let row = |place: [usize; 2]| rows.binary_search(&place).ok();
    let rows_of = |sides: &[Vec<usize>; 2]| -> Vec<usize> {
        let places = sides.iter().enumerate().flat_map(|(side, vertices)| vertices.iter().map(move |&v| [side, v]));
        places.filter_map(row).collect()
    };
    let rois: BTreeMap<&String, Vec<usize>> =
        atlas.regions.iter().map(|(name, sides)| (name, rows_of(sides))).collect();
    let config = json!({
        "subject": source.subject,
        "voxels": rows.len(),
        "features": features,
        "image_size": config.image_size,
        "normalize": config.unit_norm,
        "rois": rois,
    });
    write(&folder.join("config.json"), &config)?;
    Ok(rows.len())
}

fn write(path: &Path, config: &serde_json::Value) -> Result<()> {
    std::fs::write(path, config.to_string()).map_err(|source| Error::Write { path: path.to_owned(), source })
}
