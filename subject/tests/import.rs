//! Files of other systems, written by NumPy, Python's pickle and h5py (`fixtures/import/make.py`), as volumes and prepared subjects.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use subject::dataset::Dataset;
use subject::folder::FileRecord;
use subject::nsd::import::dataset::{RegionFiles, Settings, import};
use subject::nsd::import::mask::{Mask, Source, parcels};
use subject::volume::{Grid, Volume, write_labels};
use tempfile::TempDir;

const SHAPE: [usize; 3] = [3, 4, 5];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/import").join(name)
}

/// The subject's volumes: −1 where i = 0, 0 elsewhere.
struct Subject {
    folder: TempDir,
}

impl Subject {
    fn new() -> Self {
        let subject = Self { folder: tempfile::tempdir().unwrap() };
        let identity = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]];
        let labels: Vec<i16> = (0..60).map(|voxel| if voxel < 20 { -1 } else { 0 }).collect();
        write_labels(&subject.roi(), &Grid::new(SHAPE, identity).unwrap(), &labels).unwrap();
        subject
    }

    fn roi(&self) -> PathBuf {
        self.folder.path().join("nsdgeneral.nii.gz")
    }

    fn source(&self, file: &str, item: Option<usize>, is_cortex: bool) -> Source {
        let within = if is_cortex { vec![self.roi()] } else { Vec::new() };
        Source { file: fixture(file), item, like: self.roi(), within, above: -0.5 }
    }

    fn refusal(&self, file: &str, item: Option<usize>, is_cortex: bool) -> String {
        let message = Mask::read(&self.source(file, item, is_cortex)).unwrap_err().to_string();
        assert!(message.contains(file), "{message}");
        message
    }
}

#[test]
fn every_form_of_a_mask_gives_the_same_volume() {
    let subject = Subject::new();
    // i = 2 and j < 2.
    let food: Vec<bool> = (0..60).map(|voxel| (40..50).contains(&voxel)).collect();
    for (file, item, is_cortex) in [
        ("food_3d.npy", None, false),
        ("food_3d.npy", None, true),
        ("food_3d_fortran.npy", None, false),
        ("food_flat.npy", None, false),
        ("food_of_cortex.npy", None, true),
        ("food.mgz", None, false),
        ("food_indices.npy", None, true),
        ("food_indices_big_endian.npy", None, true),
        ("volume_to_functional_2.pkl", Some(1), false),
        ("volume_to_functional_4.pkl", Some(1), false),
        ("volume_to_functional_5.pkl", Some(1), false),
        ("volume_to_functional_5.pkl", Some(2), false),
    ] {
        let mask = Mask::read(&subject.source(file, item, is_cortex)).unwrap();
        assert_eq!(mask.selected, food, "{file} {item:?}");
    }
    let out = subject.folder.path().join("food.nii.gz");
    Mask::read(&subject.source("food_3d.npy", None, false)).unwrap().write(&out, "test").unwrap();
    let written = Volume::read(&out).unwrap();
    assert!(written.values.iter().zip(&food).all(|(&value, &food)| value == f64::from(u8::from(food))));
    let described: serde_json::Value =
        serde_json::from_slice(&std::fs::read(out.with_file_name("food.json")).unwrap()).unwrap();
    assert_eq!((&described["voxels"], &described["software"]), (&10.into(), &"test".into()));
    let record = FileRecord::of(&fixture("food_3d.npy"), "food_3d.npy").unwrap();
    assert_eq!(described["inputs"][0], serde_json::json!(record), "by its content");
    assert_eq!(described["inputs"][1]["name"], "nsdgeneral.nii.gz");
}

#[test]
fn a_mask_that_does_not_fit_says_what_was_found_and_expected() {
    let subject = Subject::new();
    let message = subject.refusal("food_of_cortex.npy", None, false);
    assert!(message.contains("booleans of shape [40]") && message.contains("60 elements"), "{message}");
    let message = subject.refusal("volume_to_functional_4.pkl", None, false);
    assert!(message.contains("3 arrays"), "{message}");
    let message = subject.refusal("volume_to_functional_4.pkl", Some(3), false);
    assert!(message.contains("number 3 asked for"), "{message}");
    assert!(subject.refusal("objects.npy", None, false).contains("never loaded"));
    let message = subject.refusal("best_HCP.npy", None, true);
    assert!(message.contains("the index 180, expected 0 to 39"), "{message}");
}

#[test]
fn a_pickle_that_would_run_code_is_refused_by_the_name_of_what_it_would_call() {
    let message = Subject::new().refusal("harm.pkl", Some(0), false);
    assert!(message.contains("`builtins.print`"), "{message}");
}

#[test]
fn the_list_of_parcels_is_read_and_checked() {
    assert_eq!(parcels(&fixture("best_HCP.npy")).unwrap(), [18, 22, 7, 180, 1]);
    let message = parcels(&fixture("food_flat.npy")).unwrap_err().to_string();
    assert!(message.contains("food_flat.npy") && message.contains("1 to 180"), "{message}");
}

#[test]
fn files_under_coco_ids_become_a_prepared_subject() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("subj01");
    let food = RegionFiles { masks: vec![fixture("food_3d.npy")], ..RegionFiles::default() };
    let settings = Settings {
        subject: "subj01".to_owned(),
        images: fixture("images.hdf5"),
        betas: vec![fixture("cortex_subj_1.npy")],
        regions: [("food".to_owned(), food)].into(),
        test: Some(fixture("all_keys.pkl")),
        image_size: 4,
        ..Settings::default()
    };
    let manifest = import(&settings, &out).unwrap();
    let read = Dataset::open(&out).unwrap();
    assert_eq!((read.images(), read.voxels(), read.side()), (4, 40, 4));
    assert_eq!((read.image_ids(), read.test()), (vec![7, 9, 12, 30], vec![2, 3]));
    let mut betas = [0.0; 40];
    read.betas(2, &mut betas);
    assert_eq!((betas[0], betas[39]), (12.0, 12.0 + 39.0 / 8.0));
    assert!(read.image(3).iter().all(|&value| value == 30));
    assert_eq!((read.voxel_ijk()[0], read.regions().shape), ([1, 0, 0], SHAPE));
    let food = &read.regions().regions["food"];
    assert_eq!((food.rows.as_slice(), food.mask_voxels), (&(20..30).collect::<Vec<_>>()[..], 10));
    assert_eq!(read.regions().split, "all_keys");
    assert_eq!(import(&settings, &out).unwrap(), manifest, "made once");
}

#[test]
fn of_the_authors_cortex_the_voxels_of_a_list_without_early_ones_are_taken_over() {
    let subject = Subject::new();
    // Two voxels of i = 2, j = 0, where the list has j < 2.
    let early = subject.folder.path().join("prf-visualrois.nii.gz");
    let labels: Vec<i16> = (0..60).map(|voxel| i16::from((40..42).contains(&voxel))).collect();
    write_labels(&early, &Grid::read(&subject.roi()).unwrap(), &labels).unwrap();
    let masks = |path: PathBuf, item| RegionFiles { masks: vec![path], item, ..RegionFiles::default() };
    let functional = masks(fixture("volume_to_functional_5.pkl"), Some(1));
    let settings = Settings {
        images: fixture("images.hdf5"),
        betas: vec![fixture("cortex_subj_1.npy")],
        voxels: vec![functional.clone()],
        without: vec![masks(early.clone(), None)],
        regions: [("food".to_owned(), masks(fixture("food_3d.npy"), None))].into(),
        like: Some(subject.roi()),
        image_size: 4,
        ..Settings::default()
    };
    let out = subject.folder.path().join("subject");
    let manifest = import(&settings, &out).unwrap();
    let read = Dataset::open(&out).unwrap();
    assert_eq!((read.images(), read.voxels()), (4, 8));
    let mut betas = [0.0; 8];
    read.betas(2, &mut betas);
    // Of cortex, which begins at i = 1, these are voxels 22 to 29.
    assert_eq!((betas[0], betas[7]), (12.0 + 22.0 / 8.0, 12.0 + 29.0 / 8.0));
    assert_eq!((read.voxel_ijk()[0], read.voxel_ijk()[7]), ([2, 0, 2], [2, 1, 4]));
    let food = &read.regions().regions["food"];
    assert_eq!((food.rows.as_slice(), food.mask_voxels), (&(0..8).collect::<Vec<_>>()[..], 10));
    assert!(manifest.inputs.iter().any(|input| input.name == "volume_to_functional_5.pkl"));

    let refusal = |settings: &Settings| import(settings, &subject.folder.path().join("out")).unwrap_err().to_string();
    let nothing = Settings { without: vec![functional], ..settings.clone() };
    assert!(refusal(&nothing).contains("voxels is an empty set"), "{}", refusal(&nothing));
    let unsaid = Settings { voxels: vec![masks(fixture("volume_to_functional_5.pkl"), None)], ..settings };
    let message = refusal(&unsaid);
    assert!(message.contains("volume_to_functional_5.pkl") && message.contains("3 arrays"), "{message}");
}

#[test]
fn a_folder_of_the_algonauts_project_becomes_a_prepared_subject() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("subj01");
    let settings = Settings { image_size: 4, ..Settings::algonauts(&fixture("algonauts"), "subj01").unwrap() };
    import(&settings, &out).unwrap();
    let read = Dataset::open(&out).unwrap();
    assert_eq!((read.images(), read.voxels(), read.test()), (10, 10, vec![0]));
    let mut betas = [0.0; 10];
    read.betas(1, &mut betas);
    assert_eq!(betas, [6.0, 7.0, 8.0, 9.0, 10.0, 11.0, -6.0, -7.0, -8.0, -9.0]);
    assert!(read.image(9).iter().all(|&value| value == 180));
    let regions = &read.regions().regions;
    assert_eq!(regions.keys().collect::<Vec<_>>(), ["FFA-1", "OFA"], "what the subject lacks is left out");
    assert_eq!((regions["OFA"].rows.as_slice(), regions["FFA-1"].rows.as_slice()), (&[1, 2, 9][..], &[3, 6][..]));
    assert!(read.noise_ceiling().iter().all(|ceiling| ceiling.is_nan()), "unknown without ncsnr");
}

#[test]
fn regions_are_labels_of_freesurfers_surfaces_by_the_names_of_their_colour_table() {
    let place = tempfile::tempdir().unwrap();
    let region = |names: &[&str]| RegionFiles {
        masks: ["lh.floc-faces.mgz", "rh.floc-faces.mgz"].map(fixture).to_vec(),
        names: names.iter().map(|&name| name.to_owned()).collect(),
        ..RegionFiles::default()
    };
    let settings = |names: &[&str]| {
        let challenge = Settings::algonauts(&fixture("algonauts"), "subj01").unwrap();
        Settings { regions: [("region".to_owned(), region(names))].into(), image_size: 4, ..challenge }
    };
    let rows = |names: &[&str]| {
        let out = place.path().join(names.join("+"));
        let manifest = import(&settings(names), &out).unwrap();
        assert!(manifest.inputs.iter().any(|input| input.name == "floc-faces.mgz.ctab"), "it decides what is in it");
        Dataset::open(&out).unwrap().regions().regions["region"].rows.clone()
    };
    assert_eq!((rows(&["OFA"]), rows(&["FFA-1"])), (vec![1, 2, 9], vec![3, 6]), "as in the challenge's masks");
    assert_eq!(rows(&["FFA-1", "OFA"]), [1, 2, 3, 6, 9]);
    let message = import(&settings(&["FFA"]), &place.path().join("out")).unwrap_err().to_string();
    for told in ["lh.floc-faces.mgz", "called FFA,", "OFA, FFA-1, FFA-2", "floc-faces.mgz.ctab"] {
        assert!(message.contains(told), "{told} is not in: {message}");
    }
    let volume = RegionFiles { masks: vec![fixture("food.mgz")], labels: vec![1], ..RegionFiles::default() };
    let volume = Settings { regions: [("food".to_owned(), volume)].into(), ..settings(&[]) };
    let message = import(&volume, &place.path().join("out")).unwrap_err().to_string();
    assert!(message.contains("food.mgz holds masks of 60 voxels, expected 10"), "{message}");
}

#[test]
fn files_that_do_not_fit_together_are_refused_by_name() {
    let place = tempfile::tempdir().unwrap();
    let refusal = |settings: &Settings| {
        let message = import(settings, &place.path().join("out")).unwrap_err().to_string();
        assert!(!place.path().join("out").exists());
        message
    };
    let good = Settings { image_size: 4, ..Settings::algonauts(&fixture("algonauts"), "subj01").unwrap() };
    let one_side = Settings { betas: good.betas[..1].to_vec(), ..good.clone() };
    let message = refusal(&one_side);
    assert!(message.contains("rh.floc-faces") && message.contains("masks of 10 voxels, expected 6"), "{message}");
    let message = refusal(&Settings { betas: vec![fixture("food_3d.npy")], regions: [].into(), ..good.clone() });
    assert!(message.contains("food_3d.npy") && message.contains("[images, voxels]"), "{message}");
    let message = refusal(&Settings { test: Some(fixture("all_keys.pkl")), ..good.clone() });
    assert!(message.contains("all_keys.pkl") && message.contains("the id 30"), "{message}");
    let cut = place.path().join("cut.npy");
    let whole = std::fs::read(&good.betas[0]).unwrap();
    std::fs::write(&cut, &whole[..whole.len() - 3]).unwrap();
    let message = refusal(&Settings { betas: vec![cut], ..good.clone() });
    assert!(message.contains("cut.npy") && message.contains("truncated"), "{message}");
    let cut = place.path().join("cortex.hdf5");
    let whole = std::fs::read(fixture("cortex_subj_1.npy")).unwrap();
    std::fs::write(&cut, &whole[..whole.len() - 1]).unwrap();
    let message = refusal(&Settings { betas: vec![cut], regions: [].into(), ..good.clone() });
    assert!(message.contains("cortex.hdf5") && message.contains("truncated"), "{message}");
    let message = refusal(&Settings { images: fixture("images.hdf5"), ..good });
    assert!(message.contains("images.hdf5") && message.contains("0 images"), "{message}");
}
