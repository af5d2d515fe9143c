//! UNet and decoder in half precision, as the paper ran: near the full-precision reference, with γ as the scale of the loss.

use crate::case::Case;
use braindive::sampler::schedule::NoiseLevel;
use candle_core::{DType, Tensor};

fn flat(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// |a − b| / |b|
fn relative(a: &Tensor, b: &Tensor) -> f64 {
    let (a, b) = (flat(a), flat(b));
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
    (square(&mut a.iter().zip(&b).map(|(a, b)| a - b)) / square(&mut b.iter().copied())).sqrt()
}

/// Prediction and gradient at step `i` of the miniature's run, with the objective's scale multiplied by `factor` and the gradient divided
/// by it again; relative distances from the reference.
fn distances(case: &mut Case, i: usize, factor: f64) -> [f64; 2] {
    case.item.gamma = case.meta.gamma * factor;
    let timestep = case.diffusion.schedule.timesteps(case.meta.steps).unwrap()[i];
    let level = NoiseLevel { timestep, alpha_bar: case.diffusion.schedule.alpha_bar(timestep) };
    let latents = case.golden_step("latents_in", i).unsqueeze(0).unwrap();
    let predicted = case.predict(&latents, level);
    let gradient = (predicted.guidance.unwrap().grad_latents / factor).unwrap();
    [
        relative(&predicted.noise_pred, &case.golden_step("noise_pred", i)),
        relative(&gradient, &case.golden_step("grad_latents", i)),
    ]
}

#[test]
fn half_precision_predicts_noise_and_gradient_to_its_rounding() {
    let mut case = Case::load("miniature", DType::F16);
    for i in [0, 20, 40] {
        let [noise, gradient] = distances(&mut case, i, 1.0);
        println!("step {i}: noise {noise:.1e}, gradient {gradient:.1e}");
        assert!(0.0 < noise && noise < 5e-3, "step {i}: noise is off by {noise:e}");
        assert!(gradient < 5e-2, "step {i}: the gradient is off by {gradient:e}");
    }
}

#[test]
fn a_loss_without_its_scale_loses_the_gradient_in_half_precision() {
    let mut case = Case::load("miniature", DType::F16);
    let [_, scaled] = distances(&mut case, 20, 1.0);
    let [_, unscaled] = distances(&mut case, 20, 1e-6);
    assert!(unscaled > 10.0 * scaled, "{unscaled:e} without the scale, {scaled:e} with it");
    let mut single = Case::load("miniature", DType::F32);
    let [_, exact] = distances(&mut single, 20, 1e-6);
    assert!(exact < 1e-4, "single precision needs no scale, but is off by {exact:e}");
}
