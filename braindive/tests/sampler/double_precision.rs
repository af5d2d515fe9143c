//! The same code in f64: against the reference's f64 trace, and its gradient against finite differences.

use crate::case::{Case, assert_close, difference};
use braindive::sampler::predict;
use braindive::sampler::schedule::NoiseLevel;
use candle_core::{DType, Device, Tensor};

#[test]
fn a_double_precision_run_equals_the_references() {
    let mut case = Case::load("small_s5", DType::F64);
    let golden = candle_core::safetensors::load(case.folder.join("trace_f64.safetensors"), &Device::Cpu).unwrap();
    case.parameters.prompt_embeds = golden["prompt_embeds"].clone();
    let ours = case.run();
    for (key, golden) in &golden {
        if golden.dtype() == DType::F64 && key != "final.voxels_from_u8" {
            println!("{key:24} {:.2e}", difference(&ours[key], golden));
        }
    }
    for (key, golden) in &golden {
        if golden.dtype() == DType::F64 && key != "final.voxels_from_u8" {
            assert_close(key, &ours[key], golden, 1e-9);
        }
    }
}

#[test]
fn the_gradient_through_unet_decoder_and_encoder_equals_finite_differences() {
    let case = Case::load("small_s5", DType::F64);
    let prompt = case.parameters.prompt_embeds.to_dtype(DType::F64).unwrap();
    let activation = |latents: &Tensor, level, gamma| {
        let predicted = predict(&case.diffusion, &case.encoder, &case.target, latents, &prompt, level, gamma, 0.0);
        predicted.unwrap().guidance.unwrap()
    };
    for i in [0, 2, 4] {
        let timestep = case.diffusion.schedule.timesteps(case.meta.steps).unwrap()[i];
        let level = NoiseLevel { timestep, alpha_bar: case.diffusion.schedule.alpha_bar(timestep) };
        let latents = case.golden_step("latents_in", i).unsqueeze(0).unwrap().to_dtype(DType::F64).unwrap();
        let gradient = activation(&latents, level, case.meta.gamma).grad_latents;
        // The latents of another step are as good a direction as a random one.
        let direction = case.golden_step("latents_in", (i + 1) % 5).unsqueeze(0).unwrap().to_dtype(DType::F64).unwrap();
        let exact = (&gradient * &direction).unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap();
        let step = 1e-6;
        let value = |sign: f64| {
            let moved = (&latents + (&direction * (sign * step)).unwrap()).unwrap();
            case.meta.gamma * activation(&moved, level, case.meta.gamma).activation
        };
        let measured = (value(1.0) - value(-1.0)) / (2.0 * step);
        assert!((exact - measured).abs() < 1e-5 * measured.abs(), "step {i}: {exact} {measured}");
    }
}
