//! What `import-dataset` is asked to take over.

use super::error::Problem;
use super::npy;
use crate::error::Result;
use crate::image::png;
use crate::nsd::ctab;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// The label volumes of which the Algonauts Project has masks.
const CHALLENGE: [&str; 6] = ["prf-visualrois", "floc-bodies", "floc-faces", "floc-places", "floc-words", "streams"];

/// What to take over. Files hold arrays whose first axis is the images'.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    pub subject: String,
    /// A folder of PNG files in the order of their names; [images, side, side, 3] of bytes in `.npy` or in the tensor `images` of safetensors; HDF5
    /// of one such image under every COCO id.
    pub images: PathBuf,
    /// [images, voxels] in `.npy` or in the tensor `betas` of safetensors, several files side by side (hemispheres); or one HDF5 file with `mask` and
    /// betas under every COCO id.
    pub betas: Vec<PathBuf>,
    /// Z-score every voxel over all images.
    pub zscore: bool,
    /// Of the betas' voxels, those that are taken over: in these masks and not in those of `without`. All if there are none.
    pub voxels: Vec<RegionFiles>,
    pub without: Vec<RegionFiles>,
    #[serde(deserialize_with = "each_once")]
    pub regions: BTreeMap<String, RegionFiles>,
    /// [voxels, 3] of the betas: where every voxel lies in the volume `like`.
    pub voxel_ijk: Option<PathBuf>,
    /// A NIfTI volume in the subject's space.
    pub like: Option<PathBuf>,
    /// [voxels] of the betas: signal to noise of a single trial.
    pub ncsnr: Option<PathBuf>,
    /// Trials that each image's betas are the mean of.
    pub repeats: u8,
    /// The held-out images: a file of their ids, one a line, or a pickle of COCO's ids as texts.
    pub test: Option<PathBuf>,
    /// Without such a file, every n-th image in the order of ids is held out.
    pub test_every: usize,
    /// Side of the prepared images, pixels.
    pub image_size: usize,
}

/// A region: a volume in the subject's space, or a mask over the betas' voxels, in as many files as there are of betas: `.npy`, a pickle of
/// arrays, NIfTI, or FreeSurfer's `.mgh` and `.mgz`, whose vertices are the voxels of one hemisphere's betas.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegionFiles {
    pub masks: Vec<PathBuf>,
    /// Which array of a pickle of several, counted from 0: lists over subjects begin with subject 1.
    #[serde(default)]
    pub item: Option<usize>,
    /// The values that belong to the region; without labels and names, all above 0.5.
    #[serde(default)]
    pub labels: Vec<i32>,
    /// Labels by name, as the colour table beside the masks has them, or NSD's data manual.
    #[serde(default)]
    pub names: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            subject: "subject".to_owned(),
            images: PathBuf::new(),
            betas: Vec::new(),
            zscore: false,
            voxels: Vec::new(),
            without: Vec::new(),
            regions: BTreeMap::new(),
            voxel_ijk: None,
            like: None,
            ncsnr: None,
            repeats: 1,
            test: None,
            test_every: 10,
            image_size: 256,
        }
    }
}

impl Settings {
    /// The challenge's training data of a subject: `training_split/training_images`, `training_split/training_fmri` and `roi_masks` below `root`.
    ///
    /// # Errors
    /// The folder of masks can't be read.
    pub fn algonauts(root: &Path, subject: &str) -> Result<Self> {
        let sides = ["lh", "rh"];
        let masks = root.join("roi_masks");
        let mut regions = BTreeMap::new();
        for roi in CHALLENGE {
            let files = sides.map(|side| masks.join(format!("{side}.{roi}_challenge_space.npy")));
            if !files.iter().all(|file| file.exists()) {
                continue;
            }
            let mut there = Vec::new();
            for file in &files {
                there.extend(npy::read(file)?.floats());
            }
            // The challenge leaves areas out that a subject lacks.
            let labels = ctab::known(roi).unwrap_or_default().into_iter();
            for (label, name) in labels.filter(|(label, _)| there.contains(&f64::from(*label))) {
                let labelled = RegionFiles { masks: files.to_vec(), labels: vec![label], ..RegionFiles::default() };
                regions.insert(name, labelled);
            }
        }
        let training = root.join("training_split");
        Ok(Self {
            subject: subject.to_owned(),
            images: training.join("training_images"),
            betas: sides.map(|side| training.join(format!("training_fmri/{side}_training_fmri.npy"))).to_vec(),
            regions,
            ..Self::default()
        })
    }

    /// Every file that is read, each once.
    pub(super) fn files(&self) -> Result<Vec<PathBuf>> {
        let mut files = match self.images.is_dir() {
            true => png::files(&self.images)?,
            false => vec![self.images.clone()],
        };
        let masks = || self.regions.values().chain(&self.voxels).chain(&self.without);
        files.extend(self.betas.iter().chain(masks().flat_map(|region| &region.masks)).cloned());
        let named = masks().filter(|region| !region.names.is_empty());
        files.extend(
            named.flat_map(|region| &region.masks).map(|mask| ctab::beside(mask)).filter(|table| table.exists()),
        );
        files.extend([&self.voxel_ijk, &self.like, &self.ncsnr, &self.test].into_iter().flatten().cloned());
        files.sort_unstable();
        files.dedup();
        Ok(files)
    }

    /// The settings with names of files instead of their places.
    pub(super) fn named(&self) -> serde_json::Value {
        let name = |path: &PathBuf| PathBuf::from(path.file_name().unwrap_or_default());
        let names = |paths: &[PathBuf]| paths.iter().map(name).collect::<Vec<_>>();
        let region = |region: &RegionFiles| RegionFiles { masks: names(&region.masks), ..region.clone() };
        let settings = Self {
            images: name(&self.images),
            betas: names(&self.betas),
            voxels: self.voxels.iter().map(region).collect(),
            without: self.without.iter().map(region).collect(),
            regions: self.regions.iter().map(|(key, files)| (key.clone(), region(files))).collect(),
            voxel_ijk: self.voxel_ijk.as_ref().map(name),
            like: self.like.as_ref().map(name),
            ncsnr: self.ncsnr.as_ref().map(name),
            test: self.test.as_ref().map(name),
            ..self.clone()
        };
        serde_json::json!(settings)
    }
}

impl RegionFiles {
    /// The values that belong to the region, of [`Self::labels`] and [`Self::names`]; empty for all above 0.5.
    ///
    /// # Errors
    /// A colour table can't be read, or names no such label.
    pub(super) fn labels(&self) -> Result<Vec<i32>> {
        let mut labels = self.labels.clone();
        let Some(mask) = self.masks.first().filter(|_| !self.names.is_empty()) else { return Ok(labels) };
        let known = ctab::of(mask)?;
        for name in &self.names {
            let label = known.iter().find(|(_, known)| *known == name).map(|(&label, _)| label);
            labels.push(label.ok_or_else(|| {
                let known: Vec<&str> = known.values().map(String::as_str).collect();
                let expected = format!("one of {} ({})", known.join(", "), ctab::beside(mask).display());
                Problem::unexpected(format!("no label that is called {name}"), expected).of(mask)
            })?);
        }
        Ok(labels)
    }
}

/// Regions by name, each once: of two with one name, JSON would drop the first without a word.
fn each_once<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<BTreeMap<String, RegionFiles>, D::Error> {
    struct Regions;

    impl<'de> Visitor<'de> for Regions {
        type Value = BTreeMap<String, RegionFiles>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("regions by name")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut regions = BTreeMap::new();
            while let Some(name) = map.next_key::<String>()? {
                if regions.contains_key(&name) {
                    return Err(A::Error::custom(format!("two regions are called `{name}`, expected one of a name")));
                }
                regions.insert(name, map.next_value()?);
            }
            Ok(regions)
        }
    }

    deserializer.deserialize_map(Regions)
}
