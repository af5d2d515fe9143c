//! What PyTorch's CPU generator draws for a training run: a linear layer's first weights, and the order of an epoch.

use crate::sampler::noise::torch_cpu::Mt19937;

/// The order in which an epoch of the paper's trainer sees `images` images: `torch.randperm` of a generator with this seed, as
/// `DistributedSampler` draws it on one device; its seed is 0 + the epoch's number.
pub fn shuffled(images: usize, seed: u32) -> Vec<usize> {
    let mut generator = Mt19937::new(seed);
    let mut order: Vec<usize> = (0..images).collect();
    for i in 0..images.saturating_sub(1) {
        order.swap(i, i + generator.next() as usize % (images - i));
    }
    order
}

/// Weight [voxels, features] and bias [voxels] of `torch.nn.Linear` after `torch.manual_seed(seed)`: uniform within
/// ±1/√features. The weight is then multiplied by `scale`, the bias is not.
pub fn linear(features: usize, voxels: usize, seed: u32, scale: f32) -> [Vec<f32>; 2] {
    let mut generator = Mt19937::new(seed);
    let bound = (1.0 / (features as f64).sqrt()) as f32;
    let mut draw = |_| {
        let uniform = (generator.next() & 0xff_ffff) as f32 / (1 << 24) as f32;
        uniform.mul_add(2.0 * bound, -bound)
    };
    let weight: Vec<f32> = (0..voxels * features).map(&mut draw).collect();
    let bias = (0..voxels).map(draw).collect();
    [weight.into_iter().map(|weight| weight * scale).collect(), bias]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn golden() -> Value {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/reference/encoder/fit.json");
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    #[test]
    fn epochs_have_the_order_that_pytorch_gives_them() {
        let golden = golden();
        for case in golden["orders"].as_array().unwrap() {
            let order = shuffled(case["n"].as_u64().unwrap() as usize, case["seed"].as_u64().unwrap() as u32);
            assert_eq!(serde_json::json!(order), case["order"]);
        }
        let long = shuffled(9093, 1);
        assert_eq!(serde_json::json!(long[..8]), golden["long"]["first"]);
        assert_eq!(serde_json::json!(long[9085..]), golden["long"]["last"]);
    }

    #[test]
    fn a_seed_names_the_first_weights_that_pytorch_gives_them() {
        for case in golden()["linear"].as_array().unwrap() {
            let number = |key: &str| case[key].as_u64().unwrap() as usize;
            let [weight, bias] = linear(number("features"), number("voxels"), number("seed") as u32, 0.5);
            let at: Vec<usize> =
                case["at"].as_array().unwrap().iter().map(|at| at.as_u64().unwrap() as usize).collect();
            for (at, expected) in at.iter().zip(case["weight"].as_array().unwrap()) {
                assert_eq!(weight[*at], expected.as_f64().unwrap() as f32);
            }
            for (bias, expected) in bias.iter().zip(case["bias"].as_array().unwrap()) {
                assert_eq!(*bias, expected.as_f64().unwrap() as f32);
            }
            let sum: f64 = weight.iter().map(|&weight| f64::from(weight)).sum();
            assert!((sum - case["weight_sum"].as_f64().unwrap()).abs() < 1e-9);
        }
    }
}
