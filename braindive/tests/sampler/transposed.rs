//! Images that are not square: networks whose kernels are transposed see transposed images, so that every result must come out
//! transposed too. Height and width mixed up anywhere, forward or backward, would break this.

use crate::case::{Case, assert_close};
use braindive::encoder::Encoder;
use braindive::sampler::schedule::NoiseLevel;
use braindive::sampler::{Diffusion, Predicted, predict};
use candle_core::{DType, Device, Tensor};
use std::collections::HashMap;
use std::path::Path;

fn transposed(image: &Tensor) -> Tensor {
    let rank = image.rank();
    image.transpose(rank - 2, rank - 1).unwrap().contiguous().unwrap()
}

/// Copies a model folder, with all of its kernels and the positions of its patches transposed.
fn copy_transposed(from: &Path, to: &Path, weights: &str) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
    let mut tensors: HashMap<String, Tensor> =
        candle_core::safetensors::load(from.join(weights), &Device::Cpu).unwrap();
    for (key, tensor) in &mut tensors {
        if tensor.rank() == 4 {
            *tensor = transposed(tensor);
        } else if key == "visual.positional_embedding" {
            let (tokens, width) = tensor.dims2().unwrap();
            let side = (tokens - 1).isqrt();
            let patches = tensor.narrow(0, 1, tokens - 1).unwrap().reshape((side, side, width)).unwrap();
            let patches = patches.transpose(0, 1).unwrap().contiguous().unwrap().reshape((tokens - 1, width)).unwrap();
            *tensor = Tensor::cat(&[tensor.narrow(0, 0, 1).unwrap(), patches], 0).unwrap();
        }
    }
    std::fs::remove_file(to.join(weights)).unwrap();
    candle_core::safetensors::save(&tensors, to.join(weights)).unwrap();
}

#[test]
fn a_wide_image_is_the_transpose_of_a_tall_one_of_transposed_networks() {
    let case = Case::load("small_s5", DType::F64);
    let (bundle, folder) = (case.folder.join("bundle"), tempfile::tempdir().unwrap());
    let (sd, clip) = (folder.path().join("sd"), folder.path().join("clip"));
    for part in ["unet", "vae"] {
        let weights = "diffusion_pytorch_model.safetensors";
        copy_transposed(&bundle.join("sd").join(part), &sd.join(part), weights);
    }
    copy_transposed(&bundle.join("clip"), &clip, "open_clip_model.safetensors");
    std::fs::create_dir(sd.join("scheduler")).unwrap();
    let scheduler = "scheduler/scheduler_config.json";
    std::fs::copy(bundle.join("sd").join(scheduler), sd.join(scheduler)).unwrap();
    let tall_diffusion = Diffusion::load(sd, DType::F64, &Device::Cpu).unwrap();
    let tall_encoder = Encoder::load(clip, bundle.join("encoder"), DType::F64, &Device::Cpu).unwrap();

    let noise = case.item.initial_latents.to_dtype(DType::F64).unwrap();
    let wide_latents = Tensor::cat(&[&noise, &noise.narrow(3, 0, 8).unwrap()], 3).unwrap();
    assert_eq!(wide_latents.dims(), [1, 4, 16, 24]);
    let level = NoiseLevel { timestep: 599, alpha_bar: case.diffusion.schedule.alpha_bar(599) };
    let run = |diffusion: &Diffusion, encoder: &Encoder, latents: &Tensor| {
        let batch = diffusion.batch(std::slice::from_ref(&case.item)).unwrap();
        let Predicted { noise_pred, sag, guidance, attention, .. } =
            predict(diffusion, &encoder.backbone, &case.parameters, &batch, latents, level).unwrap();
        (noise_pred, attention.unwrap(), sag.unwrap(), guidance.unwrap())
    };
    let wide = run(&case.diffusion, &case.encoder, &wide_latents);
    let tall = run(&tall_diffusion, &tall_encoder, &transposed(&wide_latents));
    assert_eq!(((wide.1.height, wide.1.width), (tall.1.height, tall.1.width)), ((8, 12), (12, 8)));
    let blurred = wide.2.mask.sum_all().unwrap().to_scalar::<f64>().unwrap();
    assert!(0.0 < blurred && blurred < 96.0, "the mask is {blurred} of 96 pixels: nothing to tell apart");
    for (what, wide, tall) in [
        ("noise_pred", &wide.0, &tall.0),
        ("the mask", &wide.2.mask, &tall.2.mask),
        ("blurred", &wide.2.blurred, &tall.2.blurred),
        ("degraded_latents", &wide.2.degraded_latents, &tall.2.degraded_latents),
        ("degraded_pred", &wide.2.degraded_pred, &tall.2.degraded_pred),
        ("decoded_raw", &wide.3.decoded_raw, &tall.3.decoded_raw),
        ("clip_input", &wide.3.clip_input, &tall.3.clip_input),
        ("grad_latents", &wide.3.grad_latents, &tall.3.grad_latents),
    ] {
        assert_eq!(transposed(tall).dims(), wide.dims(), "{what}");
        assert_close(what, &transposed(tall), wide, 1e-11);
    }
    assert!((&wide.3.activation - &tall.3.activation).unwrap().to_vec1::<f64>().unwrap()[0].abs() < 1e-12);
}
