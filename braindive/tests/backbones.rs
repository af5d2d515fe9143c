//! Image towers as timm and `transformers` wrote them give those libraries' features; `fixtures/make.py` made them. And heads of
//! BrainDiVE's trainer.
#![allow(clippy::unwrap_used)]

use braindive::encoder::Head;
use braindive::models::vit::VisionTransformer;
use candle_core::{DType, Device, Tensor, safetensors};
use std::path::{Path, PathBuf};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// A copy of a published folder, in which `from` in config.json says `to`.
fn with_config(name: &str, from: &str, to: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(fixtures().join(name)).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    let config = copy.path().join("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(config, text.replace(from, to)).unwrap();
    copy
}

fn assert_features(folder: &Path, expected: &str) {
    let published = safetensors::load(fixtures().join("features.safetensors"), &Device::Cpu).unwrap();
    let tower = VisionTransformer::load(folder, DType::F32, &Device::Cpu).unwrap();
    let found = tower.forward(&(&published["pixels"]).into()).unwrap().into_value();
    let distance = (found - &published[expected]).unwrap().abs().unwrap().max_all().unwrap();
    let distance: f32 = distance.to_scalar().unwrap();
    assert!(distance < 1e-5, "{expected} is off by {distance:.1e}");
}

#[test]
fn a_tower_of_timm_gives_the_features_that_timm_gives() {
    assert_features(&fixtures().join("timm"), "timm.gelu");
    let quick = with_config("timm", "vit_base_patch16_clip_224", "vit_base_patch16_clip_quickgelu_224");
    assert_features(quick.path(), "timm.quick_gelu");
}

#[test]
fn a_tower_of_transformers_in_shards_gives_the_features_that_transformers_gives() {
    assert_features(&fixtures().join("transformers"), "transformers.gelu");
    let quick = with_config("transformers", "\"hidden_act\": \"gelu\"", "\"hidden_act\": \"quick_gelu\"");
    assert_features(quick.path(), "transformers.quick_gelu");
}

#[test]
fn a_tower_that_is_not_clips_is_refused_by_what_it_says() {
    let refusal = |name: &str, from: &str, to: &str| {
        VisionTransformer::load(with_config(name, from, to).path(), DType::F32, &Device::Cpu).unwrap_err().to_string()
    };
    let message = refusal("timm", "vit_base_patch16_clip_224", "vit_base_patch16_siglip_224");
    assert!(message.contains("`architecture` is vit_base_patch16_siglip_224"), "{message}");
    let message = refusal("timm", "\"depth\"", "\"class_token\": false, \"depth\"");
    assert!(message.contains("unknown field `class_token`"), "{message}");
    let message = refusal("timm", "\"global_pool\": \"token\"", "\"global_pool\": \"avg\"");
    assert!(
        message.contains("`global_pool` is \"avg\", expected \"token\"") && message.contains("config.json"),
        "{message}"
    );
    let message = refusal("timm", "\"num_heads\": 2", "\"num_heads\": 3");
    assert!(message.contains("`num_heads` is 3, expected a divisor of the width 8"), "{message}");
    let message = refusal("transformers", "\"num_channels\": 3", "\"num_channels\": 1");
    assert!(message.contains("`vision_config.num_channels` is 1, expected 3"), "{message}");
    let message = refusal("transformers", "\"model_type\": \"clip\"", "\"model_type\": \"siglip\"");
    assert!(message.contains("describes no image tower that can be read"), "{message}");
}

#[test]
fn a_head_of_the_trainer_predicts_as_its_matrix_says() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../checkpoint/tests/fixtures");
    let head = Head::load(fixtures.join("00100.chkpt"), DType::F64, &Device::Cpu).unwrap();
    assert_eq!((head.voxels(), head.features()), (4, 4));
    assert!(head.rois().is_empty() && head.voxel_ijk().is_none());
    let features = Tensor::eye(4, DType::F64, &Device::Cpu).unwrap();
    let expected = head.weight().t().unwrap().broadcast_add(head.bias()).unwrap();
    let off = (head.predict(&features).unwrap() - expected).unwrap().abs().unwrap().max_all().unwrap();
    assert!(off.to_scalar::<f64>().unwrap() < 1e-12);
    let message = Head::load(fixtures.join("three_subjects.chkpt"), DType::F32, &Device::Cpu).unwrap_err().to_string();
    assert!(message.contains("holds the heads of subjects 1, 2, 5; say which"), "{message}");
}
