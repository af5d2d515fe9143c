//! UNet and decoder in half precision, as the paper ran, and in bfloat16: near the full-precision reference, with γ as the scale of the loss.

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

/// Steps of the miniature's run in `dtype` are off by no more than `noise` and `gradient`, relatively.
fn assert_near(dtype: DType, [noise_limit, gradient_limit]: [f64; 2]) {
    let mut case = Case::load("miniature", dtype);
    for i in [0, 20, 40] {
        let [noise, gradient] = distances(&mut case, i, 1.0);
        println!("step {i} in {dtype:?}: noise {noise:.1e}, gradient {gradient:.1e}");
        assert!(0.0 < noise && noise < noise_limit, "step {i}: noise is off by {noise:e}");
        assert!(gradient < gradient_limit, "step {i}: the gradient is off by {gradient:e}");
    }
}

#[test]
fn half_precision_predicts_noise_and_gradient_to_its_rounding() {
    assert_near(DType::F16, [5e-3, 5e-2]);
}

/// Eight bits of significand instead of eleven.
#[test]
fn bfloat16_predicts_noise_and_gradient_to_its_rounding() {
    assert_near(DType::BF16, [4e-2, 4e-1]);
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
    let mut bfloat = Case::load("miniature", DType::BF16);
    let [[_, scaled], [_, unscaled]] = [1.0, 1e-6].map(|factor| distances(&mut bfloat, 20, factor));
    assert!(unscaled < 2.0 * scaled, "bfloat16 has f32's range, but is off by {unscaled:e} instead of {scaled:e}");
}
