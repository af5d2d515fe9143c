//! Text towers and the CoCa probe against the reference: five cases with random weights, and the trained miniature.
#![allow(clippy::unwrap_used)]

use braindive::models::clip_text::ClipText;
use braindive::models::text::TextEncoder;
use candle_core::{DType, Device, Tensor, safetensors};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// A bundle with the inputs and outputs of the reference.
struct Golden {
    name: String,
    bundle: PathBuf,
    inputs: HashMap<String, Tensor>,
    trace: HashMap<String, Tensor>,
}

fn goldens() -> Vec<Golden> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let golden = |folder: PathBuf, bundle: PathBuf| Golden {
        name: folder.display().to_string(),
        inputs: safetensors::load(folder.join("inputs.safetensors"), &Device::Cpu).unwrap(),
        trace: safetensors::load(folder.join("trace.safetensors"), &Device::Cpu).unwrap(),
        bundle,
    };
    let case = |name| {
        let folder = repository.join("tests/reference/cases").join(name);
        golden(folder.clone(), folder.join("bundle"))
    };
    let mut goldens: Vec<Golden> =
        ["small_s5", "small_sag_s10", "deep_s10", "three_s50_2023", "vocab_nosag_s10"].map(case).into();
    goldens.push(golden(repository.join("miniature/golden"), repository.join("miniature/bundle")));
    goldens
}

impl Golden {
    fn ids(&self, key: &str) -> Tensor {
        self.inputs[key].to_dtype(DType::U32).unwrap()
    }

    /// Fails if any element of `found` is further than `tolerance` from the reference's `key`.
    fn assert_close(&self, key: &str, found: &Tensor, tolerance: f32) {
        let expected = &self.trace[key];
        assert_eq!(found.dims(), expected.dims(), "{key} of {}", self.name);
        let distance = (found - expected).unwrap().abs().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let largest = distance.iter().fold(0.0, |a: f32, &b| if b > a || b.is_nan() { b } else { a });
        println!("{key} of {}: {largest:.1e}", self.name);
        assert!(largest <= tolerance, "{key} of {} is off by {largest:.1e}", self.name);
    }
}

#[test]
fn stable_diffusion_prompts_embed_as_in_the_reference() {
    for golden in goldens() {
        let encoder = TextEncoder::load(&golden.bundle.join("sd"), DType::F32, &Device::Cpu).unwrap();
        golden.assert_close("prompt_embeds", &encoder.prompt_embeds("").unwrap(), 1e-5);
        golden.assert_close("prompt_embeds", &encoder.last_hidden_state(&golden.ids("token_ids")).unwrap(), 1e-5);
    }
}

#[test]
fn the_text_encoders_key_prefix_is_optional() {
    let golden = goldens().remove(0);
    let folder = tempfile::tempdir().unwrap();
    let sd = golden.bundle.join("sd");
    for file in [
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
        "tokenizer/special_tokens_map.json",
        "text_encoder/config.json",
    ] {
        let copy = folder.path().join(file);
        std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
        std::fs::copy(sd.join(file), copy).unwrap();
    }
    let weights: HashMap<String, Tensor> = safetensors::load(sd.join("text_encoder/model.safetensors"), &Device::Cpu)
        .unwrap()
        .into_iter()
        .map(|(key, tensor)| (key.strip_prefix("text_model.").unwrap().to_owned(), tensor))
        .collect();
    safetensors::save(&weights, folder.path().join("text_encoder/model.safetensors")).unwrap();
    let encoder = TextEncoder::load(folder.path(), DType::F32, &Device::Cpu).unwrap();
    golden.assert_close("prompt_embeds", &encoder.prompt_embeds("").unwrap(), 1e-5);
}

#[test]
fn clip_texts_embed_as_in_the_reference() {
    for golden in goldens() {
        let clip = ClipText::load(&golden.bundle.join("clip"), DType::F32, &Device::Cpu).unwrap();
        golden.assert_close("clip.text_features", &clip.encode(&golden.ids("clip_tokens")).unwrap(), 1e-6);
    }
}
