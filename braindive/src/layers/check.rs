//! Every kind of layer on a device, beside the same layer on the CPU: its value and its input gradient, on random numbers.

use super::{
    Activation, Attention, Conv2d, GroupNorm, LayerNorm, Linear, add, clamp_unit, gaussian_blur, geglu,
    resize_bilinear, resize_crop, upsample_nearest_2x,
};
use crate::gradient::{Tracked, gradients};
use crate::weights::Weights;
use candle_core::{DType, Device, Result, Tensor};

/// How a layer's results on a device differ from those on the CPU.
#[derive(Debug)]
pub struct Finding {
    pub layer: &'static str,
    pub dtype: DType,
    /// The largest difference of value and input gradient, relative to their largest element; or why there are none.
    pub deviation: Result<f64>,
    /// What rounding alone may cause.
    pub allowed: f64,
}

impl Finding {
    pub fn passed(&self) -> bool {
        // NaN is no small number.
        self.deviation.as_ref().is_ok_and(|&found| found <= self.allowed)
    }
}

/// Runs a layer of each kind on `device` in `dtype`, f32, f16 or bf16, and in f32 on the CPU.
pub fn check(device: &Device, dtype: DType) -> Vec<Finding> {
    check_by(device, dtype, &|compute| compute())
}

/// Value and input gradient of a layer.
type Results = Result<[Tensor; 2]>;

/// As [`check`], where `run` does what is to be computed on the device.
pub(super) fn check_by(device: &Device, dtype: DType, run: &dyn Fn(&dyn Fn() -> Results) -> Results) -> Vec<Finding> {
    let allowed = match dtype {
        // cuDNN may choose Winograd's F(4×4, 3×3). Sums in the shorter type of newer cards would be off by 1e-3.
        DType::F32 if device.is_cuda() => 3e-5,
        DType::F32 => 3e-6,
        DType::F16 => 6e-3,
        _ => 5e-2,
    };
    let deviation =
        |case: &Case| largest_deviation(&case.run(&Device::Cpu, DType::F32)?, &run(&|| case.run(device, dtype))?);
    let finding = |case: &Case| Finding { layer: case.name, dtype, deviation: deviation(case), allowed };
    CASES.iter().map(finding).collect()
}

type Layer = Box<dyn Fn(&Tracked) -> Result<Tracked>>;

struct Case {
    name: &'static str,
    input: &'static [usize],
    layer: fn(&Weights) -> crate::error::Result<Layer>,
}

impl Case {
    fn run(&self, device: &Device, dtype: DType) -> Results {
        let weights = Weights::random(7, dtype, device);
        let layer = (self.layer)(&weights).map_err(candle_core::Error::wrap)?;
        // Values that are the same in every type, of variance 1.
        let normal = |key: &str, shape: &[usize]| {
            let values =
                Weights::random(7, DType::BF16, &Device::Cpu).get(shape, key).map_err(candle_core::Error::wrap)?;
            let scale = (self.input.iter().skip(1).product::<usize>() as f64).sqrt();
            values.to_dtype(dtype)?.to_device(device)?.affine(scale, 0.0)
        };
        let x = Tracked::input(normal("x", self.input)?);
        let y = layer(&x)?;
        let value = y.value().clone();
        let cotangent = normal("cotangent", value.dims())?;
        Ok([value, gradients(y, cotangent)?.reach(&x)?])
    }
}

fn largest_deviation(expected: &[Tensor; 2], found: &[Tensor; 2]) -> Result<f64> {
    expected.iter().zip(found).try_fold(0.0, |worst, (expected, found)| {
        let found = deviation(expected, found)?;
        Ok(if found <= worst { worst } else { found })
    })
}

fn deviation(expected: &Tensor, found: &Tensor) -> Result<f64> {
    let [expected, found] = [expected, found].map(|tensor| tensor.to_device(&Device::Cpu)?.to_dtype(DType::F64));
    let (expected, found) = (expected?, found?);
    let largest = |tensor: &Tensor| {
        let values = tensor.flatten_all()?.to_vec1::<f64>()?;
        Ok::<_, candle_core::Error>(values.into_iter().map(f64::abs).fold(0.0, |a, b| if b <= a { a } else { b }))
    };
    Ok(largest(&(&expected - found)?)? / largest(&expected)?.max(1e-3))
}

/// Of one tensor alone, with a gradient of zero: for what has none.
fn constant(function: impl Fn(&Tensor) -> Result<Tensor>) -> impl Fn(&Tracked) -> Result<Tracked> {
    move |x| x.affine(0.0, 0.0)?.broadcast_add(&function(x.value())?)
}

/// Self-attention, or with `keys` the attention to other tokens.
fn attention(heads: usize, keys: Option<[usize; 3]>, weights: &Weights) -> crate::error::Result<Layer> {
    let others = keys.map(|shape| Ok::<_, crate::Error>([weights.get(&shape, "k")?, weights.get(&shape, "v")?]));
    let others = others.transpose()?.map(|others| others.map(Tracked::from));
    Ok(Box::new(move |x| match &others {
        Some([k, v]) => Attention::new(heads).forward(x, k, v),
        None => Attention::new(heads).forward(x, x, x),
    }))
}

fn convolution(
    inputs: usize,
    outputs: usize,
    kernel: usize,
    stride: usize,
    weights: &Weights,
) -> crate::error::Result<Layer> {
    let layer = Conv2d::load(inputs, outputs, kernel, weights)?.with_stride(stride);
    Ok(Box::new(move |x| layer.forward(x)))
}

fn group_norm(channels: usize, silu: bool, weights: &Weights) -> crate::error::Result<Layer> {
    let norm = GroupNorm::load(2, channels, 1e-5, weights)?;
    Ok(Box::new(move |x| if silu { norm.forward_silu(x) } else { norm.forward(x) }))
}

/// Sizes that no kernel's blocks divide, and at which long rows fall into pieces.
const CASES: &[Case] = &[
    Case { name: "convolution 3×3", input: &[2, 17, 20, 33], layer: |w| convolution(17, 6, 3, 1, w) },
    Case { name: "convolution 3×3, wide", input: &[2, 64, 16, 16], layer: |w| convolution(64, 64, 3, 1, w) },
    Case { name: "convolution 3×3, stride 2", input: &[2, 4, 8, 10], layer: |w| convolution(4, 6, 3, 2, w) },
    Case { name: "convolution 3×3, stride 2, odd", input: &[2, 4, 7, 5], layer: |w| convolution(4, 6, 3, 2, w) },
    Case { name: "convolution 1×1", input: &[2, 35, 5, 4], layer: |w| convolution(35, 6, 1, 1, w) },
    Case {
        name: "patches",
        input: &[2, 3, 12, 8],
        layer: |w| {
            let layer = Conv2d::load_patches(3, 8, 4, w)?;
            Ok(Box::new(move |x| layer.forward(x)))
        },
    },
    Case {
        name: "linear",
        input: &[2, 70, 37],
        layer: |w| {
            let layer = Linear::load(37, 19, w)?;
            Ok(Box::new(move |x| layer.forward(x)))
        },
    },
    Case {
        name: "linear without bias",
        input: &[2, 37],
        layer: |w| {
            let layer = Linear::load_without_bias(37, 64, w)?;
            Ok(Box::new(move |x| layer.forward(x)))
        },
    },
    Case { name: "group norm", input: &[2, 12, 5, 5], layer: |w| group_norm(12, false, w) },
    Case { name: "group norm + SiLU", input: &[2, 12, 5, 5], layer: |w| group_norm(12, true, w) },
    Case { name: "group norm, long rows", input: &[2, 4, 100, 100], layer: |w| group_norm(4, false, w) },
    Case { name: "group norm + SiLU, long rows", input: &[2, 4, 100, 100], layer: |w| group_norm(4, true, w) },
    Case {
        name: "layer norm",
        input: &[2, 9, 33],
        layer: |w| {
            let norm = LayerNorm::load(33, 1e-5, w)?;
            Ok(Box::new(move |x| norm.forward(x)))
        },
    },
    Case { name: "attention, heads of 4", input: &[2, 33, 12], layer: |w| attention(3, None, w) },
    Case { name: "attention, one head", input: &[1, 40, 128], layer: |w| attention(1, None, w) },
    Case { name: "attention, heads of 64", input: &[2, 70, 128], layer: |w| attention(2, None, w) },
    Case { name: "attention to a prompt", input: &[2, 65, 128], layer: |w| attention(2, Some([2, 77, 128]), w) },
    Case {
        name: "attention, masked",
        input: &[2, 6, 8],
        layer: |w| {
            let attention = Attention::new(2).with_mask(&w.get(&[6, 6], "mask")?)?;
            Ok(Box::new(move |x| attention.forward(x, x, x)))
        },
    },
    Case {
        name: "attention's probabilities",
        input: &[2, 12, 12],
        layer: |_| Ok(Box::new(constant(|x| Attention::new(1).probabilities(x, x)?.squeeze(1)))),
    },
    Case { name: "SiLU", input: &[3, 101], layer: |_| Ok(Box::new(|x| Activation::Silu.forward(x))) },
    Case { name: "GELU", input: &[3, 101], layer: |_| Ok(Box::new(|x| Activation::Gelu.forward(x))) },
    Case { name: "quick GELU", input: &[3, 101], layer: |_| Ok(Box::new(|x| Activation::QuickGelu.forward(x))) },
    Case { name: "GEGLU", input: &[3, 7, 20], layer: |_| Ok(Box::new(geglu)) },
    Case { name: "clamp", input: &[3, 101], layer: |_| Ok(Box::new(clamp_unit)) },
    Case { name: "sum", input: &[2, 3, 4, 5], layer: |_| Ok(Box::new(|x| x.add(x))) },
    Case {
        name: "shift of channels",
        input: &[2, 3, 4, 5],
        layer: |w| {
            let shift = w.get(&[1, 3, 1, 1], "shift")?;
            Ok(Box::new(move |x| x.broadcast_add(&shift)))
        },
    },
    Case {
        name: "shift of tokens",
        input: &[2, 4, 5],
        layer: |w| {
            let shift = w.get(&[4, 5], "shift")?;
            Ok(Box::new(constant(move |x| add(x, &shift))))
        },
    },
    Case { name: "transposition", input: &[2, 40, 5, 9], layer: |_| Ok(Box::new(Tracked::to_tokens)) },
    Case { name: "upsampling ×2", input: &[2, 3, 4, 5], layer: |_| Ok(Box::new(upsample_nearest_2x)) },
    Case { name: "resizing, smaller", input: &[2, 3, 32, 30], layer: |_| Ok(Box::new(|x| resize_bilinear(x, 14, 24))) },
    Case { name: "resizing, larger", input: &[2, 3, 3, 7], layer: |_| Ok(Box::new(|x| resize_bilinear(x, 10, 9))) },
    Case { name: "resizing, antialiased", input: &[2, 3, 9, 12], layer: |_| Ok(Box::new(|x| resize_crop(x, 8, 6))) },
    Case { name: "Gaussian blur", input: &[2, 3, 9, 6], layer: |_| Ok(Box::new(constant(gaussian_blur))) },
];
