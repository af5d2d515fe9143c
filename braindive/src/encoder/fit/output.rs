//! The files of an encoder's folder.

use super::SOFTWARE;
use super::train::Found;
use crate::encoder::evaluate::{Evaluation, VoxelScores};
use crate::error::{Error, Result};
use crate::models::VitConfig;
use safetensors::Dtype;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use subject::dataset::{Dataset, GRID};
use subject::folder::FileRecord;
use subject::image::png;
use subject::volume::{Grid, Montage, write_map};

pub const HEAD: &str = "head.safetensors";
/// A line per epoch.
pub const METRICS: &str = "metrics.jsonl";
/// R² by voxel, as slices.
pub const PICTURE: &str = "montage.png";
const CONFIG: &str = "config.json";

/// Writes head, configuration, grid and metrics. `backbone`: files of the image tower.
pub fn write_head(
    folder: &Path,
    data: &Dataset,
    config: &VitConfig,
    found: &Found,
    backbone: &[FileRecord],
) -> Result<()> {
    write_weights(&folder.join(HEAD), data, found, backbone)?;
    let regions = &data.regions().regions;
    let rois: BTreeMap<&String, &Vec<usize>> = regions.iter().map(|(name, region)| (name, &region.rows)).collect();
    let mask_voxels: BTreeMap<&String, usize> =
        regions.iter().map(|(name, region)| (name, region.mask_voxels)).collect();
    let json = serde_json::json!({
        "subject": data.manifest().subject,
        "voxels": data.voxels(),
        "features": found.width,
        "image_size": config.image_size,
        "normalize": config.unit_norm,
        "rois": rois,
        "mask_voxels": mask_voxels,
    });
    write(&folder.join(CONFIG), json.to_string().as_bytes())?;
    let lines: String = found.metrics.iter().map(|line| format!("{line}\n")).collect();
    if !lines.is_empty() {
        write(&folder.join(METRICS), lines.as_bytes())?;
    }
    let (from, to) = (data.folder().join(GRID), folder.join(GRID));
    std::fs::copy(&from, &to).map_err(|source| Error::Read { path: from, source })?;
    Ok(())
}

/// Writes what an evaluation found: numbers, a volume for each score, which is NaN where it is not defined, and a picture of R².
pub fn write_scores(folder: &Path, data: &Dataset, evaluation: &Evaluation, scores: &VoxelScores) -> Result<()> {
    evaluation.write(folder, data, scores)?;
    let grid = grid(data)?;
    // An index that is negative is outside of every grid.
    let places =
        data.voxel_ijk().into_iter().map(|place| place.map(|index| usize::try_from(index).unwrap_or(usize::MAX)));
    let places: Vec<[usize; 3]> = places.collect();
    let volume = |scores: &[f64]| {
        let scores: Vec<f32> = scores.iter().map(|&score| score as f32).collect();
        grid.scatter(&places, &scores, f32::NAN)
    };
    for (name, scores) in [("r2", &scores.r2), ("r", &scores.r), ("normalised_r2", &scores.normalised_r2)] {
        write_map(&folder.join(format!("{name}.nii.gz")), &grid, &volume(scores)?)?;
    }
    let montage = Montage { grid: &grid, anatomy: None }.map(&volume(&scores.r2)?, None)?;
    let text = BTreeMap::from([("Software".to_owned(), SOFTWARE.to_owned())]);
    write(&folder.join(PICTURE), &png::encode(&montage, &text)?)
}

/// The subject's grid.
fn grid(data: &Dataset) -> Result<Grid> {
    let path = data.folder().join(GRID);
    let grid = Grid::read(&path)?;
    let (found, expected) = (grid.shape(), data.regions().shape);
    match found == expected {
        true => Ok(grid),
        false => Err(Error::Unsupported {
            path,
            key: "shape".to_owned(),
            found: format!("{found:?}"),
            expected: format!("{expected:?}, the shape that the regions have"),
        }),
    }
}

fn write_weights(path: &Path, data: &Dataset, found: &Found, backbone: &[FileRecord]) -> Result<()> {
    let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let (weight, bias) = (bytes(&found.weight), bytes(&found.bias));
    let places: Vec<u8> =
        data.voxel_ijk().into_iter().flatten().flat_map(|index| (index as i32).to_le_bytes()).collect();
    let voxels = data.voxels();
    let held_out =
        found.held_out.as_ref().map(|ids| (ids.len(), ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>()));
    let mut tensors = vec![
        ("weight", Dtype::F32, vec![voxels, found.width], &weight[..]),
        ("bias", Dtype::F32, vec![voxels], &bias),
        ("voxel_ijk", Dtype::I32, vec![voxels, 3], &places),
    ];
    tensors.extend(held_out.as_ref().map(|(images, ids)| ("held_out", Dtype::I64, vec![*images], &ids[..])));
    let regions = data.regions();
    // One entry, so that equal heads are equal files: a map of several is written in any order.
    let metadata = serde_json::json!({
        "subject": data.manifest().subject,
        "shape": regions.shape,
        "affine": grid(data)?.affine(),
        "split": regions.split,
        "split_sha256": regions.split_sha256,
        "backbone": backbone,
        "software": SOFTWARE,
    });
    let metadata = HashMap::from([("braindive".to_owned(), metadata.to_string())]);
    Ok(subject::write_tensors(path, &tensors, Some(metadata))?)
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).map_err(|source| Error::Write { path: path.to_owned(), source })
}
