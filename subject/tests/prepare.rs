//! `prepare` on a made-up subject that h5py, nibabel and scipy wrote (tests/reference/nsd/make.py), against the paper's authors' steps in
//! NumPy.
#![allow(clippy::unwrap_used)]

use checkpoint::Checkpoint;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use subject::dataset::Dataset;
use subject::folder::Manifest;
use subject::nsd::prepare::{Plan, Settings, run};
use subject::nsd::{NsdError, Subject};
use subject::volume::{Volume, write_map};

const BETAS: &str = "nsddata_betas/ppdata/subj02/func1pt8mm/betas_fithrf_GLMdenoise_RR";
const FUNCTIONAL: &str = "nsddata/ppdata/subj02/func1pt8mm";

fn reference() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/reference/nsd"))
}

fn settings(root: &Path) -> Settings {
    Settings { root: root.to_owned(), parcels: 3, image_size: 16, ..Settings::default() }
}

fn subject() -> Subject {
    Subject::new(2).unwrap()
}

fn prepare(settings: &Settings, out: &Path) -> Result<Manifest, NsdError> {
    run(subject(), settings, out, "identity", "test", &mut |_, _| ControlFlow::Continue(()))
}

/// A copy of the subject to spoil.
fn copy(root: &Path, from: &Path) {
    fs::create_dir_all(root).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = root.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&to, &entry.path())
        } else {
            fs::copy(entry.path(), to).map(drop).unwrap()
        }
    }
}

#[test]
fn a_prepared_subject_equals_the_authors_steps() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("subj02");
    let manifest = prepare(&settings(&reference().join("root")), &out).unwrap();
    let data = Dataset::open(&out).unwrap();
    let expected = Checkpoint::open(&reference().join("expected.safetensors")).unwrap();
    let integers = |key: &str| expected.integers(&expected.tensors()[key]).unwrap();
    assert_eq!(data.image_ids(), integers("image_id"));
    assert_eq!(data.repeats(), integers("repeats"));
    assert_eq!(data.voxel_ijk().as_flattened(), integers("voxel_ijk"));
    assert_eq!(data.regions().parcels.iter().map(|&parcel| i64::from(parcel)).collect::<Vec<_>>(), integers("parcels"));
    let bytes = expected.bytes(&expected.tensors()["betas"]);
    let betas: Vec<f32> = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let mut own = vec![0.0; data.voxels()];
    for (image, betas) in betas.chunks_exact(data.voxels()).enumerate() {
        data.betas(image, &mut own);
        let far = own.iter().zip(betas).find(|(own, beta)| (*own - *beta).abs() > 1e-5);
        assert_eq!(far, None, "image {image}");
    }
    let pixels = expected.bytes(&expected.tensors()["images"]);
    for (image, pixels) in pixels.chunks_exact(3 * 16 * 16).enumerate() {
        assert_eq!(*data.image(image), *pixels, "image {image}");
    }

    // The voxel without signal is in the set and always 0.
    let silent = data.voxel_ijk().iter().position(|voxel| *voxel == [3, 2, 2]).unwrap();
    assert_eq!(own[silent], 0.0);
    let region = |name: &str| {
        let region = &data.regions().regions[name];
        let voxels: Vec<_> = region.rows.iter().map(|&row| data.voxel_ijk()[row]).collect();
        (voxels, region.mask_voxels)
    };
    assert_eq!(region("OFA"), (vec![[1, 1, 0]], 1), "t = 2 is not above 2");
    assert_eq!(region("FFA-1"), (vec![[1, 1, 2]], 2), "an early visual voxel counts in the mask but is not in the set");
    assert_eq!(region("FFA"), (vec![[1, 1, 2], [2, 0, 0], [3, 2, 2]], 4));
    assert_eq!(region("faces").1, 5);
    assert_eq!(region("mTL-faces"), (vec![], 0));
    assert_eq!(region("VWFA-1"), (vec![[1, 1, 2]], 1));
    assert!(!data.regions().regions.contains_key("V1v"));

    assert_eq!(data.regions().split, "shared907");
    assert_eq!(
        data.test().iter().map(|&image| data.image_ids()[image]).collect::<Vec<_>>(),
        (0..7).collect::<Vec<_>>()
    );
    assert_eq!(data.regions().shape, [4, 3, 3]);
    assert_eq!(manifest.summary["images"], data.images() as f64);
    let names: Vec<&str> = manifest.inputs.iter().map(|input| input.name.as_str()).collect();
    let betas = format!("{BETAS}/betas_session01.hdf5");
    assert!(
        names.contains(&betas.as_str()) && names.contains(&"nsddata/experiments/nsd/nsd_expdesign.mat"),
        "{names:?}"
    );
    assert!(names.iter().any(|name| name.ends_with("floc_characterstval.nii.gz")), "{names:?}");
}

#[test]
fn betas_as_nifti_and_as_hdf5_give_the_same_data() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("root");
    copy(&root, &reference().join("root"));
    let whole = prepare(&settings(&root), &place.path().join("hdf5")).unwrap();
    for session in [1, 2] {
        fs::remove_file(root.join(BETAS).join(format!("betas_session{session:02}.hdf5"))).unwrap();
    }
    let nifti = prepare(&settings(&root), &place.path().join("nifti")).unwrap();
    assert_eq!(whole.files, nifti.files);
    // The digest that was taken while reading is that of the file.
    let name = format!("{BETAS}/betas_session02.nii.gz");
    let record = subject::folder::FileRecord::of(&root.join(&name), &name).unwrap();
    assert!(nifti.inputs.contains(&record));
}

#[test]
fn two_forms_of_a_session_that_differ_are_told() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("root");
    copy(&root, &reference().join("root"));
    let file = |session: u8| root.join(BETAS).join(format!("betas_session{session:02}.nii.gz"));
    fs::copy(file(2), file(1)).unwrap();
    let message = prepare(&settings(&root), &place.path().join("out")).unwrap_err().to_string();
    assert!(message.contains("betas_session01.nii.gz") && message.contains("betas_session01.hdf5"), "{message}");
}

#[test]
fn a_stopped_prepare_goes_on_behind_the_last_session_and_gives_the_same() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("root");
    copy(&root, &reference().join("root"));
    let whole = prepare(&settings(&root), &place.path().join("whole")).unwrap();

    let out = place.path().join("out");
    let stop = stopped_behind_the_first(&settings(&root), &out);
    assert!(matches!(stop, Err(NsdError::Stopped)), "{stop:?}");
    assert!(!out.exists());
    let picked = place.path().join("out.partial/.session01");
    let before = fs::metadata(&picked).unwrap().modified().unwrap();
    let (mut last, mut whole_work) = (0, 0);
    let keep = place.path().join("kept");
    let resumed = run(subject(), &settings(&root), &out, "identity", "test", &mut |done, total| {
        assert!(done >= last && done <= total);
        (last, whole_work) = (done, total);
        if !keep.exists() {
            fs::hard_link(&picked, &keep).unwrap();
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(last, whole_work);
    assert_eq!(fs::metadata(&keep).unwrap().modified().unwrap(), before, "session 1 was picked again");
    assert_eq!((resumed.files, resumed.inputs), (whole.files, whole.inputs));

    // A session that has changed since is picked again.
    let other = place.path().join("other");
    let session = root.join(BETAS).join("betas_session01.hdf5");
    let stop = stopped_behind_the_first(&settings(&root), &other);
    assert!(matches!(stop, Err(NsdError::Stopped)), "{stop:?}");
    fs::remove_file(root.join(BETAS).join("betas_session01.nii.gz")).unwrap();
    fs::copy(root.join(BETAS).join("betas_session02.hdf5"), &session).unwrap();
    assert_ne!(prepare(&settings(&root), &other).unwrap().files, whole_files(&out));
}

/// Prepares until the first session's voxels are kept.
fn stopped_behind_the_first(settings: &Settings, out: &Path) -> Result<Manifest, NsdError> {
    let kept = out.with_extension("partial").join(".session01.json");
    run(subject(), settings, out, "identity", "test", &mut |_, _| match kept.exists() {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    })
}

fn whole_files(folder: &Path) -> Vec<subject::folder::FileRecord> {
    Manifest::read(folder).unwrap().files
}

#[test]
fn everything_that_is_missing_or_wrong_is_told_at_once_before_the_betas_are_read() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("root");
    copy(&root, &reference().join("root"));
    for missing in ["roi/floc-bodies.nii.gz", "floc_facestval.nii.gz"] {
        fs::remove_file(root.join(FUNCTIONAL).join(missing)).unwrap();
    }
    fs::remove_file(root.join("nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5")).unwrap();
    let session = root.join(BETAS).join("betas_session02.hdf5");
    let bytes = fs::read(&session).unwrap();
    fs::write(&session, &bytes[..bytes.len() / 2]).unwrap();
    let settings = Settings { sessions: Some(3), split: "shared903".to_owned(), ..settings(&root) };
    let error = Plan::new(subject(), &settings).unwrap_err();
    let message = error.to_string();
    for told in [
        "floc-bodies.nii.gz is missing",
        "floc_facestval.nii.gz is missing",
        "nsd_stimuli.hdf5 is missing",
        "betas_session02.hdf5",
        "missing: 3",
        "at least 3",
        "shared903",
    ] {
        assert!(message.contains(told), "{told} is not in: {message}");
    }
    let NsdError::Unready(problems) = error else { panic!("{message}") };
    assert_eq!(problems.len(), 7, "{message}");
    let out = place.path().join("out");
    assert!(prepare(&settings, &out).is_err());
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1, "nothing was begun");
}

#[test]
fn an_empty_member_region_or_split_and_another_shape_are_told() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("root");
    copy(&root, &reference().join("root"));
    let told = |settings: &Settings| Plan::new(subject(), settings).unwrap_err().to_string();
    let whole = settings(&root);

    let message = told(&Settings { t_above: 5.0, ..whole.clone() });
    assert!(message.contains("floc-faces") && message.contains("t > 5"), "{message}");
    let message = told(&Settings { parcel_ids: vec![100], ..whole.clone() });
    assert!(message.contains("`parcels`, which is empty"), "{message}");
    let ids = root.join("ids.txt");
    fs::write(&ids, "59\n").unwrap();
    let message = told(&Settings { split: ids.display().to_string(), ..whole.clone() });
    assert!(message.contains("0 of the 40 images") || message.contains("0 of the 39 images"), "{message}");
    fs::write(&ids, "1\n73000\n").unwrap();
    let message = told(&Settings { split: ids.display().to_string(), ..whole.clone() });
    assert!(message.contains("line 2") && message.contains("73000"), "{message}");
    let message = told(&Settings { voxels: vec!["food".to_owned()], ..whole.clone() });
    assert!(message.contains("food is not given"), "{message}");

    let stimuli = root.join("nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5");
    let pixels = fs::read(&stimuli).unwrap();
    fs::write(&stimuli, &pixels[..pixels.len() - 1]).unwrap();
    let message = told(&whole);
    assert!(message.contains("nsd_stimuli.hdf5") && message.contains("truncated"), "{message}");
    fs::write(&stimuli, &pixels).unwrap();
    let message = told(&Settings { sessions: Some(1), ..whole.clone() });
    assert!(message.contains("too many: 2") && message.contains("say `sessions`"), "{message}");

    // A mask of the surface's shape in place of the volume's.
    fs::copy(reference().join("forms/other_shape.nii.gz"), root.join(FUNCTIONAL).join("roi/floc-places.nii.gz"))
        .unwrap();
    let message = told(&whole);
    assert!(message.contains("floc-places.nii.gz: its shape is [4, 3, 2], expected [4, 3, 3]"), "{message}");
}

#[test]
fn images_can_be_cropped_from_cocos_photographs() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("root");
    copy(&root, &reference().join("root"));
    let mut table = ",cocoId,cocoSplit,cropBox,loss,nsdId,flagged,BOLD5000,shared1000\n".to_owned();
    for id in 0..60 {
        table += &format!("{id},{},val2017,\"(0.1, 0.2, 0, 0.5)\",0,{id},False,False,False\n", 1000 + id);
    }
    fs::write(root.join("nsddata/experiments/nsd/nsd_stim_info_merged.csv"), table).unwrap();
    let coco = place.path().join("coco");
    fs::create_dir_all(coco.join("val2017")).unwrap();
    let settings = Settings { stimuli: Some(coco.clone()), image_size: 8, ..settings(&root) };
    let message = Plan::new(subject(), &settings).unwrap_err().to_string();
    assert!(message.contains("val2017/000000001000.jpg is missing"), "{message}");
    for id in 0..60 {
        let photograph = reference().join("forms/photograph.jpg");
        fs::copy(photograph, coco.join("val2017").join(format!("{:012}.jpg", 1000 + id))).unwrap();
    }
    let out = place.path().join("out");
    prepare(&settings, &out).unwrap();
    let data = Dataset::open(&out).unwrap();
    // Row r of the photograph is grey 12·r. Rows 2 to 15 of 20 are left, and row 3 of 8 lies around 2 + 3.5 · 14/8 − 0.5 = 7.6.
    let image = data.image(0);
    let rows: Vec<u8> = image.chunks_exact(3 * 8).map(|row| row[12]).collect();
    assert!(rows.is_sorted() && rows[0] >= 18 && rows[7] <= 180 && (87..=97).contains(&rows[3]), "{rows:?}");
}

#[test]
fn cortex_is_where_any_label_volume_is_at_least_minus_a_half() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("root");
    copy(&root, &reference().join("root"));
    // -1 where i = 0 and labels or 0 elsewhere, in all volumes; three more voxels in one of them.
    let path = root.join(FUNCTIONAL).join("roi/floc-words.nii.gz");
    let Volume { grid, values } = Volume::read(&path).unwrap();
    let mut values: Vec<f32> = values.iter().map(|&value| value as f32).collect();
    for (voxel, value) in [([0, 1, 1], -0.5), ([0, 1, 2], -0.75), ([0, 2, 2], 0.0)] {
        values[grid.position(voxel).unwrap()] = value;
    }
    write_map(&path, &grid, &values).unwrap();
    let food = root.join("food.nii.gz");
    write_map(&food, &grid, &vec![1.0; grid.voxels()]).unwrap();

    let set = |voxels: &str, exclude: &[&str], food: Option<PathBuf>| {
        let exclude: Vec<String> = exclude.iter().map(|&name| name.to_owned()).collect();
        let out = place.path().join(format!("{voxels} {exclude:?}"));
        prepare(&Settings { voxels: vec![voxels.to_owned()], exclude, food, ..settings(&root) }, &out).unwrap();
        Dataset::open(&out).unwrap().voxel_ijk()
    };
    let mut cortex = vec![[0, 1, 1], [0, 2, 2]];
    cortex.extend((0..27).map(|voxel| [1 + voxel / 9, voxel / 3 % 3, voxel % 3]));
    assert_eq!(set("cortex", &[], None), cortex);
    assert_eq!(set("food", &[], Some(food)), cortex, "a mask of food is cut to cortex");
    cortex.retain(|voxel| ![[1, 0, 0], [1, 0, 1]].contains(voxel));
    assert_eq!(set("cortex", &["prf-visualrois"], None), cortex, "early visual voxels are left out");
}
