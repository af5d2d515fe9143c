//! How fast weights load: a file of 1 GiB, from the page cache, to each type that computes. `cargo bench -p braindive --bench weights`
#![allow(clippy::unwrap_used)]

use braindive::weights::Weights;
use candle_core::{DType, Device, Tensor};
use std::collections::HashMap;
use std::time::Instant;

const BYTES: usize = 1 << 30;
/// As many tensors of one size as a file has; a layer of the UNet has about this many bytes.
const TENSORS: usize = 64;

fn main() {
    let folder = tempfile::tempdir().unwrap();
    for stored in [DType::F16, DType::F32] {
        let path = folder.path().join("model.safetensors");
        let elements = BYTES / TENSORS / stored.size_in_bytes();
        let weight = Tensor::randn(0f32, 1.0, elements, &Device::Cpu).unwrap().to_dtype(stored).unwrap();
        let tensors: HashMap<String, Tensor> = (0..TENSORS).map(|i| (i.to_string(), weight.clone())).collect();
        candle_core::safetensors::save(&tensors, &path).unwrap();
        drop(tensors);
        for computed in [DType::F16, DType::F32] {
            let seconds = (0..3).map(|_| {
                let start = Instant::now();
                let weights = Weights::open(&path, computed, &Device::Cpu).unwrap();
                let model: Vec<Tensor> =
                    (0..TENSORS).map(|i| weights.get(&[elements], &i.to_string()).unwrap()).collect();
                let seconds = start.elapsed().as_secs_f64();
                assert_eq!(model.len(), TENSORS);
                seconds
            });
            let best = seconds.fold(f64::INFINITY, f64::min);
            println!("{stored:?} to {computed:?}: {:.2} GB/s of file, {best:.2} s", BYTES as f64 / 1e9 / best);
        }
    }
    let start = Instant::now();
    let random = Weights::random(0, DType::F32, &Device::Cpu);
    let made: Vec<Tensor> =
        (0..TENSORS).map(|i| random.get(&[BYTES / 4 / TENSORS], &format!("{i}.weight")).unwrap()).collect();
    let seconds = start.elapsed().as_secs_f64();
    println!("random F32: {:.2} GB/s of tensors", made.len() as f64 * (BYTES / TENSORS) as f64 / 1e9 / seconds);
}
