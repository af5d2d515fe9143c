//! What attention, norms, activations and resampling cost at the sizes of SD 2.1 at 512×512 pixels:
//! `cargo bench -p braindive --bench elementwise [-- PART…]`.
//!
//! Prints one JSON object: for every part (or those whose name contains one of the arguments), forward alone and forward
//! with backward: median wall-clock seconds, mean CPU seconds of all threads, and what the part does per wall-clock second:
//! GFLOP of matrix products in attention, else GB of elements read and written if each tensor were touched once.
#![allow(clippy::unwrap_used)]

mod measure;

use braindive::gradient::{Tracked, gradients};
use braindive::layers::{
    Activation, Attention, GroupNorm, LayerNorm, clamp_unit, gaussian_blur, geglu, resize_bilinear, upsample_nearest_2x,
};
use braindive::weights::Weights;
use braindive::{DType, Device};
use candle_core::{Result, Tensor};
use measure::{Measured, Wanted, measure};
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// What was measured, by part.
struct Report {
    wanted: Wanted,
    parts: Map<String, Value>,
}

impl Report {
    /// `amount`: operations, or bytes, of one run.
    fn measure<R>(&mut self, name: &str, unit: &str, amount: f64, part: impl Fn() -> R) {
        let Measured { seconds, cpu_seconds } = measure(part);
        let part = json!({ "seconds": seconds, "cpu_seconds": cpu_seconds, unit: amount / seconds / 1e9 });
        eprintln!("{name}: {part}");
        self.parts.insert(name.to_owned(), part);
    }

    /// A layer of one input that writes `written` elements.
    fn layer(&mut self, name: &str, x: &[usize], written: usize, layer: impl Fn(&Tracked) -> Result<Tracked>) {
        if !self.wanted.contains(name) {
            return;
        }
        let x = Tracked::input(random(x));
        let constant = Tracked::constant(x.value().clone());
        let bytes = 4.0 * (x.value().elem_count() + written) as f64;
        self.measure(&format!("{name}, forward"), "GB/s", bytes, || layer(&constant).unwrap());
        let cotangent = random(layer(&constant).unwrap().value().dims());
        let bytes = 2.0 * bytes + 4.0 * x.value().elem_count() as f64;
        self.measure(&format!("{name}, forward and backward"), "GB/s", bytes, || {
            gradients(layer(&x).unwrap(), cotangent.clone()).unwrap()
        });
    }

    fn attention(&mut self, name: &str, heads: usize, [queries, keys, size]: [usize; 3]) {
        let name = &format!("attention, {name}");
        if !self.wanted.contains(name) {
            return;
        }
        let [q, k, v, cotangent] = [queries, keys, keys, queries].map(|n| random(&[1, n, heads * size]));
        let (attention, flop) = (Attention::new(heads), (4 * heads * queries * keys * size) as f64);
        let [cq, ck, cv] = [&q, &k, &v].map(Tracked::from);
        self.measure(&format!("{name}, forward"), "GFLOP/s", flop, || attention.forward(&cq, &ck, &cv).unwrap());
        let [q, k, v] = [q, k, v].map(Tracked::input);
        self.measure(&format!("{name}, forward and backward"), "GFLOP/s", 3.5 * flop, || {
            gradients(attention.forward(&q, &k, &v).unwrap(), cotangent.clone()).unwrap()
        });
    }
}

/// Values in −2..2.
fn random(shape: &[usize]) -> Tensor {
    let mut state = 1u32;
    let values = (0..shape.iter().product()).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 22) as f32 - 2.0
    });
    Tensor::from_vec(values.collect(), shape, &Device::Cpu).unwrap()
}

fn main() {
    let mut report = Report { wanted: Wanted::from_arguments(), parts: Map::new() };

    report.attention("UNet self 64x64", 5, [4096, 4096, 64]);
    report.attention("UNet self 32x32", 10, [1024, 1024, 64]);
    report.attention("UNet cross 64x64", 5, [4096, 77, 64]);
    report.attention("VAE 64x64", 1, [4096, 4096, 512]);
    report.attention("ViT-B/16", 12, [197, 197, 64]);

    let folder = tempfile::tempdir().unwrap();
    let weights = |channels: usize| {
        let path = folder.path().join(format!("{channels}.safetensors"));
        let affine = ["weight", "bias"].map(|name| (name.to_owned(), random(&[channels])));
        candle_core::safetensors::save(&HashMap::from(affine), &path).unwrap();
        Weights::open(path, DType::F32, &Device::Cpu).unwrap()
    };
    for (name, channels, side) in [
        ("UNet 320 64x64", 320, 64),
        ("UNet 1280 8x8", 1280, 8),
        ("VAE 512 256x256", 512, 256),
        ("VAE 128 512x512", 128, 512),
    ] {
        let norm = GroupNorm::load(32, channels, 1e-6, &weights(channels)).unwrap();
        let shape = [1, channels, side, side];
        let elements = channels * side * side;
        report.layer(&format!("group norm, {name}"), &shape, elements, |x| norm.forward(x));
        report.layer(&format!("group norm and SiLU, {name}"), &shape, elements, |x| norm.forward_silu(x));
    }
    let norm = LayerNorm::load(320, 1e-5, &weights(320)).unwrap();
    report.layer("layer norm, 4096x320", &[1, 4096, 320], 4096 * 320, |x| norm.forward(x));

    report.layer("GEGLU, 4096x2560", &[1, 4096, 2560], 4096 * 1280, geglu);
    const MANY: usize = 10_000_000;
    for activation in [Activation::Silu, Activation::Gelu] {
        report.layer(&format!("{activation:?}, 10 M"), &[MANY], MANY, |x| activation.forward(x));
    }
    report.layer("clamp, 10 M", &[MANY], MANY, clamp_unit);
    report.layer("nearest upsampling, VAE 512 128x128", &[1, 512, 128, 128], 4 << 23, upsample_nearest_2x);
    report.layer("bilinear resizing, 512 to 224", &[1, 3, 512, 512], 3 * 224 * 224, |x| resize_bilinear(x, 224, 224));
    let latents = random(&[1, 4, 64, 64]);
    if report.wanted.contains("blur") {
        report.measure("blur, 4x64x64", "GB/s", 8.0 * 16384.0, || gaussian_blur(&latents).unwrap());
    }

    println!("{}", serde_json::to_string_pretty(&Value::Object(report.parts)).unwrap());
}
