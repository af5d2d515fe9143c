//! An encoder of BERG, taken over, predicts what torchvision and NumPy predict, with their gradient; `fixtures/berg/make.py` made both.
#![allow(clippy::unwrap_used)]

use braindive::encoder::berg::{Source, import};
use braindive::encoder::fit::{Job, evaluate_head};
use braindive::encoder::{Encoder, Head, Objective, Term, encode};
use braindive::gradient::{Tracked, gradients};
use candle_core::{DType, Device, Tensor, safetensors};
use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use subject::dataset::{self, GRID, Parts, Region, Regions};
use subject::folder::{Draft, Manifest, Opened, Provenance};
use subject::volume::{Grid, write_map};
use tempfile::TempDir;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/berg").join(name)
}

fn source(backbone: &str, regions: &[&str]) -> Source {
    Source {
        weights: fixture("weights.npy"),
        metadata: fixture("metadata.npy"),
        backbone: fixture(backbone),
        subject: "subj01".to_owned(),
        regions: regions.iter().map(|&name| name.to_owned()).collect(),
        resize: 10,
        heads: Some(2),
    }
}

fn imported(source: &Source) -> (TempDir, Encoder) {
    let out = tempfile::tempdir().unwrap();
    import(source, out.path()).unwrap();
    let (backbone, head) = (out.path().join("backbone"), out.path().join("encoder"));
    let encoder = Encoder::load(backbone, head, DType::F32, &Device::Cpu).unwrap();
    (out, encoder)
}

fn expected() -> HashMap<String, Tensor> {
    safetensors::load(fixture("expected.safetensors"), &Device::Cpu).unwrap()
}

/// The largest difference over the largest value.
#[track_caller]
fn assert_close(found: &Tensor, expected: &Tensor, tolerance: f32) {
    let largest = |tensor: &Tensor| tensor.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    let off = largest(&(found - expected).unwrap()) / largest(expected);
    assert!(off < tolerance, "off by {off:.1e}");
}

#[test]
fn every_vertex_and_the_gradient_of_a_region_are_what_torchvision_and_numpy_say() {
    let expected = expected();
    for backbone in ["vit.pth", "vit.safetensors"] {
        let (_out, encoder) = imported(&source(backbone, &[]));
        let vertices = Tensor::cat(&[&expected["lh"], &expected["rh"]], 1).unwrap();
        assert_close(&encoder.voxels(&expected["image"]).unwrap(), &vertices, 1e-5);

        let image = Tracked::input(expected["image"].clone());
        let features = encode(&encoder.backbone, &image).unwrap().features;
        assert_close(features.value(), &expected["features"], 1e-5);
        let term = Term::mean("FFA-1", encoder.head.rois()["FFA-1"].clone());
        let target = Objective { terms: vec![term] }.target(&encoder.head).unwrap();
        let activation: Vec<f32> = expected["region"].to_vec1().unwrap();
        let rows = features.value().to_dtype(DType::F64).unwrap().to_vec2::<f64>().unwrap();
        for (row, expected) in rows.iter().zip(activation) {
            assert!((target.activation(row) - f64::from(expected)).abs() < 1e-5);
        }
        let direction = Tensor::new(target.direction(), &Device::Cpu).unwrap().to_dtype(DType::F32).unwrap();
        let cotangent = direction.broadcast_as(features.value().shape()).unwrap().contiguous().unwrap();
        let gradient = gradients(features, cotangent).unwrap().reach(&image).unwrap();
        assert_close(&gradient, &expected["gradient"], 1e-5);
    }
}

#[test]
fn the_vertices_of_a_region_are_those_of_both_hemispheres_and_say_which_they_are() {
    let (out, encoder) = imported(&source("vit.pth", &["OFA", "FFA-1"]));
    let expected = expected();
    let part = |side: &str, vertices: &[u32]| {
        expected[side].index_select(&Tensor::new(vertices, &Device::Cpu).unwrap(), 1).unwrap()
    };
    let vertices = Tensor::cat(&[part("lh", &[0, 3, 7, 8]), part("rh", &[2, 4, 19])], 1).unwrap();
    assert_close(&encoder.voxels(&expected["image"]).unwrap(), &vertices, 1e-5);
    let rois = encoder.head.rois();
    assert_eq!((rois.len(), &rois["FFA-1"][..], &rois["OFA"][..]), (2, &[1, 2, 3, 6][..], &[0, 4, 5][..]));

    let head = safetensors::load(out.path().join("encoder/head.safetensors"), &Device::Cpu).unwrap();
    let places: Vec<Vec<i32>> = head["hemisphere_vertex"].to_vec2().unwrap();
    assert_eq!(places, [[0, 0], [0, 3], [0, 7], [0, 8], [1, 2], [1, 4], [1, 19]]);
    for (folder, inputs) in [("backbone", ["weights.npy", "vit.pth"]), ("encoder", ["weights.npy", "metadata.npy"])] {
        let manifest = Manifest::read(&out.path().join(folder)).unwrap();
        manifest.verify(&out.path().join(folder)).unwrap();
        assert_eq!(manifest.inputs.iter().map(|file| &*file.name).collect::<Vec<_>>(), inputs);
    }
    // Asked again, it finds both; a head that would be another is not written over it.
    import(&source("vit.pth", &["OFA", "FFA-1"]), out.path()).unwrap();
    assert!(import(&source("vit.pth", &["OFA"]), out.path()).is_err());
}

/// Eight images of 10 pixels, to which the encoder answers as it predicts.
fn answered(folder: &Path, encoder: &Encoder) {
    const IMAGES: usize = 8;
    const SIDE: usize = 10;
    let images: Vec<u8> =
        (0..(IMAGES * SIDE * SIDE * 3) as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let pixels = Tensor::from_slice(&images, (IMAGES, SIDE, SIDE, 3), &Device::Cpu).unwrap();
    let pixels =
        (pixels.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap().to_dtype(DType::F32).unwrap() / 255.0).unwrap();
    let vertices = encoder.head.voxels();
    let parts = Parts {
        images,
        side: SIDE,
        betas: encoder.voxels(&pixels).unwrap().flatten_all().unwrap().to_vec1().unwrap(),
        image_ids: (0..IMAGES as i64).collect(),
        repeats: vec![3; IMAGES],
        test: (0..IMAGES).map(|image| u8::from(image >= 3)).collect(),
        voxel_ijk: (0..vertices as i32).map(|vertex| [vertex, 0, 0]).collect(),
        ncsnr: vec![1.0; vertices],
        noise_ceiling: vec![100.0; vertices],
        regions: Regions {
            shape: [vertices, 1, 1],
            split: "test_img_num".to_owned(),
            split_sha256: "0".repeat(64),
            parcels: Vec::new(),
            regions: BTreeMap::from([(
                "all of it".to_owned(),
                Region { rows: (0..vertices).collect(), mask_voxels: vertices },
            )]),
        },
    };
    let Opened::Draft(draft) = Draft::open(folder, "answered").unwrap() else { panic!("a fresh folder") };
    dataset::write(draft.path(), &parts).unwrap();
    let affine = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]];
    let grid = Grid::new([vertices, 1, 1], affine).unwrap();
    write_map(&draft.path().join(GRID), &grid, &vec![1.0; vertices]).unwrap();
    draft
        .publish(Provenance {
            kind: "prepare".to_owned(),
            subject: "subj01".to_owned(),
            settings: serde_json::json!({}),
            inputs: Vec::new(),
            summary: BTreeMap::new(),
            software: "test".to_owned(),
        })
        .unwrap();
}

#[test]
fn its_evaluation_reads_the_features_that_guide() {
    let (out, encoder) = imported(&source("vit.pth", &[]));
    let [data, backbone, scores] = ["data", "backbone", "scores"].map(|name| out.path().join(name));
    answered(&data, &encoder);
    let job = Job { data: &data, backbone: &backbone, out: &scores, identity: "scores", device: &Device::Cpu };
    let manifest = evaluate_head(&job, &out.path().join("encoder"), &mut |_, _| ControlFlow::Continue(())).unwrap();
    let r2 = manifest.summary["mean_r2"];
    assert!(r2 > 0.999_99, "R² {r2}");
}

#[test]
fn a_head_is_not_read_with_features_that_are_normalised_otherwise() {
    let (out, encoder) = imported(&source("vit.pth", &[]));
    let config = out.path().join("encoder/config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("\"normalize\":false", "\"normalize\":true")).unwrap();
    let head = Head::load(out.path().join("encoder"), DType::F32, &Device::Cpu).unwrap();
    let message = Encoder::new(encoder.backbone, Path::new("tower"), head).unwrap_err().to_string();
    assert!(
        message.contains("`normalize` is true, expected false, as the features are of the backbone tower"),
        "{message}"
    );
}

/// A file that `numpy.save` wrote of an object with this pickle.
fn pickled(folder: &TempDir, pickle: &[u8]) -> PathBuf {
    let path = folder.path().join("other.npy");
    let header = "{'descr': '|O', 'fortran_order': False, 'shape': (), }\n";
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((header.len() as u16).to_le_bytes());
    file.extend(header.bytes());
    file.extend(pickle);
    std::fs::write(&path, file).unwrap();
    path
}

#[test]
fn a_file_that_would_execute_code_or_is_another_is_refused_by_its_name() {
    let out = tempfile::tempdir().unwrap();
    let refusal = |source: Source| {
        let message = import(&source, &out.path().join("made")).unwrap_err().to_string();
        assert!(!out.path().join("made/encoder").exists(), "{message}");
        message
    };
    let whole = || source("vit.pth", &[]);
    let code = || pickled(&out, b"\x80\x04cos\nsystem\nX\x0c\0\0\0touch ran.txt\x85R.");
    let message = refusal(Source { weights: code(), ..whole() });
    assert!(message.contains("other.npy is a pickle that would call `os.system`"), "{message}");
    let message = refusal(Source { metadata: code(), ..whole() });
    assert!(message.contains("other.npy is a pickle that would call `os.system`"), "{message}");

    let message = refusal(Source { weights: fixture("metadata.npy"), ..whole() });
    let expected = "metadata.npy holds only [fmri, encoding_models], expected `pca_param` there";
    assert!(message.contains(expected), "{message}");
    let message = refusal(Source { metadata: fixture("weights.npy"), ..whole() });
    assert!(message.contains("weights.npy holds only [scaler_param, pca_param"), "{message}");
    let message = refusal(Source { weights: fixture("numbers.npy"), ..whole() });
    assert!(message.contains("numbers.npy holds an array of numbers, expected a pickled dictionary"), "{message}");
    let bytes = std::fs::read(fixture("weights.npy")).unwrap();
    let path = out.path().join("cut.npy");
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let message = refusal(Source { weights: path, ..whole() });
    assert!(message.contains("cut.npy is a damaged pickle"), "{message}");

    let message = refusal(source("vit.pth", &["FFA-3"]));
    assert!(
        message.contains("metadata.npy holds no region `FFA-3`, expected one of FFA-1, OFA, mTL-bodies"),
        "{message}"
    );
    let message = refusal(source("vit.pth", &["mTL-bodies"]));
    assert!(message.contains("region `mTL-bodies` holds no voxel"), "{message}");
    let timm = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/timm/pytorch_model.bin");
    let message = refusal(Source { backbone: timm, ..whole() });
    assert!(message.contains("pytorch_model.bin has no tensor `conv_proj.weight`"), "{message}");
    let message = refusal(Source { resize: 7, ..whole() });
    assert!(message.contains("`resize_size` is 7, expected at least the image_size, 8"), "{message}");
    let message = refusal(Source { heads: Some(3), ..whole() });
    assert!(message.contains("`num_heads` is 3, expected a divisor of the width 8"), "{message}");
}

#[test]
fn a_backbone_of_other_sizes_than_the_components_is_named() {
    let out = tempfile::tempdir().unwrap();
    let mut state = safetensors::load(fixture("vit.safetensors"), &Device::Cpu).unwrap();
    state.retain(|key, _| !key.contains("encoder_layer_1"));
    let path = out.path().join("short.safetensors");
    safetensors::save(&state, &path).unwrap();
    let source = Source { backbone: path, ..source("vit.pth", &[]) };
    let message = import(&source, &out.path().join("made")).unwrap_err().to_string();
    let expected = "weights.npy holds components of 80 outputs, expected 1 blocks × 5 tokens × 8";
    assert!(message.contains(expected) && message.contains("short.safetensors"), "{message}");
}
