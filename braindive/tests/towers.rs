//! Text towers and the CoCa probe against the reference: five cases with random weights, and the trained miniature.
#![allow(clippy::unwrap_used)]

use braindive::models::clip_text::ClipText;
use braindive::models::coca::Coca;
use braindive::models::text::TextEncoder;
use braindive::models::tokenizer::{Dialect, Tokenizer};
use braindive::probe::{Probe, PromptClass};
use candle_core::{DType, Device, Tensor, safetensors};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use subject::image::RgbImage8;

fn paper_classes() -> Vec<PromptClass> {
    let classes = protocol::probe::paper().into_iter();
    classes.map(|class| PromptClass { name: class.name, prompts: class.prompts }).collect()
}

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

    /// The final image, as it was saved.
    fn image(&self) -> RgbImage8 {
        let image = &self.trace["final.image_u8"];
        let (height, width, _) = image.dims3().unwrap();
        RgbImage8::new(width, height, image.flatten_all().unwrap().to_vec1().unwrap()).unwrap()
    }

    fn probe(&self, classes: &[PromptClass]) -> Result<Probe, braindive::error::Error> {
        let tokenizer = Tokenizer::load(&self.bundle.join("sd/tokenizer"), Dialect::OpenClip).unwrap();
        Probe::load(&self.bundle.join("coca"), &tokenizer, classes, &Device::Cpu)
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

#[test]
fn coca_sees_images_and_texts_as_in_the_reference() {
    for golden in goldens() {
        let coca = Coca::load(&golden.bundle.join("coca"), DType::F32, &Device::Cpu).unwrap();
        let input = coca.preprocess(&golden.image()).unwrap();
        golden.assert_close("coca.input", &input, 1e-6);
        golden.assert_close("coca.image_features", &coca.encode_image(&input).unwrap(), 1e-6);
        golden.assert_close("coca.text_features", &coca.encode_text(&golden.ids("coca_tokens")).unwrap(), 1e-6);
    }
}

#[test]
fn images_are_classified_as_in_the_reference() {
    for golden in goldens() {
        let found = golden.probe(&paper_classes()).unwrap().classify(&[&golden.image()]).unwrap().remove(0).unwrap();
        let tensor = |values: &[f64]| Tensor::new(values, &Device::Cpu).unwrap().to_dtype(DType::F32).unwrap();
        golden.assert_close("coca.similarity", &tensor(&found.similarity), 1e-6);
        golden.assert_close("coca.class_similarity", &tensor(&found.class_similarity), 1e-6);
        assert_eq!(golden.trace["coca.class"].to_vec1::<i64>().unwrap(), [found.class as i64], "{}", golden.name);
    }
}

#[test]
fn an_image_is_classified_among_others_as_it_is_alone() {
    let golden = goldens().remove(0);
    let probe = golden.probe(&paper_classes()).unwrap();
    let image = golden.image();
    let (width, height) = (image.width(), image.height());
    let backwards = RgbImage8::new(width, height, image.pixels().iter().rev().copied().collect()).unwrap();
    let wide = RgbImage8::new(3 * width, height, image.pixels().repeat(3)).unwrap();
    let images = [&image, &backwards, &wide];
    let together = probe.classify(&images).unwrap();
    for (image, together) in images.into_iter().zip(together) {
        assert_eq!(probe.classify(&[image]).unwrap().remove(0).unwrap(), together.unwrap());
    }
    assert!(probe.classify(&[]).unwrap().is_empty());
}

#[test]
fn a_class_without_prompts_is_an_error_that_names_it() {
    let golden = goldens().remove(0);
    let mut classes = paper_classes();
    classes[3].prompts.clear();
    let message = golden.probe(&classes).unwrap_err().to_string();
    assert!(message.contains("`food`"), "{message}");
    assert!(golden.probe(&[]).is_err());
}
