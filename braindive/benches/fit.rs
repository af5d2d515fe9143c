//! Measures an epoch of fitting a head to cached features at full size, and what the same machine reaches in the matrix products and
//! in memory traffic that an epoch consists of.
//!
//! ```text
//! cargo bench --bench fit -- [IMAGES VOXELS]
//! ```
//!
//! `fit.py` beside it runs the same epoch in PyTorch, in turns with this.

use braindive::encoder::fit::{Epoch, Settings, Training, ridge};
use std::time::Instant;

const FEATURES: usize = 512;
const BATCH: usize = 64;
const EPOCHS: usize = 3;

/// Uniform in ±1/2.
fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..count).map(|_| draw()).collect()
}

/// The shortest of `times` runs, seconds.
fn shortest(times: usize, mut part: impl FnMut()) -> f64 {
    let once = |part: &mut dyn FnMut()| {
        let begin = Instant::now();
        part();
        begin.elapsed().as_secs_f64()
    };
    (0..times).map(|_| once(&mut part)).fold(f64::INFINITY, f64::min)
}

fn main() {
    let sizes: Vec<usize> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let (images, voxels) = match sizes[..] {
        [images, voxels] => (images, voxels),
        _ => (10_000, 20_000),
    };
    let (features, betas) = (values(images * FEATURES, 1), values(images * voxels, 2));
    let order: Vec<usize> = (0..images).map(|i| i * 7919 % images).collect();
    let mut training = Training::new(FEATURES, values(voxels * FEATURES, 3), values(voxels, 4));
    let epoch = Epoch {
        features: &features,
        betas: &betas,
        order: &order,
        batch: BATCH,
        learning_rate: 3e-4,
        weight_decay: 2e-2,
    };
    let seconds = shortest(EPOCHS, || {
        training.epoch(&epoch);
    });
    // Two products per step: predictions and gradient.
    let flop = 4.0 * images as f64 * FEATURES as f64 * voxels as f64;
    let product = product_rate();
    let copied = copy_rate();
    let steps = images.div_ceil(BATCH) as f64;
    // Weight and two moments, read and written at every step, were it not for the cache.
    let traffic = 24.0 * steps * (voxels * FEATURES) as f64;
    println!("threads                           {}", braindive::threads());
    println!("epoch, s                          {seconds:.3}");
    println!("products of an epoch, GFLOP       {:.0}", flop / 1e9);
    println!("reached, GFLOP/s                  {:.1}", flop / seconds / 1e9);
    println!("large products reach, GFLOP/s     {:.1}", product / 1e9);
    println!("share of an epoch, products       {:.2}", flop / product / seconds);
    println!("copying reaches, GB/s             {:.1}", copied / 1e9);
    println!("a pass over memory per step, s    {:.3}", traffic / copied);
    if std::env::var_os("RIDGE").is_some() {
        let begin = Instant::now();
        let settings = Settings::default();
        let Ok(found) = ridge::<std::convert::Infallible>(&features, FEATURES, &betas, &settings, || Ok(()));
        println!("ridge, 15 penalties, 5 folds, s   {:.1}", begin.elapsed().as_secs_f64());
        std::hint::black_box(found);
    }
}

/// FLOP/s of one large product of the `gemm` crate on all cores.
fn product_rate() -> f64 {
    const N: usize = 2048;
    let (a, b, mut c) = (values(N * N, 5), values(N * N, 6), vec![0.0_f32; N * N]);
    let n = N as isize;
    let seconds = shortest(5, || {
        let threads = gemm::Parallelism::Rayon(0);
        // SAFETY: three matrices [N, N], row by row, of which only `c` is written.
        unsafe {
            gemm::gemm(
                N,
                N,
                N,
                c.as_mut_ptr(),
                1,
                n,
                false,
                a.as_ptr(),
                1,
                n,
                b.as_ptr(),
                1,
                n,
                0.0,
                1.0,
                false,
                false,
                false,
                threads,
            );
        }
    });
    std::hint::black_box(&c);
    2.0 * (N as f64).powi(3) / seconds
}

/// Bytes read and written per second by copying on all cores.
fn copy_rate() -> f64 {
    let from = values(64 << 20, 7);
    let mut to = vec![0.0_f32; from.len()];
    let part = from.len().div_ceil(braindive::threads());
    let seconds = shortest(5, || {
        std::thread::scope(|scope| {
            for (to, from) in to.chunks_mut(part).zip(from.chunks(part)) {
                scope.spawn(|| to.copy_from_slice(from));
            }
        });
    });
    std::hint::black_box(&to);
    8.0 * from.len() as f64 / seconds
}
