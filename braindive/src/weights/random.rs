//! Weights without a file: every tensor that is asked for, of the shape it is asked for, for measurements at real sizes.

use super::convert::fill;
use candle_core::{DType, Result, Tensor, bail};
use half::{bf16, f16};
use subject::random::{GOLDEN, mix};

/// The tensor `key`, the same for the same seed, key and shape whatever else is asked for. Activations stay finite through any
/// depth: matrices and kernels are uniform with variance 1/(inputs), scales of norms lie near 1, all other vectors near 0.
pub(super) fn tensor(seed: u64, key: &str, shape: &[usize], dtype: DType) -> Result<Tensor> {
    let stream = key.bytes().fold(mix(seed), |state, byte| mix(state ^ u64::from(byte)));
    let inputs: usize = shape.iter().skip(1).product();
    let (middle, reach) = match shape {
        [_] if key.ends_with("weight") => (1.0, 0.1),
        [_] => (0.0, 0.1),
        // A uniform variable in −a..a has the variance a²/3.
        _ => (0.0, (3.0 / inputs.max(1) as f32).sqrt()),
    };
    let value = move |i: usize| {
        let bits = mix(stream.wrapping_add((i as u64).wrapping_mul(GOLDEN))) >> 40;
        middle + reach * (bits as f32 * (2.0 / (1 << 24) as f32) - 1.0)
    };
    match dtype {
        DType::F16 => each(shape, |i| f16::from_f32(value(i))),
        DType::BF16 => each(shape, |i| bf16::from_f32(value(i))),
        DType::F32 => each(shape, value),
        DType::F64 => each(shape, |i| f64::from(value(i))),
        other => bail!("random weights of type {other:?} cannot be made"),
    }
}

fn each<T: candle_core::WithDType>(shape: &[usize], value: impl Fn(usize) -> T + Sync) -> Result<Tensor> {
    fill(shape, |first, run| run.iter_mut().enumerate().for_each(|(i, to)| *to = value(first + i)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(seed: u64, key: &str, shape: &[usize]) -> Vec<f32> {
        tensor(seed, key, shape, DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn a_kernels_variance_is_one_over_its_inputs_and_a_norms_scale_is_near_one() {
        let kernel = values(0, "conv.weight", &[200, 40, 3, 3]);
        let mean = kernel.iter().sum::<f32>() / kernel.len() as f32;
        let variance = kernel.iter().map(|v| v * v).sum::<f32>() / kernel.len() as f32 * 360.0;
        assert!(mean.abs() < 1e-3 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
        assert!(values(0, "norm.weight", &[1000]).iter().all(|v| (0.9..=1.1).contains(v)));
        assert!(values(0, "norm.bias", &[1000]).iter().all(|v| v.abs() <= 0.1));
    }

    #[test]
    fn a_tensor_is_a_function_of_seed_and_key_alone() {
        let first = values(1, "a.weight", &[300, 300]);
        assert_eq!(first, values(1, "a.weight", &[300, 300]));
        assert_ne!(first, values(2, "a.weight", &[300, 300]));
        assert_ne!(first, values(1, "b.weight", &[300, 300]));
        let half = tensor(1, "a.weight", &[300, 300], DType::F16).unwrap().to_dtype(DType::F32).unwrap();
        let half: Vec<f32> = half.flatten_all().unwrap().to_vec1().unwrap();
        assert!(half.iter().zip(&first).all(|(half, single)| (half - single).abs() <= 1e-3 * single.abs().max(0.01)));
    }
}
