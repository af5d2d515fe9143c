//! How well a head predicts the held-out images: R², Pearson's r and R² over the noise ceiling, by voxel and by region.

mod bootstrap;
mod scores;

pub use bootstrap::Summary;
pub use scores::VoxelScores;

use super::fit::{Backbone, FitError, Judged, LinearMap, Pass, Progress};
use crate::error::{Error, Result};
use bootstrap::{REPLICATES, Replicates};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use subject::dataset::Dataset;

pub const EVALUATION: &str = "evaluation.json";
pub const TABLE: &str = "evaluation.csv";

/// The region of all voxels that the head predicts.
pub const ALL: &str = "all";

/// What `evaluation.json` holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    pub subject: String,
    /// Name and digest of the held-out images, as in [`subject::dataset::Regions`].
    pub split: String,
    pub split_sha256: String,
    /// Held-out images.
    pub images: usize,
    /// Held-out images by the number of their presentations: 1, 2, 3.
    pub repeats: BTreeMap<i64, usize>,
    /// Of the head's file.
    pub encoder_sha256: String,
    /// How R² is defined.
    pub r2: String,
    /// By name; [`ALL`] has every voxel.
    pub regions: BTreeMap<String, RegionScores>,
    pub software: String,
}

/// A region's scores; one that is defined for no voxel of it is missing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegionScores {
    pub voxels: usize,
    pub r2: Option<Summary>,
    pub r: Option<Summary>,
    pub normalised_r2: Option<Summary>,
}

/// A difference between two evaluations.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    pub region: String,
    /// Mean R² of one and of the other.
    pub r2: [f64; 2],
    /// Mean r of one and of the other.
    pub r: [f64; 2],
}

/// Predicts the held-out images of `data` and scores every voxel. Features that are computed lie in `cache` for the next try.
///
/// # Errors
/// Told to stop, or a file can't be read or written.
pub fn evaluate(
    data: &Dataset,
    backbone: Backbone<'_>,
    map: LinearMap<'_>,
    encoder_sha256: &str,
    cache: &Path,
    batch: usize,
    progress: &mut Progress<'_>,
) -> Result<(Evaluation, VoxelScores)> {
    let images = data.test();
    let features = Pass { data, backbone, images: &images, batch, augmented: None }.features(cache, progress)?;
    let predicted = scores::predict(map, &features);
    let measured = super::fit::betas(data, &images)?;
    let noise_ceiling = data.noise_ceiling();
    let scores = VoxelScores::of(&predicted, &measured, &noise_ceiling);
    let drawn = Replicates::draw(&predicted, &measured, &noise_ceiling, REPLICATES, 0);
    let all: Vec<usize> = (0..data.voxels()).collect();
    let named = data.regions().regions.iter().map(|(name, region)| (name.as_str(), &region.rows[..]));
    let regions = named
        .chain([(ALL, &all[..])])
        .map(|(name, rows)| {
            let scores = RegionScores {
                voxels: rows.len(),
                r2: drawn.summary(&scores.r2, &drawn.r2, rows),
                r: drawn.summary(&scores.r, &drawn.r, rows),
                normalised_r2: drawn.summary(&scores.normalised_r2, &drawn.normalised_r2, rows),
            };
            (name.to_owned(), scores)
        })
        .collect();
    let presented = data.repeats();
    let mut repeats = BTreeMap::new();
    images.iter().for_each(|&image| *repeats.entry(presented[image]).or_default() += 1);
    let evaluation = Evaluation {
        subject: data.manifest().subject.clone(),
        split: data.regions().split.clone(),
        split_sha256: data.regions().split_sha256.clone(),
        images: images.len(),
        repeats,
        encoder_sha256: encoder_sha256.to_owned(),
        r2: "1 - SS_res/SS_tot about the mean of the held-out images".to_owned(),
        regions,
        software: super::fit::SOFTWARE.to_owned(),
    };
    Ok((evaluation, scores))
}

impl Evaluation {
    /// Writes `evaluation.json` and, a row per voxel, `evaluation.csv` to `folder`.
    ///
    /// # Errors
    /// The disk fails.
    pub fn write(&self, folder: &Path, data: &Dataset, scores: &VoxelScores) -> Result<()> {
        let write = |name: &str, text: &[u8]| {
            let path = folder.join(name);
            std::fs::write(&path, text).map_err(|source| Error::Write { path, source })
        };
        let path = folder.join(EVALUATION);
        write(EVALUATION, &serde_json::to_vec_pretty(self).map_err(|source| Error::Config { path, source })?)?;
        let mut table = "row,i,j,k,r2,r,noise_ceiling,normalised_r2\n".to_owned();
        let cell = |value: f64| if value.is_finite() { value.to_string() } else { String::new() };
        let places = data.voxel_ijk();
        for (row, (&[i, j, k], ceiling)) in places.iter().zip(data.noise_ceiling()).enumerate() {
            let [r2, r, normalised] = [scores.r2[row], scores.r[row], scores.normalised_r2[row]].map(cell);
            // Writing to a string can't fail.
            let _ = writeln!(table, "{row},{i},{j},{k},{r2},{r},{ceiling},{normalised}");
        }
        write(TABLE, table.as_bytes())
    }

    /// Reads the evaluation in `folder`, an encoder's or one by itself.
    ///
    /// # Errors
    /// The file can't be read or is no evaluation.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(EVALUATION);
        let text = std::fs::read(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
        serde_json::from_slice(&text).map_err(|source| Error::Config { path, source })
    }

    /// Sets this evaluation, of the folder `ours`, beside `other` of the folder `theirs`: the regions that both have.
    ///
    /// # Errors
    /// They are over different images.
    pub fn against(&self, ours: &Path, other: &Self, theirs: &Path) -> Result<Vec<Difference>, FitError> {
        if self.split_sha256 != other.split_sha256 {
            let judged = |evaluation: &Self, folder: &Path| Judged {
                folder: folder.to_owned(),
                split: evaluation.split.clone(),
                split_sha256: evaluation.split_sha256.clone(),
            };
            return Err(FitError::OtherSplit { of: Box::new([judged(self, ours), judged(other, theirs)]) });
        }
        let mean = |summary: &Option<Summary>| summary.as_ref().map(|summary| summary.mean);
        let beside = |(region, ours): (&String, &RegionScores)| {
            let theirs = other.regions.get(region)?;
            let r2 = [mean(&ours.r2)?, mean(&theirs.r2)?];
            let r = [mean(&ours.r)?, mean(&theirs.r)?];
            Some(Difference { region: region.clone(), r2, r })
        };
        Ok(self.regions.iter().filter_map(beside).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluation(split: &str, digit: &str, mean: f64) -> Evaluation {
        let summary = Summary { voxels: 1, mean, mean_interval: [0.0; 2], median: mean, median_interval: [0.0; 2] };
        let scores = RegionScores { voxels: 1, r2: Some(summary.clone()), r: Some(summary), normalised_r2: None };
        Evaluation {
            subject: "subj01".to_owned(),
            split: split.to_owned(),
            split_sha256: digit.repeat(64),
            images: 2,
            repeats: BTreeMap::from([(3, 2)]),
            encoder_sha256: "e".repeat(64),
            r2: String::new(),
            regions: BTreeMap::from([("FFA".to_owned(), scores)]),
            software: "test".to_owned(),
        }
    }

    #[test]
    fn evaluations_over_other_images_are_not_compared() {
        let (a, b) = (Path::new("a"), Path::new("b"));
        let ours = evaluation("shared515", "1", 0.5);
        let differences = ours.against(a, &evaluation("shared515", "1", 0.25), b).unwrap();
        assert_eq!(differences, [Difference { region: "FFA".to_owned(), r2: [0.5, 0.25], r: [0.5, 0.25] }]);
        let message = ours.against(a, &evaluation("shared907", "2", 0.25), b).unwrap_err().to_string();
        assert!(message.contains(&"1".repeat(64)) && message.contains(&"2".repeat(64)), "{message}");
    }
}
