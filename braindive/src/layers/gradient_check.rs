//! Checks of gradients by central finite differences in f64.

use crate::gradient::{Tracked, gradients};
use candle_core::{DType, Device, Result, Tensor};

/// Values that look random, in -1..1, the same for the same `seed` (splitmix64).
pub(crate) fn random(shape: &[usize], seed: u64) -> Tensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    let values: Vec<f64> = (0..shape.iter().product()).map(|_| next()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// The largest absolute difference of two tensors of the same shape.
pub(crate) fn difference(a: &Tensor, b: &Tensor) -> f64 {
    let [a, b] = [a, b].map(|t| t.to_dtype(DType::F64).unwrap());
    assert_eq!(a.dims(), b.dims());
    let values = (a - b).unwrap().abs().unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
    values.into_iter().fold(0.0, |worst, value| if value <= worst { worst } else { value })
}

pub(crate) fn assert_close(a: &Tensor, b: &Tensor, tolerance: f64) {
    let found = difference(a, b);
    assert!(found <= tolerance, "differ by {found:e}, allowed {tolerance:e}");
}

/// The gradient of Σ w·f(x) with fixed pseudo-random w, by the layer's own backward.
pub(crate) fn gradient(x: &Tensor, f: &impl Fn(&Tracked) -> Result<Tracked>) -> (Tensor, Tensor) {
    let x = Tracked::input(x.clone());
    let y = f(&x).unwrap();
    let w = random(y.value().dims(), 99).to_dtype(y.value().dtype()).unwrap();
    (gradients(y, w.clone()).unwrap().reach(&x).unwrap(), w)
}

/// The directional derivatives of `f` at `x` along several directions agree with central differences to 1e-7, relative.
pub(crate) fn assert_gradient(x: &Tensor, f: impl Fn(&Tracked) -> Result<Tracked>) {
    let (grad, w) = gradient(x, &f);
    let value = |x: &Tensor| {
        let y = f(&x.into()).unwrap();
        (y.value() * &w).unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap()
    };
    for seed in 200..204 {
        let direction = random(x.dims(), seed);
        let exact = (&grad * &direction).unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap();
        let step = 1e-5;
        let ahead = value(&(x + (&direction * step).unwrap()).unwrap());
        let behind = value(&(x - (&direction * step).unwrap()).unwrap());
        let measured = (ahead - behind) / (2.0 * step);
        let scale = measured.abs().max(0.1);
        assert!((exact - measured).abs() <= 1e-7 * scale, "gradient {exact}, finite difference {measured}");
    }
}
