//! Batches that mix seeds, regions, scales and prompts, and networks that keep less for the gradient: neither changes a result.

use crate::case::{Case, assert_close, difference};
use braindive::encoder::{Objective, Term};
use braindive::error::Error;
use braindive::gradient::{Keep, Tracked, gradients};
use braindive::sampler::schedule::NoiseLevel;
use braindive::sampler::{Footprint, Item, Memory, Sample, predict, sample};
use candle_core::{DType, Tensor};
use std::ops::ControlFlow;

/// Images of other starting noise, regions, scales and prompts than the case's.
fn mixed(case: &Case) -> Vec<Item> {
    let with = |item: Item, voxels: &[usize], weight: f64| {
        let term = Term { weight, ..Term::mean("another", voxels.to_vec()) };
        Item { target: Objective { terms: vec![term] }.target(&case.encoder.head).unwrap(), ..item }
    };
    let item = &case.item;
    let flipped = |t: &Tensor| t.flip(&[t.rank() - 1]).unwrap().contiguous().unwrap();
    vec![
        item.clone(),
        with(Item { initial_latents: flipped(&item.initial_latents), ..item.clone() }, &[1, 5], 1.0),
        with(Item { gamma: 40.0, ..item.clone() }, &[0], -2.0),
        Item { gamma: 0.0, ..item.clone() },
        Item { prompt_embeds: flipped(&item.prompt_embeds), ..item.clone() },
    ]
}

fn run(case: &Case, items: &[Item]) -> Vec<Result<Sample, Error>> {
    let backbone = &case.encoder.backbone;
    sample(&case.diffusion, backbone, &case.parameters, items, |_| Ok(ControlFlow::Continue(()))).unwrap()
}

#[test]
fn a_batch_gives_what_its_images_give_alone() {
    let case = Case::load("small_s5", DType::F32);
    let items = mixed(&case);
    let together: Vec<Sample> = run(&case, &items).into_iter().map(Result::unwrap).collect();
    for (i, (item, batched)) in items.iter().zip(&together).enumerate() {
        let alone = run(&case, std::slice::from_ref(item)).remove(0).unwrap();
        assert_close(&format!("latents of image {i}"), &batched.latents, &alone.latents, 0.0);
        assert_close(&format!("image {i}"), &batched.image, &alone.image, 0.0);
        let others = together.iter().enumerate().filter(|(j, _)| *j != i);
        let nearest = others.map(|(_, other)| difference(&other.latents, &alone.latents)).fold(f64::MAX, f64::min);
        assert!(nearest > 1e-2, "image {i} is not told apart from another by {nearest:e}");
    }
}

#[test]
fn an_image_that_is_not_finite_fails_alone() {
    let case = Case::load("small_s5", DType::F32);
    let mut items = vec![case.item.clone(); 2];
    items[0].initial_latents = (&items[0].initial_latents * f64::NAN).unwrap();
    let mut results = run(&case, &items);
    let alone = run(&case, &items[1..]).remove(0).unwrap();
    assert_close("the other image", &results.remove(1).unwrap().image, &alone.image, 0.0);
    assert!(matches!(results.remove(0), Err(Error::NonFinite { step: 0, what: "latents" })));
}

#[test]
fn what_the_networks_keep_does_not_change_the_gradient() {
    let mut case = Case::load("deep_s10", DType::F32);
    let level = NoiseLevel { timestep: 599, alpha_bar: case.diffusion.schedule.alpha_bar(599) };
    let items = vec![case.item.clone(); 2];
    let latents =
        Tensor::cat(&[&case.item.initial_latents, &case.golden["step.latents_in"].narrow(0, 4, 1).unwrap()], 0);
    let latents = latents.unwrap();
    let mut gradient = |unet, vae| {
        case.parameters.memory = Memory { unet, vae };
        let backbone = &case.encoder.backbone;
        let batch = case.diffusion.batch(&items).unwrap();
        let predicted = predict(&case.diffusion, backbone, &case.parameters, &batch, &latents, level).unwrap();
        predicted.guidance.unwrap().grad_latents
    };
    let everything = gradient(Keep::Activations, Keep::Activations);
    for (unet, vae) in [(Keep::BlockInputs, Keep::Activations), (Keep::BlockInputs, Keep::BlockInputs)] {
        assert_close("the gradient", &gradient(unet, vae), &everything, 2e-6);
    }
}

#[test]
fn keeping_block_inputs_only_keeps_less() {
    let case = Case::load("deep_s10", DType::F32);
    let level = NoiseLevel { timestep: 599, alpha_bar: case.diffusion.schedule.alpha_bar(599) };
    let latents = Tracked::input(case.item.initial_latents.clone());
    let unet = |keep| {
        let prompt = &case.item.prompt_embeds;
        case.diffusion.predict_noise(&latents, level, prompt, keep, false).unwrap().0.kept_bytes()
    };
    let vae = |keep| case.diffusion.decode_raw(&latents, keep).unwrap().kept_bytes();
    for kept in [&unet as &dyn Fn(Keep) -> usize, &vae] {
        let (everything, inputs) = (kept(Keep::Activations), kept(Keep::BlockInputs));
        assert!(0 < inputs && 3 * inputs < 2 * everything, "{inputs} of {everything} bytes");
    }
}

#[test]
fn decoding_without_a_gradient_keeps_nothing() {
    let case = Case::load("small_s5", DType::F32);
    let decoded = case.diffusion.decode_raw(&Tracked::from(&case.item.initial_latents), Keep::Activations).unwrap();
    let cotangent = decoded.value().ones_like().unwrap();
    assert_eq!(decoded.kept_bytes(), 0);
    assert!(gradients(decoded, cotangent).unwrap().reach(&Tracked::from(&case.item.initial_latents)).is_err());
}

#[test]
fn memory_that_is_counted_on_the_smallest_latents_is_right_for_larger_ones() {
    let case = Case::load("deep_s10", DType::F32);
    let level = NoiseLevel { timestep: 599, alpha_bar: case.diffusion.schedule.alpha_bar(599) };
    let footprint = Footprint::count(&case.diffusion, &case.encoder.backbone).unwrap();
    for (images, width) in [(1, 16), (3, 24)] {
        let latents = Tensor::zeros((images, 4, 16, width), DType::F32, &case.diffusion.device).unwrap();
        let prompt =
            Tensor::zeros((1, 77, case.diffusion.unet.config.cross_attention_dim), DType::F32, latents.device());
        let prompt = prompt.unwrap();
        for memory in Memory::CHOICES {
            let input = Tracked::input(latents.clone());
            let (noise, _) = case.diffusion.predict_noise(&input, level, &prompt, memory.unet, false).unwrap();
            let decoded = case.diffusion.decode_raw(&input, memory.vae).unwrap();
            let kept = [noise.kept_bytes() as u64, decoded.kept_bytes() as u64];
            assert_eq!(footprint.kept(memory, images, 16 * width), kept, "{images} images {width} wide, {memory:?}");
        }
    }
}

#[test]
fn the_fastest_choice_within_a_limit_is_taken() {
    let case = Case::load("deep_s10", DType::F32);
    let footprint = Footprint::count(&case.diffusion, &case.encoder.backbone).unwrap();
    let peaks = Memory::CHOICES.map(|memory| footprint.peak(memory, 1, 256));
    assert!(peaks[0] > footprint.weights && peaks[2] < peaks[0], "{peaks:?}");
    assert_eq!(footprint.fit(peaks[0], 1, 256).unwrap(), Memory::CHOICES[0]);
    assert_ne!(footprint.fit(peaks[0] - 1, 1, 256).unwrap(), Memory::CHOICES[0]);
    let message = footprint.fit(footprint.weights, 1, 256).unwrap_err().to_string();
    assert!(message.contains(&format!("{} are allowed", footprint.weights)), "{message}");
    assert!(footprint.fit(peaks[0], 2, 256).is_err() || footprint.peak(Memory::CHOICES[2], 2, 256) <= peaks[0]);
}
