//! What single layers cost at the shapes of Stable Diffusion 2.1 (UNet and VAE decoder at 512 pixels) and ViT-B/16:
//! `cargo bench -p braindive --bench layers [-- PART…]`.
//!
//! Prints one JSON object: for every layer (or those whose name contains one of the arguments), forward and input gradient,
//! the median wall-clock seconds, the mean CPU seconds (user and system, all threads), and the arithmetic of the direct method
//! (two operations per multiplication) per CPU second, 10⁹/s.
#![allow(clippy::unwrap_used)]

mod measure;

use braindive::gradient::{Tracked, gradients};
use braindive::layers::{Conv2d, Linear};
use braindive::{Device, Tensor};
use measure::{Measured, Wanted, measure};
use serde_json::{Map, Value, json};

/// (inputs, outputs, kernel, stride, side of the input)
const CONVOLUTIONS: [[usize; 5]; 26] = [
    [4, 320, 3, 1, 64],
    [320, 320, 3, 1, 64],
    [640, 320, 3, 1, 64],
    [960, 320, 3, 1, 64],
    [320, 4, 3, 1, 64],
    [960, 320, 1, 1, 64],
    [320, 320, 3, 2, 64],
    [640, 640, 3, 1, 64],
    [640, 640, 3, 1, 32],
    [1280, 640, 3, 1, 32],
    [1920, 640, 3, 1, 32],
    [640, 640, 3, 2, 32],
    [1280, 1280, 3, 1, 32],
    [1280, 1280, 3, 1, 16],
    [2560, 1280, 3, 1, 16],
    [1280, 1280, 3, 2, 16],
    [1280, 1280, 3, 1, 8],
    [2560, 1280, 3, 1, 8],
    [4, 512, 3, 1, 64],
    [512, 512, 3, 1, 64],
    [512, 512, 3, 1, 128],
    [512, 512, 3, 1, 256],
    [512, 256, 3, 1, 256],
    [256, 256, 3, 1, 512],
    [128, 128, 3, 1, 512],
    [128, 3, 3, 1, 512],
];

/// (rows, inputs, outputs)
const LINEARS: [[usize; 3]; 12] = [
    [4096, 320, 320],
    [4096, 320, 2560],
    [4096, 1280, 320],
    [1024, 640, 640],
    [1024, 640, 5120],
    [1024, 2560, 640],
    [256, 1280, 10240],
    [64, 1280, 1280],
    [77, 1024, 320],
    [1, 1280, 1280],
    [4096, 512, 512],
    [197, 768, 3072],
];

/// Seconds, and `operations` per CPU second.
fn rate<R>(operations: f64, part: impl Fn() -> R) -> Value {
    let Measured { seconds, cpu_seconds } = measure(part);
    let rate = cpu_seconds.map(|cpu_seconds| operations / cpu_seconds / 1e9);
    json!({ "seconds": seconds, "cpu_seconds": cpu_seconds, "gflop_per_cpu_second": rate })
}

/// What was measured, by layer.
struct Report {
    wanted: Wanted,
    layers: Map<String, Value>,
}

impl Report {
    /// `operations`: those of the forward pass by the direct method.
    fn measure(&mut self, name: String, operations: f64, x: &Tensor, layer: impl Fn(&Tracked) -> Tracked) {
        let forward = rate(operations, || layer(&x.into()));
        let y = layer(&Tracked::input(x.clone()));
        let grad = random(y.value().dims());
        let gradient = rate(operations, || gradients(y.clone(), grad.clone()).unwrap());
        self.layers.insert(name, json!({ "forward": forward, "input gradient": gradient }));
    }
}

fn random(shape: &[usize]) -> Tensor {
    Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()
}

fn main() {
    let mut report = Report { wanted: Wanted::from_arguments(), layers: Map::new() };
    for [inputs, outputs, kernel, stride, side] in CONVOLUTIONS {
        let name = format!("{kernel}x{kernel} convolution {inputs} to {outputs} at {side}x{side}, stride {stride}");
        if report.wanted.contains(&name) {
            let (weight, bias) = (random(&[outputs, inputs, kernel, kernel]), random(&[outputs]));
            let layer = Conv2d::new(&weight, Some(&bias), stride, kernel / 2).unwrap();
            let operations = 2 * inputs * outputs * (kernel * side / stride).pow(2);
            let x = random(&[1, inputs, side, side]);
            report.measure(name, operations as f64, &x, |x| layer.forward(x).unwrap());
        }
    }
    let name = "patch embedding of ViT-B/16";
    if report.wanted.contains(name) {
        let layer = Conv2d::new(&random(&[768, 3, 16, 16]), None, 16, 0).unwrap();
        let operations = 2 * 3 * 768 * 224 * 224;
        report.measure(name.to_owned(), operations as f64, &random(&[1, 3, 224, 224]), |x| layer.forward(x).unwrap());
    }
    for [rows, inputs, outputs] in LINEARS {
        let name = format!("linear {inputs} to {outputs}, {rows} rows");
        if report.wanted.contains(&name) {
            let layer = Linear::new(&random(&[outputs, inputs]), Some(&random(&[outputs]))).unwrap();
            let operations = 2 * rows * inputs * outputs;
            let x = random(&[1, rows, inputs]);
            report.measure(name, operations as f64, &x, |x| layer.forward(x).unwrap());
        }
    }
    println!("{}", serde_json::to_string_pretty(&Value::Object(report.layers)).unwrap());
}
