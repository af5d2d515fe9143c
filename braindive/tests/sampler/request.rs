//! What a request can ask for beside the paper's recipe, against runs of the reference (`ref_request.py`) on the bundle of small_s5.

use crate::case::{Case, assert_close};
use braindive::error::Error;
use braindive::image::to_tensor;
use braindive::models::text::TextEncoder;
use braindive::models::vae_encoder::VaeEncoder;
use braindive::sampler::solver::Method;
use braindive::sampler::start::{first_step, noised};
use braindive::sampler::trace::Trace;
use braindive::sampler::{Gradient, Parameters, TextGuidance};
use candle_core::{DType, Device, Tensor};
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use subject::image::png;

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/reference/request"))
}

/// The golden tensors whose names begin with `run.`, without that.
fn golden(run: &str) -> HashMap<String, Tensor> {
    let all = candle_core::safetensors::load(folder().join("runs.safetensors"), &Device::Cpu).unwrap();
    let of_run = |(key, tensor): (String, Tensor)| Some((key.strip_prefix(run)?.strip_prefix('.')?.to_owned(), tensor));
    all.into_iter().filter_map(of_run).collect()
}

/// A whole run, step by step; latents as close as f32 allows over so few steps.
fn assert_run(case: &Case, golden: &HashMap<String, Tensor>) {
    let mut trace = Trace::new();
    let sample = case.sample(|step| {
        trace.record(step, &case.encoder)?;
        Ok(ControlFlow::Continue(()))
    });
    let ours = trace.finish(&case.diffusion, &case.encoder, &case.parameters, &case.item, &sample.unwrap()).unwrap();
    let steps: Vec<_> = golden.keys().filter(|key| key.starts_with("step.")).collect();
    assert!(steps.len() >= 6, "{steps:?}");
    for key in steps {
        assert_eq!(ours[key].dims(), golden[key].dims(), "{key}");
        assert_close(key, &ours[key], &golden[key], 1e-4);
    }
    assert_close("final.image", &ours["final.image"], &golden["final.image"], 1e-4);
}

#[test]
fn text_guidance_beside_brain_and_self_attention_guidance_follows_the_reference() {
    let mut case = Case::load("small_s5", DType::F32);
    let golden = golden("text");
    let text = TextEncoder::load(&case.folder.join("bundle/sd"), DType::F32, &Device::Cpu).unwrap();
    let [prompt, null] = ["a photo of a face", ""].map(|prompt| text.prompt_embeds(prompt).unwrap());
    assert_close("prompt_embeds", &prompt, &golden["prompt_embeds"], 1e-5);
    assert_close("null_embeds", &null, &golden["null_embeds"], 1e-5);
    case.item.prompt_embeds = prompt;
    case.parameters =
        Parameters { steps: 3, text_guidance: Some(TextGuidance { scale: 7.5, null_embeds: null }), ..case.parameters };
    assert_run(&case, &golden);
}

/// From an image at strength 0.6 of 5 steps, guided from step 3 on, with the gradient to x̂₀ only.
#[test]
fn a_start_from_an_image_guided_late_through_the_decoder_follows_the_reference() {
    let mut case = Case::load("small_s5", DType::F32);
    let first_step = first_step(5, 0.6).unwrap();
    assert_eq!(first_step, 2);
    let image = to_tensor(&png::read(&folder().join("init.png")).unwrap().0, &Device::Cpu).unwrap();
    let vae = VaeEncoder::load(case.folder.join("bundle/sd/vae"), DType::F32, &Device::Cpu).unwrap();
    let latents = vae.encode(&image).unwrap();
    let noise = &case.item.initial_latents;
    case.item.initial_latents = noised(&case.diffusion.schedule, 5, first_step, &latents, noise).unwrap();
    assert_close("the start", &case.item.initial_latents, &golden("image")["start"], 1e-5);
    for (solver, run) in [(Method::Ddim, "image.ddim"), (Method::DpmSolverPp2m, "image.dpm")] {
        case.parameters = Parameters {
            first_step,
            solver,
            guidance_interval: 0.6..1.0,
            gradient: Gradient::PredX0,
            ..case.parameters
        };
        assert_run(&case, &golden(run));
    }
}

#[test]
fn a_step_interval_or_scale_that_makes_no_sense_is_refused() {
    let mut case = Case::load("small_s5", DType::F32);
    let sound = case.parameters.clone();
    let text = |scale, null_embeds: &Tensor| Some(TextGuidance { scale, null_embeds: null_embeds.clone() });
    let short = case.item.prompt_embeds.narrow(1, 0, 3).unwrap();
    for (parameters, what) in [
        (Parameters { first_step: 5, ..sound.clone() }, "the first step"),
        (Parameters { guidance_interval: 0.5..0.5, ..sound.clone() }, "the guidance interval"),
        (Parameters { guidance_interval: 0.0..f64::NAN, ..sound.clone() }, "the guidance interval"),
        (
            Parameters { text_guidance: text(f64::NAN, &case.item.prompt_embeds), ..sound.clone() },
            "the text guidance scale",
        ),
        (Parameters { text_guidance: text(2.0, &short), ..sound.clone() }, "the shape of the empty prompt's embedding"),
    ] {
        case.parameters = parameters;
        let error = case.sample(|_| Ok(ControlFlow::Continue(()))).unwrap_err();
        assert!(matches!(error, Error::Parameter { what: found, .. } if found == what), "{what}: {error}");
    }
}
