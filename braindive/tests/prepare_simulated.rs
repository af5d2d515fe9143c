//! A simulated subject is prepared, and what was planted in it is found.
#![allow(clippy::unwrap_used)]

use braindive::encoder::features;
use braindive::models::vit::VisionTransformer;
use braindive::{DType, Device, Error};
use checkpoint::Checkpoint;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;
use subject::dataset::Dataset;
use subject::image::RgbImage8;
use subject::nsd::prepare::{Settings, run};
use subject::nsd::{Subject, simulate};

/// Writes simulated subjects whose voxels answer to the miniature's image tower.
fn simulate(settings: &simulate::Settings, root: &Path) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../miniature/bundle/clip");
    let tower = VisionTransformer::load(folder, DType::F32, &Device::Cpu).unwrap();
    let encode = |images: &[&RgbImage8]| Ok::<_, Error>(features(&tower, images, &Device::Cpu)?);
    simulate::write(settings, root, encode).unwrap();
}

#[test]
fn what_was_planted_is_found() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("nsd");
    // A subject who left early, so that some images have fewer than three repeats.
    let simulated = simulate::Settings { subjects: vec![3], ..simulate::Settings::small() };
    simulate(&simulated, &root);

    let food = root.join("food/food_s3.nii.gz");
    let settings = Settings { root: root.clone(), food: Some(food), image_size: 24, ..Settings::default() };
    let out = place.path().join("subj03");
    let mut progress = |_, _| ControlFlow::Continue(());
    let manifest = run(Subject::new(3).unwrap(), &settings, &out, "identity", "test", &mut progress).unwrap();
    assert!(manifest.verify(&out).is_ok());

    let data = Dataset::open(&out).unwrap();
    let truth = Checkpoint::open(&root.join("truth/subj03.safetensors")).unwrap();
    let places = truth.integers(&truth.tensors()["voxel_ijk"]).unwrap();
    let planted: HashMap<&[i64], f32> = places.chunks_exact(3).zip(floats(&truth, "ncsnr")).collect();
    for (voxel, ncsnr) in data.voxel_ijk().iter().zip(data.ncsnr()) {
        let planted = planted[&voxel[..]];
        assert!(ncsnr == planted || ncsnr.is_nan() && planted.is_nan(), "{voxel:?}: {ncsnr}, {planted}");
    }
    for name in ["OFA", "FFA-1", "FFA-2", "FFA", "faces", "OPA", "PPA", "RSC", "EBA", "VWFA-1", "food"] {
        let region = &data.regions().regions[name];
        assert!(region.rows.len() > 3 && region.rows.len() <= region.mask_voxels, "{name}: {region:?}");
    }
    let ffa: usize = ["FFA-1", "FFA-2"].map(|name| data.regions().regions[name].rows.len()).iter().sum();
    assert_eq!(data.regions().regions["FFA"].rows.len(), ffa);
    assert!(!data.test().is_empty() && data.train().len() > data.test().len());

    // A z-scored beta has variance 1, of which ncsnr²/(ncsnr² + 1) is signal; a mean of n has all of the signal and 1/n of the noise. Trials
    // that were joined to other images would leave 1/n of all.
    let repeats = data.repeats();
    for count in [2, 3] {
        let images: Vec<usize> = (0..data.images()).filter(|&image| repeats[image] == count).collect();
        assert!(images.len() > 50, "{} images were seen {count} times", images.len());
        let (mut sums, mut squares) = (vec![0.0; data.voxels()], vec![0.0; data.voxels()]);
        let mut betas = vec![0.0; data.voxels()];
        for &image in &images {
            data.betas(image, &mut betas);
            for (voxel, &beta) in betas.iter().enumerate() {
                sums[voxel] += f64::from(beta);
                squares[voxel] += f64::from(beta).powi(2);
            }
        }
        let (all, mut far, mut voxels) = (images.len() as f64, 0.0, 0.0);
        for (voxel, ncsnr) in data.ncsnr().into_iter().enumerate().filter(|(_, ncsnr)| !ncsnr.is_nan()) {
            let signal = f64::from(ncsnr * ncsnr / (ncsnr * ncsnr + 1.0));
            let found = squares[voxel] / all - (sums[voxel] / all).powi(2);
            far += found - (signal + (1.0 - signal) / count as f64);
            voxels += 1.0;
        }
        assert!((far / voxels).abs() < 0.03, "variance of means of {count} is {} off", far / voxels);
    }
}

fn floats(file: &Checkpoint, key: &str) -> Vec<f32> {
    let bytes = file.bytes(&file.tensors()[key]);
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

#[test]
fn missing_sessions_are_told_by_number() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("nsd");
    let simulated = simulate::Settings { missing: vec![2], ..simulate::Settings::small() };
    simulate(&simulated, &root);
    let settings = Settings { root, ..Settings::default() };
    let mut progress = |_, _| ControlFlow::Continue(());
    let out: &Path = &place.path().join("out");
    let error = run(Subject::new(1).unwrap(), &settings, out, "identity", "test", &mut progress).unwrap_err();
    assert!(error.to_string().contains("missing: 2"), "{error}");
}
