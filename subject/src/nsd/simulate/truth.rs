//! What was planted, beside the data that it shows in: `truth/subjNN.safetensors` and `truth/subjNN.json`, and of all images that were
//! shown `truth/features.safetensors`: `image_id` i64 [images] and `features` f32 [images, features], unit norm.
//!
//! | tensor | |
//! |---|---|
//! | `voxel_ijk` i32 [cortex, 3] | all voxels of cortex |
//! | `weight` f32 [cortex, features], `bias` f32 [cortex] | of an image's unit-norm features, in z-scored beta units: what a fit to endless data finds |
//! | `ncsnr` f32 [cortex] | signal to noise of a single trial |
//! | `noise_ceiling` f32 [cortex] | per cent, of means of three trials |
//! | `cluster` u8 [cortex] | 1 or 2 in the regions that have two clusters, else 0 |

use super::Settings;
use super::anatomy::{AREAS, Anatomy, FOOD, Place, ijk};
use super::features::Features;
use super::tuning::{Tuned, noise_ceiling};
use crate::error::{Error, Result};
use crate::write_tensors;
use safetensors::Dtype;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;

/// Writes a subject's truth to the folder `truth`.
pub fn write(truth: &Path, settings: &Settings, anatomy: &Anatomy, tuned: &[(Place, Tuned)]) -> Result<()> {
    let (count, width) = (tuned.len(), tuned.first().map_or(0, |(_, tuned)| tuned.weight.len()));
    let floats =
        |values: &mut dyn Iterator<Item = f64>| values.flat_map(|value| (value as f32).to_le_bytes()).collect();
    // In a z-scored beta signal and noise together have variance 1.
    let scale = |tuned: &Tuned| if tuned.is_dead { 0.0 } else { noise_ceiling(tuned.ncsnr, 1.0).sqrt() };
    let each = tuned.iter().map(|(_, tuned)| tuned);
    let places: Vec<u8> = tuned
        .iter()
        .flat_map(|(place, _)| ijk(place.voxel, anatomy.grid.shape))
        .flat_map(|index| (index as i32).to_le_bytes())
        .collect();
    let weight: Vec<u8> =
        floats(&mut each.clone().flat_map(|tuned| tuned.weight.iter().map(move |weight| weight * scale(tuned))));
    let bias: Vec<u8> = floats(&mut each.clone().map(|tuned| tuned.bias * scale(tuned)));
    let measured = |tuned: &Tuned| if tuned.is_dead { f64::NAN } else { tuned.ncsnr };
    let ncsnr: Vec<u8> = floats(&mut each.clone().map(measured));
    let ceiling: Vec<u8> = floats(&mut each.clone().map(|tuned| 100.0 * noise_ceiling(measured(tuned), 3.0)));
    let cluster: Vec<u8> = each.clone().map(|tuned| tuned.cluster).collect();
    let name = format!("subj{:02}", anatomy.subject);
    let path = truth.join(format!("{name}.safetensors"));
    write_tensors(
        &path,
        &[
            ("voxel_ijk", Dtype::I32, vec![count, 3], &places),
            ("weight", Dtype::F32, vec![count, width], &weight),
            ("bias", Dtype::F32, vec![count], &bias),
            ("ncsnr", Dtype::F32, vec![count], &ncsnr),
            ("noise_ceiling", Dtype::F32, vec![count], &ceiling),
            ("cluster", Dtype::U8, vec![count], &cluster),
        ],
        None,
    )?;

    let voxels = |name: &str| {
        let here = |place: &Place| match name == FOOD.name {
            true => FOOD.holds(*place),
            false => AREAS.iter().any(|area| anatomy.area(*place, area.file).is_some_and(|area| area.name == name)),
        };
        tuned.iter().filter(|(place, _)| here(place)).count()
    };
    let regions: BTreeMap<&str, usize> =
        AREAS.iter().chain([&FOOD]).map(|area| (area.name, voxels(area.name))).collect();
    let about = json!({
        "subject": name,
        "shape": anatomy.grid.shape,
        "backbone": settings.backbone,
        "regions": regions,
        "clusters": { "food": [1, 2], "OPA": [1, 2] },
        "settings": settings,
    });
    let path = truth.join(format!("{name}.json"));
    let text = serde_json::to_vec_pretty(&about).map_err(|source| Error::Json { path: path.clone(), source })?;
    std::fs::write(&path, text).map_err(|source| Error::Write { path, source })
}

/// Writes the features that the voxels answer to.
pub fn write_features(truth: &Path, features: &Features) -> Result<()> {
    let ids: Vec<u8> = features.all().flat_map(|(image, _)| (image as i64).to_le_bytes()).collect();
    let rows: Vec<u8> = features.all().flat_map(|(_, row)| row).flat_map(|value| value.to_le_bytes()).collect();
    let count = ids.len() / 8;
    write_tensors(
        &truth.join("features.safetensors"),
        &[("image_id", Dtype::I64, vec![count], &ids), ("features", Dtype::F32, vec![count, features.width], &rows)],
        None,
    )
}
