//! `worker import-dataset`: settings as a lab writes them, in JSON, to a prepared subject, value by value; and what is told of files that do
//! not fit.

use end_to_end::run_worker;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Output;
use subject::dataset::{Dataset, GRID};
use subject::volume::{Grid, Volume, write_map};
use tempfile::TempDir;

const AFFINE: [[f32; 4]; 3] = [[-2.0, 0.0, 0.0, 40.0], [0.0, 1.5, 0.5, -20.0], [0.0, -0.5, 1.5, 7.0]];
/// Four images, three voxels; the second never changes.
const BETAS: [f32; 12] = [1.0, 5.0, 4.0, 2.0, 5.0, 2.0, 3.0, 5.0, 2.0, 4.0, 5.0, 0.0];

/// A folder of a lab's files, which the settings name.
struct Lab {
    folder: TempDir,
}

impl Lab {
    fn new() -> Self {
        let lab = Self { folder: tempfile::tempdir().expect("a temporary folder can be made") };
        let pixels: Vec<u8> = (0..4).flat_map(|image| vec![10 * image; 2 * 3 * 3]).collect();
        lab.safetensors("images.safetensors", "images", "U8", &[4, 2, 3, 3], &pixels);
        lab.safetensors("betas.safetensors", "betas", "F32", &[4, 3], &bytes(&BETAS));
        lab.npy("places.npy", "<i4", &[3, 3], &[0_i32, 0, 0, 1, 2, 0, 2, 1, 1].map(i32::to_le_bytes).concat());
        let grid = Grid::new([3, 4, 2], AFFINE).expect("a grid");
        write_map(&lab.path("brain.nii.gz"), &grid, &[1.0; 24]).expect("a volume is written");
        // Voxels [1, 2, 0] and [0, 3, 1] of the volume, of which the second has no betas.
        let volume: Vec<u8> = (0..24).map(|at| u8::from(at == 8 + 4 || at == 6 + 1)).collect();
        lab.npy("volume.npy", "|b1", &[3, 4, 2], &volume);
        lab.npy("flat.npy", "|u1", &[3], &[2, 0, 2]);
        lab.npy("ncsnr.npy", "<f4", &[3], &bytes(&[0.5, 0.0, 1.0]));
        std::fs::write(lab.path("held_out.txt"), "1\n3\n").expect("a list is written");
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn npy(&self, name: &str, dtype: &str, shape: &[usize], values: &[u8]) {
        let shape: String = shape.iter().map(|length| format!("{length}, ")).collect();
        let header = format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': ({shape}), }}\n");
        let length = u16::try_from(header.len()).expect("a short header").to_le_bytes();
        let file = [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), values].concat();
        std::fs::write(self.path(name), file).expect("an array is written");
    }

    fn safetensors(&self, name: &str, tensor: &str, dtype: &str, shape: &[usize], values: &[u8]) {
        let described = json!({ "dtype": dtype, "shape": shape, "data_offsets": [0, values.len()] });
        let header = json!({ tensor: described }).to_string();
        let length = (header.len() as u64).to_le_bytes();
        std::fs::write(self.path(name), [&length[..], header.as_bytes(), values].concat()).expect("it is written");
    }

    /// Everything that can be said but where the voxels' z-scores come from.
    fn settings(&self) -> Value {
        let file = |name: &str| self.path(name).display().to_string();
        json!({
            "subject": "sub-07",
            "images": file("images.safetensors"),
            "betas": [file("betas.safetensors")],
            "zscore": true,
            "regions": {
                "volume": { "masks": [file("volume.npy")] },
                "flat": { "masks": [file("flat.npy")], "labels": [2] },
            },
            "voxel_ijk": file("places.npy"),
            "like": file("brain.nii.gz"),
            "ncsnr": file("ncsnr.npy"),
            "repeats": 3,
            "test": file("held_out.txt"),
            "image_size": 4,
        })
    }

    fn import(&self, settings: &str, out: &Path) -> Output {
        std::fs::write(self.path("settings.json"), settings).expect("settings are written");
        let [settings, out] = [&self.path("settings.json"), out].map(|path| path.display().to_string());
        run_worker(["import-dataset", "--settings", &settings, "--out", &out])
    }

    /// What is told of settings that make nothing.
    fn refusal(&self, settings: &str) -> String {
        let out = self.path("refused");
        let told = self.import(settings, &out);
        assert!(!told.status.success() && !out.exists(), "{settings} was taken");
        String::from_utf8(told.stderr).expect("text")
    }
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[test]
fn settings_in_json_become_a_prepared_subject_value_by_value() {
    let lab = Lab::new();
    let out = lab.path("prepared");
    let made = lab.import(&lab.settings().to_string(), &out);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let said = String::from_utf8_lossy(&made.stdout);
    assert!(said.contains("images 4, test_images 2, voxels 3"), "{said}");

    let data = Dataset::open(&out).expect("prepared data");
    assert_eq!((data.images(), data.voxels(), data.side()), (4, 3, 4));
    let z = |deviation: f64, spread: f64| (deviation / (spread + 1e-6)) as f32;
    let (first, third) = (1.25_f64.sqrt(), 2.0_f64.sqrt());
    for (image, deviations) in [(-1.5, 2.0), (-0.5, 0.0), (0.5, 0.0), (1.5, -2.0)].into_iter().enumerate() {
        let mut betas = [f32::NAN; 3];
        data.betas(image, &mut betas);
        assert_eq!(betas, [z(deviations.0, first), 0.0, z(deviations.1, third)], "image {image}");
        assert!(data.image(image).iter().all(|&value| usize::from(value) == 10 * image), "image {image}");
    }
    assert_eq!((data.image_ids(), data.train(), data.test()), (vec![0, 1, 2, 3], vec![0, 2], vec![1, 3]));
    assert_eq!((data.repeats(), data.voxel_ijk()), (vec![3; 4], vec![[0, 0, 0], [1, 2, 0], [2, 1, 1]]));
    assert_eq!(data.ncsnr(), [0.5, 0.0, 1.0]);
    let ceiling = data.noise_ceiling();
    let near = ceiling.iter().zip([42.857_143, 0.0, 75.0]).all(|(found, expected)| (found - expected).abs() < 1e-4);
    assert!(near, "{ceiling:?}");

    let regions = data.regions();
    assert_eq!((regions.split.as_str(), regions.shape), ("held_out", [3, 4, 2]));
    let region = |name: &str| (regions.regions[name].rows.clone(), regions.regions[name].mask_voxels);
    assert_eq!((region("volume"), region("flat")), ((vec![1], 2), (vec![0, 2], 2)));
    let grid = Volume::read(&out.join(GRID)).expect("where the voxels lie");
    assert_eq!(grid.grid.affine()[..3], AFFINE.map(|row| row.map(f64::from)));
    let places = data.voxel_ijk().into_iter().map(|place| place.map(|index| index as usize));
    assert!(places.map(|place| grid.get(place)).all(|value| value == Some(1.0)));
    assert_eq!(grid.values.iter().sum::<f64>(), 3.0);
    assert_eq!(data.manifest().subject, "sub-07");
    assert_eq!(data.manifest().inputs.len(), 8, "every file is named by its content");
}

#[test]
fn files_that_do_not_fit_are_told_with_what_was_expected() {
    let lab = Lab::new();
    lab.npy("fewer.npy", "|u1", &[3, 2, 2, 3], &[0; 36]);
    lab.npy("long.npy", "<f4", &[5, 3], &bytes(&[0.5; 15]));
    let spoilt: Vec<f32> = (0..12).map(|at| if at == 7 { f32::NAN } else { at as f32 }).collect();
    lab.npy("spoilt.npy", "<f4", &[4, 3], &bytes(&spoilt));
    lab.npy("other_shape.npy", "|b1", &[3, 4, 3], &[1; 36]);
    lab.npy("outside.npy", "<i4", &[3, 3], &[0_i32, 0, 0, 1, 2, 0, 2, 1, 2].map(i32::to_le_bytes).concat());
    let file = |name: &str| lab.path(name).display().to_string();
    for (key, value, told) in [
        ("images", json!(file("fewer.npy")), ["fewer.npy", "3 images", "expected 4"]),
        (
            "betas",
            json!([file("betas.safetensors"), file("long.npy")]),
            ["long.npy", "5 images", "expected 4 as the first file"],
        ),
        ("betas", json!([file("spoilt.npy")]), ["spoilt.npy", "NaN for image 2 in voxel 1", "expected finite betas"]),
        (
            "betas",
            json!([file("images.safetensors")]),
            ["images.safetensors", "the tensors images", "expected `betas` of type F32"],
        ),
        (
            "regions",
            json!({ "roi": { "masks": [file("other_shape.npy")] } }),
            ["other_shape.npy", "36 voxels", "expected 3, as many as there are betas, or a volume of shape [3, 4, 2]"],
        ),
        ("regions", json!({ "roi": { "masks": [file("flat.npy")], "labels": [7] } }), ["`roi`", "", ""]),
        ("voxel_ijk", json!(file("outside.npy")), ["brain.nii.gz", "voxel 2 at [2, 1, 2]", "inside [3, 4, 2]"]),
        ("voxel_ijk", json!(file("flat.npy")), ["flat.npy", "of shape [3]", "indices of shape [3, 3]"]),
        ("ncsnr", json!(file("places.npy")), ["places.npy", "of shape [3, 3]", "3 numbers, one a voxel"]),
        ("like", json!(file("missing.nii.gz")), ["missing.nii.gz", "", ""]),
        ("masks", json!([]), ["settings.json", "unknown field `masks`", "`regions`"]),
    ] {
        let mut settings = lab.settings();
        settings[key] = value;
        let message = lab.refusal(&settings.to_string());
        for told in told {
            assert!(message.contains(told), "{told} is not in: {message}");
        }
    }

    let twice = lab.settings().to_string().replacen("\"flat\":", "\"volume\":", 1);
    let message = lab.refusal(&twice);
    assert!(message.contains("settings.json") && message.contains("two regions are called `volume`"), "{message}");
}
