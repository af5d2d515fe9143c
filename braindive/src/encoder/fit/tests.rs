//! Whole fits on the miniature's image tower, whose images have 32 pixels and whose features are 64.

use super::*;
use crate::encoder::evaluate::{EVALUATION, TABLE};
use std::fs;
use std::path::PathBuf;
use subject::dataset::{GRID, Parts, Region, Regions, write};
use subject::volume::{Grid, Volume, write_map};

const BACKBONE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../miniature/bundle/clip");
const IMAGES: usize = 70;
const VOXELS: usize = 5;
const SIDE: usize = 36;
const AFFINE: [[f32; 4]; 3] = [[1.8, 0.0, 0.0, -4.5], [0.0, 1.8, 0.0, 2.0], [0.0, 0.0, 1.8, 7.25]];

/// Images of two kinds, warm and cool; voxels 0 to 2 tell them apart and the others answer nothing but noise.
fn parts() -> Parts {
    let mut state = 1_u32;
    let mut draw = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(state) / 2f64.powi(32)
    };
    let (mut images, mut betas) = (Vec::new(), Vec::new());
    for image in 0..IMAGES {
        let warm = image % 2 == 0;
        for _ in 0..SIDE * SIDE {
            let (high, low) = ((150.0 + 90.0 * draw()) as u8, (60.0 * draw()) as u8);
            images.extend(if warm { [high, low, low] } else { [low, low, high] });
        }
        for voxel in 0..VOXELS {
            let answer = if voxel < 3 { if warm { 1.0 } else { -1.0 } } else { 0.0 };
            betas.push((answer + 0.2 * (draw() - 0.5)) as f32);
        }
    }
    let region = |rows: &[usize]| Region { rows: rows.to_vec(), mask_voxels: rows.len() + 2 };
    Parts {
        images,
        side: SIDE,
        betas,
        image_ids: (0..IMAGES as i64).map(|image| 3 * image).collect(),
        repeats: vec![3; IMAGES],
        test: (0..IMAGES).map(|image| u8::from(image >= 50)).collect(),
        voxel_ijk: (0..VOXELS as i32).map(|voxel| [voxel, 1, 2]).collect(),
        ncsnr: vec![0.5; VOXELS],
        noise_ceiling: vec![80.0; VOXELS],
        regions: Regions {
            shape: [6, 4, 4],
            split: "shared515".to_owned(),
            split_sha256: "0".repeat(64),
            parcels: Vec::new(),
            regions: BTreeMap::from([("warm".to_owned(), region(&[0, 1, 2])), ("rest".to_owned(), region(&[3, 4]))]),
        },
    }
}

struct Place {
    folder: tempfile::TempDir,
    data: PathBuf,
}

impl Place {
    fn new(parts: &Parts) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let Opened::Draft(draft) = Draft::open(&data, "data").unwrap() else { panic!("a fresh folder") };
        write(draft.path(), parts).unwrap();
        let grid = Grid::new([6, 4, 4], AFFINE).unwrap();
        write_map(&draft.path().join(GRID), &grid, &[1.0; 96]).unwrap();
        let provenance = Provenance {
            kind: "prepare".to_owned(),
            subject: "subj01".to_owned(),
            settings: serde_json::json!({}),
            inputs: Vec::new(),
            summary: BTreeMap::new(),
            software: "test".to_owned(),
        };
        draft.publish(provenance).unwrap();
        Self { folder, data }
    }

    fn fit(&self, out: &str, settings: &Settings, report: Report<'_>) -> Result<Manifest> {
        fit(&self.job(&self.folder.path().join(out)), settings, report)
    }

    fn job<'a>(&'a self, out: &'a Path) -> Job<'a> {
        Job { data: &self.data, backbone: Path::new(BACKBONE), out, identity: "identity", device: &Device::Cpu }
    }

    /// Every file of a folder that was made.
    fn files(&self, out: &str) -> BTreeMap<String, Vec<u8>> {
        let entries = fs::read_dir(self.folder.path().join(out)).unwrap().map(Result::unwrap);
        entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
    }
}

fn on(_: u64, _: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn short() -> Settings {
    Settings { epochs: 3, batch: 16, learning_rate: 0.05, ..Settings::default() }
}

#[test]
fn a_fitted_head_predicts_what_was_planted_and_its_folder_says_so() {
    let place = Place::new(&parts());
    let settings = Settings { epochs: 40, copies: 2, features: Features::Cached, ..short() };
    let mut steps = Vec::new();
    let manifest = place
        .fit("encoder", &settings, &mut |done, total| {
            steps.push((done, total));
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(steps.last(), Some(&(50 * 42 + 20, 50 * 42 + 20)));
    assert!(steps.is_sorted());
    let out = place.folder.path().join("encoder");
    let evaluation = Evaluation::read(&out).unwrap();
    let r2 = |region: &str| evaluation.regions[region].r2.as_ref().unwrap().mean;
    assert!(r2("warm") > 0.9 && r2("rest") < 0.2, "{} {}", r2("warm"), r2("rest"));
    assert_eq!(evaluation.repeats, BTreeMap::from([(3, 20)]));
    assert_eq!(manifest.summary["mean_r2"], evaluation.regions[ALL].r2.as_ref().unwrap().mean);
    assert_eq!(manifest.settings["features"], "cached");
    let head = Head::load(&out, DType::F32, &Device::Cpu).unwrap();
    assert_eq!(head.rois()["warm"], [0, 1, 2]);
    assert_eq!(head.voxel_ijk().unwrap()[4], [4, 1, 2]);
    let config: serde_json::Value = serde_json::from_slice(&fs::read(out.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["mask_voxels"]["rest"], 4);
    let files = place.files("encoder");
    assert_eq!(files[METRICS].iter().filter(|&&byte| byte == b'\n').count(), 40);
    assert!(files.contains_key(TABLE) && files.contains_key(EVALUATION) && files.contains_key(GRID));
    assert!(manifest.inputs.iter().any(|input| input.name == "backbone/open_clip_model.safetensors"));
    let r2_map = Volume::read(&out.join("r2.nii.gz")).unwrap();
    let in_map = |voxel| r2_map.get(voxel).unwrap();
    let mean = (0..3).map(|x| in_map([x, 1, 2])).sum::<f64>() / 3.0;
    assert!((mean - r2("warm")).abs() < 1e-6 && in_map([5, 1, 2]).is_nan());
    assert_eq!(r2_map.grid.affine()[2], AFFINE[2].map(f64::from));
    let (picture, _) = subject::image::png::decode(&files[PICTURE]).unwrap();
    assert!(picture.pixels().iter().any(|&value| value > 0));
    // Asked again, it is there.
    assert_eq!(place.fit("encoder", &settings, &mut |_, _| panic!("nothing is left to do")).unwrap(), manifest);
}

#[test]
fn a_fit_that_was_stopped_anywhere_ends_in_the_same_bytes() {
    let place = Place::new(&parts());
    for (name, settings) in
        [("exact", short()), ("cached", Settings { features: Features::Cached, copies: 2, ..short() })]
    {
        place.fit(name, &settings, &mut on).unwrap();
        let resumed = format!("{name} resumed");
        let mut stops = 0;
        // Each try is stopped after its fifth report: inside passes, between epochs, inside the evaluation.
        while let Err(error) = {
            let mut reports = 0;
            place.fit(&resumed, &settings, &mut |_, _| {
                reports += 1;
                if reports == 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
        } {
            assert!(matches!(error, Error::Fit(FitError::Stopped { .. })), "{error}");
            stops += 1;
        }
        assert!(stops >= 2, "{name}: {stops}");
        assert_eq!(place.files(name), place.files(&resumed), "{name}");
    }
}

#[test]
fn as_many_cached_copies_as_epochs_are_exact() {
    let place = Place::new(&parts());
    place.fit("exact", &short(), &mut on).unwrap();
    place.fit("cached", &Settings { features: Features::Cached, copies: 3, ..short() }, &mut on).unwrap();
    assert_eq!(place.files("exact")[HEAD], place.files("cached")[HEAD]);
    place.fit("fewer", &Settings { features: Features::Cached, copies: 1, ..short() }, &mut on).unwrap();
    assert_ne!(place.files("exact")[HEAD], place.files("fewer")[HEAD]);
}

#[test]
fn ridge_finds_the_same_voxels() {
    let place = Place::new(&parts());
    let manifest = place.fit("ridge", &Settings { head: Method::Ridge, ..short() }, &mut on).unwrap();
    let regions = Evaluation::read(&place.folder.path().join("ridge")).unwrap().regions;
    let r2 = |region: &str| regions[region].r2.as_ref().unwrap().mean;
    assert!(r2("warm") > 0.9 && r2("rest") < 0.2, "{} {}", r2("warm"), r2("rest"));
    assert!(manifest.summary["median_lambda"] > 0.0);
}

#[test]
fn an_imported_head_is_evaluated_and_one_of_other_voxels_is_refused() {
    let place = Place::new(&parts());
    place.fit("encoder", &short(), &mut on).unwrap();
    let encoder = place.folder.path().join("encoder");
    let out = place.folder.path().join("imported");
    let manifest = import(&place.job(&out), &encoder.join(HEAD), &mut on).unwrap();
    let evaluations = [&encoder, &out].map(|folder| Evaluation::read(folder).unwrap());
    assert_eq!(evaluations[0], evaluations[1]);
    assert!(manifest.inputs.iter().any(|input| input.name == HEAD));
    let alone = place.folder.path().join("evaluated");
    let manifest = evaluate_head(&place.job(&alone), &encoder, &mut on).unwrap();
    assert_eq!(manifest.kind, "evaluate");
    assert_eq!(Evaluation::read(&alone).unwrap(), evaluations[0]);

    let other = Place::new(&Parts { voxel_ijk: (0..VOXELS as i32).map(|voxel| [voxel, 2, 2]).collect(), ..parts() });
    let out = other.folder.path().join("imported");
    let message = import(&other.job(&out), &encoder, &mut on).unwrap_err().to_string();
    assert!(message.contains("[0, 1, 2]") && message.contains("[0, 2, 2]"), "{message}");
}

#[test]
fn a_head_is_judged_only_on_images_that_it_was_fitted_without() {
    let place = Place::new(&parts());
    place.fit("encoder", &short(), &mut on).unwrap();
    let encoder = place.folder.path().join("encoder");
    let split = |first: usize| {
        let other = Place::new(&Parts { test: (0..IMAGES).map(|image| u8::from(image >= first)).collect(), ..parts() });
        let out = other.folder.path().join("evaluated");
        let made = evaluate_head(&other.job(&out), &encoder, &mut on).map(|_| Evaluation::read(&out).unwrap().images);
        assert_eq!(made.is_ok(), out.exists());
        made.map_err(|error| error.to_string())
    };
    assert_eq!(split(60), Ok(10), "a part of its held-out images");
    let message = split(48).unwrap_err();
    for told in ["of the 22 held-out images", " 2 are not among", "head.safetensors", "for example 144"] {
        assert!(message.contains(told), "{told} is not in: {message}");
    }

    // What was imported goes on saying so, and nothing is said of a head that didn't.
    let imported = |head: &Path, name: &str| {
        let out = place.folder.path().join(name);
        import(&place.job(&out), head, &mut on).unwrap();
        Head::load(&out, DType::F32, &Device::Cpu).unwrap().held_out().map(<[i64]>::len)
    };
    assert_eq!(imported(&encoder, "known"), Some(20));
    let head = Head::load(&encoder, DType::F32, &Device::Cpu).unwrap();
    let silent = std::collections::HashMap::from([("weight", head.weight().clone()), ("bias", head.bias().clone())]);
    let path = place.folder.path().join("silent.safetensors");
    candle_core::safetensors::save(&silent, &path).unwrap();
    assert_eq!(imported(&path, "silent"), None);
}

#[test]
fn data_that_cannot_be_fitted_to_are_refused_by_name() {
    let mut broken = parts();
    broken.betas[7 * VOXELS + 3] = f32::NAN;
    let place = Place::new(&broken);
    let message = place.fit("encoder", &short(), &mut on).unwrap_err().to_string();
    assert!(message.contains("NaN for voxel 3 and image 21"), "{message}");

    let message = Place::new(&Parts { test: vec![0; IMAGES], ..parts() })
        .fit("encoder", &short(), &mut on)
        .unwrap_err()
        .to_string();
    assert!(message.contains("70 images to fit to and 0 held-out"), "{message}");

    let place = Place::new(&parts());
    let path = place.data.join(subject::dataset::IMAGES);
    let mut images = fs::read(&path).unwrap();
    *images.last_mut().unwrap() ^= 1;
    fs::write(&path, images).unwrap();
    let message = place.fit("encoder", &short(), &mut on).unwrap_err().to_string();
    assert!(message.contains("images.safetensors has changed"), "{message}");
}

#[test]
fn features_of_another_backbone_are_not_gone_on_with() {
    let place = Place::new(&parts());
    let mut reports = 0;
    let stop = &mut |_, _| {
        reports += 1;
        if reports == 4 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    place.fit("encoder", &short(), stop).unwrap_err();
    let left = place.folder.path().join("encoder.partial/.features-1");
    let mut features = fs::read(&left).unwrap();
    features[..4].copy_from_slice(&0.9_f32.to_le_bytes());
    fs::write(&left, features).unwrap();
    let message = place.fit("encoder", &short(), &mut on).unwrap_err().to_string();
    assert!(message.contains(".features-1") && message.contains("another backbone"), "{message}");
}

#[test]
fn a_learning_rate_that_is_too_large_ends_in_an_error() {
    let place = Place::new(&parts());
    let error = place.fit("encoder", &Settings { learning_rate: 1e30, ..short() }, &mut on).unwrap_err();
    assert!(matches!(error, Error::Fit(FitError::Diverged { .. })), "{error}");
}
