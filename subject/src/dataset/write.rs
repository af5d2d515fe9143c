//! Writing a prepared subject that fits into memory.

use super::{BETAS, IMAGES, REGIONS, Regions, VOXELS};
use crate::error::{Error, Result};
use crate::tensors::write_tensors;
use safetensors::Dtype;
use std::path::Path;

/// Everything but the grid and the manifest.
#[derive(Debug, Clone, Default)]
pub struct Parts {
    /// Pixels [images, side, side, 3].
    pub images: Vec<u8>,
    pub side: usize,
    /// [images, voxels]
    pub betas: Vec<f32>,
    pub image_ids: Vec<i64>,
    pub repeats: Vec<u8>,
    /// 1 for held-out images.
    pub test: Vec<u8>,
    pub voxel_ijk: Vec<[i32; 3]>,
    pub ncsnr: Vec<f32>,
    /// Per cent.
    pub noise_ceiling: Vec<f32>,
    pub regions: Regions,
}

/// Writes betas, images, voxels and regions to `folder`.
///
/// # Errors
/// The lengths do not fit together, or the disk fails.
pub fn write(folder: &Path, parts: &Parts) -> Result<()> {
    let (images, voxels, side) = (parts.image_ids.len(), parts.voxel_ijk.len(), parts.side);
    let betas = bytes(&parts.betas);
    let image_ids: Vec<u8> = parts.image_ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    write_tensors(
        &folder.join(BETAS),
        &[
            ("betas", Dtype::F32, vec![images, voxels], &betas),
            ("image_id", Dtype::I64, vec![images], &image_ids),
            ("repeats", Dtype::U8, vec![images], &parts.repeats),
            ("test", Dtype::U8, vec![images], &parts.test),
        ],
        None,
    )?;
    write_tensors(&folder.join(IMAGES), &[("images", Dtype::U8, vec![images, side, side, 3], &parts.images)], None)?;
    write_voxels(folder, &parts.voxel_ijk, &parts.ncsnr, &parts.noise_ceiling)?;
    write_regions(folder, &parts.regions)
}

/// Writes `voxels.safetensors`: place, ncsnr and noise ceiling (per cent) of every voxel.
///
/// # Errors
/// The lengths do not fit together, or the disk fails.
pub fn write_voxels(folder: &Path, voxel_ijk: &[[i32; 3]], ncsnr: &[f32], noise_ceiling: &[f32]) -> Result<()> {
    let voxels = voxel_ijk.len();
    let voxel_ijk: Vec<u8> = voxel_ijk.iter().flatten().flat_map(|index| index.to_le_bytes()).collect();
    write_tensors(
        &folder.join(VOXELS),
        &[
            ("voxel_ijk", Dtype::I32, vec![voxels, 3], &voxel_ijk),
            ("ncsnr", Dtype::F32, vec![voxels], &bytes(ncsnr)),
            ("noise_ceiling", Dtype::F32, vec![voxels], &bytes(noise_ceiling)),
        ],
        None,
    )
}

/// Writes `regions.json`.
///
/// # Errors
/// The disk fails.
pub fn write_regions(folder: &Path, regions: &Regions) -> Result<()> {
    let path = folder.join(REGIONS);
    let text = serde_json::to_vec(regions).map_err(|source| Error::Json { path: path.clone(), source })?;
    std::fs::write(&path, text).map_err(|source| Error::Write { path, source })
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Dataset, Region};
    use super::*;
    use crate::folder::{Draft, Opened, Provenance};
    use std::collections::BTreeMap;

    fn parts() -> Parts {
        Parts {
            images: (0..3 * 2 * 2 * 3).collect(),
            side: 2,
            betas: vec![0.5, -1.0, 2.0, 0.25, -0.125, 8.0],
            image_ids: vec![7, 9, 72_999],
            repeats: vec![3, 1, 2],
            test: vec![0, 1, 0],
            voxel_ijk: vec![[1, 2, 3], [4, 5, 6]],
            ncsnr: vec![0.5, 0.25],
            noise_ceiling: vec![42.0, 10.0],
            regions: Regions {
                shape: [8, 8, 8],
                split: "shared515".to_owned(),
                split_sha256: "0".repeat(64),
                parcels: vec![18, 7],
                regions: BTreeMap::from([("FFA".to_owned(), Region { rows: vec![1], mask_voxels: 4 })]),
            },
        }
    }

    fn publish(folder: &Path, parts: &Parts) {
        let Opened::Draft(draft) = Draft::open(folder, "a").unwrap() else { panic!("a fresh folder") };
        write(draft.path(), parts).unwrap();
        let provenance = Provenance {
            kind: "prepare".to_owned(),
            subject: "subj01".to_owned(),
            settings: serde_json::json!({}),
            inputs: Vec::new(),
            summary: BTreeMap::new(),
            software: "test".to_owned(),
        };
        draft.publish(provenance).unwrap();
    }

    #[test]
    fn what_was_written_is_read_back() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("subj01");
        let parts = parts();
        publish(&folder, &parts);
        let read = Dataset::open(&folder).unwrap();
        assert_eq!([read.images(), read.voxels(), read.side()], [3, 2, 2]);
        let mut betas = [0.0; 2];
        read.betas(2, &mut betas);
        assert_eq!(betas, [-0.125, 8.0]);
        assert_eq!(*read.image(1), parts.images[12..24]);
        assert_eq!(read.image_ids(), parts.image_ids);
        assert_eq!(read.repeats(), [3, 1, 2]);
        assert_eq!((read.train(), read.test()), (vec![0, 2], vec![1]));
        assert_eq!(read.voxel_ijk(), [[1, 2, 3], [4, 5, 6]]);
        assert_eq!((read.ncsnr(), read.noise_ceiling()), (parts.ncsnr, parts.noise_ceiling));
        assert_eq!(read.regions(), &parts.regions);
    }

    #[test]
    fn parts_that_do_not_fit_together_are_refused() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("subj01");
        let parts = parts();
        publish(&folder, &parts);
        write(&folder, &Parts { voxel_ijk: vec![[0, 0, 0]], ..parts.clone() }).unwrap_err();
        let fewer = Parts { image_ids: vec![1], repeats: vec![1], test: vec![0], images: vec![0; 12], ..parts };
        let fewer = Parts { betas: vec![0.0, 0.0], ..fewer };
        let other = place.path().join("other");
        publish(&other, &fewer);
        std::fs::copy(other.join(IMAGES), folder.join(IMAGES)).unwrap();
        let message = Dataset::open(&folder).unwrap_err().to_string();
        assert!(message.contains("images.safetensors") && message.contains("[1, 2, 2, 3]"), "{message}");
    }
}
