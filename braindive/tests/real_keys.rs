//! Every tensor of the published models, by name and shape, is read or deliberately not; none is missing. The files that are
//! loaded have the real headers and no elements: their data is a hole of the file system.
#![allow(clippy::unwrap_used)]

use braindive::models::VitConfig;
use braindive::models::clip_text::ClipText;
use braindive::models::coca::Coca;
use braindive::models::open_clip::OpenClipConfig;
use braindive::models::text::{TextEncoder, TextEncoderConfig};
use braindive::models::tokenizer::{Dialect, Tokenizer};
use braindive::models::unet::{UNet, UNetConfig};
use braindive::models::vae::{VaeConfig, VaeDecoder};
use braindive::models::vae_encoder::VaeEncoder;
use braindive::models::vit::VisionTransformer;
use braindive::weights::Weights;
use candle_core::{DType, Device};
use checkpoint::Backbone;
use serde_json::{Map, Value, json};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// One model at a time: together they would not fit in a small machine.
static ONE: Mutex<()> = Mutex::new(());

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn listing(name: &str) -> PathBuf {
    repository().join("tests/reference/real_keys").join(name)
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Writes a safetensors file with the names and shapes of a listing, in half precision, its data a hole.
fn write_weights(name: &str, path: &Path) {
    let mut header = Map::new();
    let mut end = 0;
    for (key, tensor) in json(&listing(&format!("{name}.json")))["keys"].as_object().unwrap() {
        let begin = end;
        end += 2 * tensor["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).product::<u64>();
        header.insert(key.clone(), json!({ "dtype": "F16", "shape": tensor["shape"], "data_offsets": [begin, end] }));
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut file = File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(&header).unwrap();
    file.set_len(8 + header.len() as u64 + end).unwrap();
}

/// Loads a model from a listing's tensors, and tells the keys that it left.
fn left<T>(name: &str, dtype: DType, load: impl FnOnce(&Weights) -> braindive::Result<T>) -> Vec<String> {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write_weights(name, &path);
    let weights = Weights::open(&path, dtype, &Device::Cpu).unwrap();
    load(&weights).unwrap_or_else(|error| panic!("{name}: {error}"));
    weights.unread()
}

/// Fails unless `left` is exactly what the patterns, prefixes of keys, say; each is there for the reason beside it.
fn assert_left(left: &[String], unused: &[(&str, &str)]) {
    for (prefix, reason) in unused {
        assert!(left.iter().any(|key| key.starts_with(prefix)), "`{prefix}` ({reason}) is not among what is left");
    }
    let unexpected: Vec<_> =
        left.iter().filter(|key| !unused.iter().any(|(prefix, _)| key.starts_with(prefix))).collect();
    assert!(unexpected.is_empty(), "read by no one: {unexpected:?}");
}

/// An OpenCLIP configuration file of the listing's model.
fn open_clip_config(name: &str) -> OpenClipConfig {
    let file = tempfile::NamedTempFile::new().unwrap();
    let preprocess = json!({ "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5] });
    let model = json(&listing(&format!("{name}_config.json")));
    fs::write(file.path(), json!({ "model_cfg": model, "preprocess_cfg": preprocess }).to_string()).unwrap();
    OpenClipConfig::read(file.path()).unwrap()
}

#[test]
fn stable_diffusions_unet_is_read_whole() {
    let config = UNetConfig::read(&listing("sd21base_unet_config.json")).unwrap();
    assert_left(&left("sd21base_unet", DType::F16, |weights| UNet::from_weights(config, weights)), &[]);
}

#[test]
fn stable_diffusions_vae_is_read_whole_under_both_names_of_its_attention() {
    let config = VaeConfig::read(&listing("sd21base_vae_config.json")).unwrap();
    for name in ["sd21base_vae", "sd21base_vae_published"] {
        let left = left(name, DType::F32, |weights| {
            VaeEncoder::from_weights(config.clone(), weights)?;
            VaeDecoder::from_weights(config.clone(), weights)
        });
        assert_left(&left, &[]);
    }
}

#[test]
fn stable_diffusions_text_encoder_is_read_whole() {
    let config = TextEncoderConfig::read(&listing("sd21base_text_encoder_config.json")).unwrap();
    let vocabulary = repository().join("tests/reference/cases/small_s5/bundle/sd/tokenizer");
    let tokenizer = Tokenizer::load(&vocabulary, Dialect::Transformers).unwrap();
    let left =
        left("sd21base_text_encoder", DType::F32, |weights| TextEncoder::from_weights(&config, tokenizer, weights));
    assert_left(&left, &[]);
}

#[test]
fn open_clips_towers_are_read_whole() {
    let config = open_clip_config("open_clip_ViT-B-16");
    let left = left("open_clip_ViT-B-16", DType::F32, |weights| {
        ClipText::from_weights(&config.model_cfg, weights)?;
        VisionTransformer::from_weights(VitConfig::open_clip(&config), weights)
    });
    assert_left(&left, &[("logit_scale", "the temperature of training; cosines are compared as they are")]);
}

#[test]
fn coca_is_read_but_for_its_captioning() {
    let config = open_clip_config("open_clip_coca_ViT-L-14");
    let left = left("open_clip_coca_ViT-L-14", DType::F32, |weights| Coca::from_weights(config, weights));
    let unused = [
        ("text_decoder.", "writes captions; images are classified by their cosine with prompts"),
        ("logit_scale", "the temperature of training; cosines are compared as they are"),
    ];
    assert_left(&left, &unused);
}

/// Loads an image tower from a folder with this configuration, and tells the keys that it left.
fn left_of_folder(name: &str, config: &Value) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let config = VitConfig::read(&Backbone::find(folder.path()).unwrap()).unwrap();
    left(name, DType::F32, |weights| VisionTransformer::from_weights(config, weights))
}

#[test]
fn the_authors_backbone_under_timms_names_is_read_whole() {
    let config = json!({
        "architecture": "vit_base_patch16_clip_224",
        "num_classes": 512,
        "pretrained_cfg": { "input_size": [3, 224, 224], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5] },
    });
    assert_left(&left_of_folder("timm_vit_base_patch16_clip_224.laion2b", &config), &[]);
}

#[test]
fn a_backbone_under_the_names_of_transformers_is_read_but_for_its_text_tower() {
    let config = json(&listing("transformers_ViT-B-16_config.json"));
    let unused = [
        ("text_model.", "the encoder sees images only"),
        ("text_projection.", "the encoder sees images only"),
        ("logit_scale", "the temperature of training; cosines are compared as they are"),
    ];
    assert_left(&left_of_folder("transformers_ViT-B-16", &config), &unused);
}
