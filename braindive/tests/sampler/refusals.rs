//! What the sampler does with bad models, bad parameters, and an observer that has seen enough.

use crate::case::Case;
use braindive::encoder::Encoder;
use braindive::error::Error;
use braindive::sampler::Diffusion;
use candle_core::{DType, Device, Tensor};
use std::ops::ControlFlow;

#[test]
fn an_observer_stops_the_run_between_steps() {
    let case = Case::load("small_s5", DType::F32);
    let mut seen = Vec::new();
    let result = case.sample(|step| {
        seen.push((step.index, step.steps));
        Ok(if step.index == 1 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    });
    assert!(matches!(result, Err(Error::Stopped { step: 1 })), "{result:?}");
    assert_eq!(seen, [(0, 5), (1, 5)]);
}

#[test]
fn latents_that_are_not_finite_end_the_run_with_the_step() {
    let mut case = Case::load("small_s5", DType::F32);
    case.item.initial_latents = (case.item.initial_latents * f64::NAN).unwrap();
    let error = case.sample(|_| Ok(ControlFlow::Continue(())));
    assert!(matches!(error, Err(Error::NonFinite { step: 0, what: "latents" })), "{error:?}");
}

#[test]
fn latents_of_the_wrong_shape_are_refused_before_the_first_step() {
    let mut case = Case::load("small_s5", DType::F32);
    for shape in [[1, 3, 16, 16], [2, 4, 16, 16], [1, 4, 16, 15], [1, 4, 4, 4]] {
        case.item.initial_latents = Tensor::zeros(&shape, DType::F32, &Device::Cpu).unwrap();
        let result = case.sample(|_| panic!("a step was made from latents of shape {shape:?}"));
        assert!(matches!(result, Err(Error::Parameter { .. })), "{shape:?}");
    }
    assert_eq!(case.diffusion.latent_shape(48, 32).unwrap(), [1, 4, 16, 24]);
    assert!(case.diffusion.latent_shape(50, 32).is_err());
}

#[test]
fn a_head_of_another_backbone_is_refused_with_both_files() {
    let small = Case::load("small_s5", DType::F32);
    let deep = small.folder.with_file_name("deep_s10");
    let result = Encoder::load(small.folder.join("bundle/clip"), deep.join("bundle/encoder"), DType::F32, &Device::Cpu);
    let message = result.unwrap_err().to_string();
    assert!(message.contains("deep_s10/bundle/encoder/head.safetensors maps 32 features"), "{message}");
    assert!(message.contains("small_s5/bundle/clip makes 24"), "{message}");
}

#[test]
fn a_model_with_another_configuration_names_the_tensor_that_does_not_fit() {
    let case = Case::load("small_s5", DType::F32);
    let folder = tempfile::tempdir().unwrap();
    let source = case.folder.join("bundle/sd");
    for part in ["unet", "vae", "scheduler"] {
        std::fs::create_dir(folder.path().join(part)).unwrap();
        for file in std::fs::read_dir(source.join(part)).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), folder.path().join(part).join(file.file_name())).unwrap();
        }
    }
    let load = || Diffusion::load(folder.path(), DType::F32, &Device::Cpu).map(|_| ());
    load().unwrap();
    let config = folder.path().join("unet/config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("\"cross_attention_dim\": 32", "\"cross_attention_dim\": 48")).unwrap();
    let message = load().unwrap_err().to_string();
    assert!(message.contains("attn2.to_k.weight") && message.contains("[24, 32], expected [24, 48]"), "{message}");
    std::fs::write(&config, text.replace("CrossAttnDownBlock2D", "AttnDownBlock2D")).unwrap();
    let message = load().unwrap_err().to_string();
    assert!(message.contains("down_block_types") && message.contains("AttnDownBlock2D"), "{message}");
    std::fs::write(&config, text.replacen('{', "{\"addition_embed_type\": \"text_time\",", 1)).unwrap();
    let message = load().unwrap_err().to_string();
    assert!(message.contains("`addition_embed_type` is \"text_time\", expected null"), "{message}");
    std::fs::write(&config, text.replace("\"norm_num_groups\": 8", "\"norm_num_groups\": 7")).unwrap();
    let message = load().unwrap_err().to_string();
    assert!(message.contains("`norm_num_groups` is 7, expected a divisor of 24 channels"), "{message}");
    std::fs::write(&config, text).unwrap();
    let weights = folder.path().join("vae/diffusion_pytorch_model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    let message = load().unwrap_err().to_string();
    assert!(message.contains("vae/diffusion_pytorch_model.safetensors is truncated"), "{message}");
}
