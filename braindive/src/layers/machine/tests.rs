//! What is launched, on the emulated machine.

use super::emulated::{emulate, launches};
use crate::encoder::{Encoder, Objective, Term};
use crate::gradient::{Tracked, gradients};
use crate::layers::check::check_by;
use crate::layers::gradient_check::random;
use crate::layers::{Attention, clamp_unit};
use crate::sampler::schedule::NoiseLevel;
use crate::sampler::{Diffusion, Item, Parameters, predict, sample};
use candle_core::{DType, Device, Result, Tensor};
use std::ops::ControlFlow;
use std::path::Path;

#[test]
fn every_layer_launches_what_computes_the_same_as_on_the_cpu() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let before = launches();
        let findings = check_by(&Device::Cpu, dtype, &|compute| emulate(compute));
        let failed: Vec<_> = findings.iter().filter(|finding| !finding.passed()).collect();
        assert!(failed.is_empty(), "{failed:#?}");
        assert!(launches() - before > findings.len(), "the layers were not emulated");
    }
}

#[test]
fn a_type_that_no_gpu_computes_in_is_refused() {
    let x = Tracked::from(Tensor::ones((2, 3), DType::F64, &Device::Cpu).unwrap());
    let message = emulate(|| clamp_unit(&x)).unwrap_err().to_string();
    assert!(message.contains("F64"), "{message}");
}

/// A gradient whose products with probabilities among a thousand keys would have few bits in f16.
#[test]
fn a_small_gradient_of_attention_among_many_keys_keeps_its_bits_in_half_precision() {
    let gradient = |dtype| -> Result<Tensor> {
        let tensor = |seed, scale: f64| (random(&[1, 1024, 16], seed).to_dtype(DType::F16)? * scale)?.to_dtype(dtype);
        // Large keys, so that the gradient of queries is no small number.
        let [q, k, v] = [tensor(1, 1.0 / 32.0)?, tensor(2, 32.0)?, tensor(3, 1.0)?];
        let q = Tracked::input(q);
        let y = Attention::new(1).forward(&q, &Tracked::from(k), &Tracked::from(v))?;
        gradients(y, tensor(4, 1e-4)?)?.reach(&q)?.to_dtype(DType::F32)
    };
    let expected = gradient(DType::F32).unwrap();
    let found = emulate(|| gradient(DType::F16)).unwrap();
    let off = norm(&(&found - &expected).unwrap()) / norm(&expected);
    assert!(off < 3e-3, "off by {off:e}");
}

/// A guided image of a small trained model.
struct Run {
    diffusion: Diffusion,
    encoder: Encoder,
    parameters: Parameters,
    item: Item,
}

impl Run {
    fn load(dtype: DType) -> Self {
        let case = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/reference/cases/small_s5"));
        let golden = candle_core::safetensors::load(case.join("trace.safetensors"), &Device::Cpu).unwrap();
        let inputs = candle_core::safetensors::load(case.join("inputs.safetensors"), &Device::Cpu).unwrap();
        let bundle = case.join("bundle");
        let diffusion = Diffusion::load(bundle.join("sd"), dtype, &Device::Cpu).unwrap();
        let encoder = Encoder::load(bundle.join("clip"), bundle.join("encoder"), DType::F32, &Device::Cpu).unwrap();
        let target = Objective { terms: vec![Term::mean("first", vec![0, 1, 2])] }.target(&encoder.head).unwrap();
        let (prompt_embeds, initial_latents) = (golden["prompt_embeds"].clone(), inputs["initial_latents"].clone());
        let item = Item { target, gamma: 130.0, prompt_embeds, initial_latents };
        Self { diffusion, encoder, parameters: Parameters { steps: 2, ..Parameters::default() }, item }
    }

    fn image(&self) -> Tensor {
        let items = std::slice::from_ref(&self.item);
        let run = |_: &crate::sampler::Step<'_>| Ok(ControlFlow::Continue(()));
        let mut samples = sample(&self.diffusion, &self.encoder.backbone, &self.parameters, items, run).unwrap();
        samples.remove(0).unwrap().image
    }

    fn gradient(&self) -> Tensor {
        let level = NoiseLevel { timestep: 599, alpha_bar: self.diffusion.schedule.alpha_bar(599) };
        let batch = self.diffusion.batch(std::slice::from_ref(&self.item)).unwrap();
        let latents = &self.item.initial_latents;
        let predicted = predict(&self.diffusion, &self.encoder.backbone, &self.parameters, &batch, latents, level);
        predicted.unwrap().guidance.unwrap().grad_latents
    }
}

fn norm(tensor: &Tensor) -> f64 {
    f64::from(tensor.sqr().unwrap().sum_all().unwrap().sqrt().unwrap().to_scalar::<f32>().unwrap())
}

#[test]
fn a_whole_guided_run_by_launches_gives_the_image_of_the_cpu() {
    let run = Run::load(DType::F32);
    let (expected, before) = (run.image(), launches());
    let found = emulate(|| run.image());
    assert!(launches() - before > 1000, "the networks were not emulated");
    let off = norm(&(&found - &expected).unwrap()) / norm(&expected);
    assert!(off < 1e-4, "the image is off by {off:e}");
}

#[test]
fn in_half_precision_guidance_by_launches_points_where_it_points_in_single_precision() {
    let expected = Run::load(DType::F32).gradient();
    let run = Run::load(DType::F16);
    let (cpu, found) = (run.gradient(), emulate(|| run.gradient()));
    let off = |gradient: &Tensor| norm(&(gradient - &expected).unwrap()) / norm(&expected);
    // Half precision itself costs what it costs on the CPU, where every layer rounds once.
    let (cpu, found) = (off(&cpu), off(&found));
    assert!(found < 0.05 && found < 3.0 * cpu.max(1e-3), "off by {found:e}, on the CPU by {cpu:e}");
}
