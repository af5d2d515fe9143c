//! A subject's data, prepared: what fitting, evaluating and clustering read.

use super::input::Out;
use crate::ids::Digest;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// One cell of the grid without its seeds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PrepareCondition {
    /// The grid's name of the subject, for example `subj01`.
    pub subject: String,
    pub settings: PrepareSettings,
    /// sha256 of the files that the settings name, by setting.
    pub files: BTreeMap<String, Digest>,
    pub out: Out,
}

/// What is taken from a dataset and how. What is left out is as in the paper (Luo et al. 2023, section 4.1, and the authors' code).
/// Paths are absolute, as the coordinator sees them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PrepareSettings {
    /// The folder that holds `nsddata` and `nsddata_betas`.
    pub root: PathBuf,
    /// Which preparation of the betas: the name of their folder.
    pub betas: String,
    /// How many sessions there have to be; `None`: NSD's own number.
    pub sessions: Option<u32>,
    /// Members of the voxel set: names of ROI volumes, `parcels`, `food`, `cortex`.
    pub voxels: Vec<String>,
    /// How many parcels of HCP_MMP1 `parcels` stands for: those of the highest noise ceiling.
    pub parcels: u32,
    /// Subjects whose noise ceilings rank the parcels; every one that is there if it is empty.
    pub ranked_by: Vec<u32>,
    /// Parcels by number, instead of ranking them.
    pub parcel_ids: Vec<u32>,
    /// ROI volumes whose labelled voxels are not in the set.
    pub exclude: Vec<String>,
    /// A volume of the subject, larger than 0.5 in food-selective voxels.
    pub food: Option<PathBuf>,
    /// Regions of the functional localiser are its labels where its t map is larger than this.
    pub t_above: f64,
    /// The held-out images: `shared907`, `shared515`, or a file of ids.
    pub split: String,
    /// Side of the prepared images, pixels.
    pub image_size: u32,
    /// Folder of COCO's `train2017` and `val2017`, instead of the images as they were shown.
    pub stimuli: Option<PathBuf>,
}

impl Default for PrepareSettings {
    fn default() -> Self {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Self {
            root: PathBuf::new(),
            betas: "betas_fithrf_GLMdenoise_RR".to_owned(),
            sessions: None,
            voxels: names(&["prf-visualrois", "floc-faces", "floc-places", "floc-bodies", "floc-words", "parcels"]),
            parcels: 45,
            ranked_by: Vec::new(),
            parcel_ids: Vec::new(),
            exclude: names(&["prf-visualrois"]),
            food: None,
            t_above: 2.0,
            split: "shared907".to_owned(),
            image_size: 256,
            stimuli: None,
        }
    }
}
