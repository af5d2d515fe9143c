//! What is asked of `prepare`.

use crate::nsd::Subject;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The defaults are the paper's (Luo et al. 2023, section 4.1), but for food, whose masks are not published.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The folder that holds `nsddata` and `nsddata_betas`.
    pub root: PathBuf,
    /// Which preparation of the betas: the name of their folder.
    pub betas: String,
    /// How many sessions there have to be; all that the subject took part in if it is not said.
    pub sessions: Option<usize>,
    /// Members of the voxel set: names of ROI volumes (all of their labels), `parcels`, `food`, `cortex`.
    pub voxels: Vec<String>,
    /// How many parcels of HCP_MMP1 `parcels` stands for: those of the highest noise ceiling.
    pub parcels: usize,
    /// Whose noise ceilings rank the parcels; every subject whose volumes are under the root if it is empty.
    pub ranked_by: Vec<Subject>,
    /// Parcels by number, instead of ranking them.
    pub parcel_ids: Vec<u16>,
    /// ROI volumes whose labelled voxels are not in the set.
    pub exclude: Vec<String>,
    /// A NIfTI volume in the subject's functional space, larger than 0.5 in food-selective voxels.
    pub food: Option<PathBuf>,
    /// Regions of the functional localiser are its labels where its t map is larger than this.
    pub t_above: f64,
    /// The held-out images: `shared907` (seen at least once by all eight), `shared515` (three times), or a file of 73k ids counted
    /// from 0, one a line.
    pub split: String,
    /// Side of the prepared images, pixels.
    pub image_size: usize,
    /// Folder of COCO's `train2017` and `val2017`, from which the images are cropped, instead of those that were shown.
    pub stimuli: Option<PathBuf>,
}

impl Default for Settings {
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
