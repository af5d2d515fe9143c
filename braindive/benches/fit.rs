//! Measures an epoch of fitting a head to cached features at full size beside its limit on the same machine: the two matrix products of
//! every step at the rate of a large product, and AdamW's update of every parameter at the rate of a bare loop over arrays that fit in
//! the innermost cache.
//!
//! ```text
//! cargo bench --bench fit -- [IMAGES VOXELS]
//! ```
//!
//! The three are measured in turns; of every one the shortest round counts. `fit.py` beside it runs the same epoch in PyTorch, in turns with
//! this.

#[allow(dead_code, reason = "the rounds are this benchmark's own")]
mod measure;

use braindive::encoder::fit::{Epoch, Settings, Training, ridge};
use measure::cpu_seconds;
use std::time::Instant;

const FEATURES: usize = 512;
const BATCH: usize = 64;
const ROUNDS: usize = 3;

/// Uniform in ±1/2.
fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..count).map(|_| draw()).collect()
}

/// What something took.
#[derive(Clone, Copy)]
struct Time {
    /// By the clock.
    seconds: f64,
    /// Of all cores.
    cpu: f64,
}

impl Time {
    const LONGEST: Self = Self { seconds: f64::INFINITY, cpu: f64::INFINITY };

    /// Of one of `times` runs.
    fn of(times: usize, mut part: impl FnMut()) -> Self {
        let (begin, cpu) = (Instant::now(), cpu_seconds());
        (0..times).for_each(|_| part());
        let (seconds, now) = (begin.elapsed().as_secs_f64(), cpu_seconds());
        let cpu = cpu.zip(now).map_or(f64::NAN, |(before, now)| now - before);
        Self { seconds, cpu }.times((times as f64).recip())
    }

    fn times(self, factor: f64) -> Self {
        Self { seconds: self.seconds * factor, cpu: self.cpu * factor }
    }

    fn shorter(self, other: Self) -> Self {
        Self { seconds: self.seconds.min(other.seconds), cpu: self.cpu.min(other.cpu) }
    }

    fn and(self, other: Self) -> Self {
        Self { seconds: self.seconds + other.seconds, cpu: self.cpu + other.cpu }
    }
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
    let batches = Epoch {
        features: &features,
        betas: &betas,
        order: &order,
        batch: BATCH,
        learning_rate: 3e-4,
        weight_decay: 2e-2,
    };
    // Two products per step: predictions and gradient.
    let flop = 4.0 * images as f64 * FEATURES as f64 * voxels as f64;
    let updates = images.div_ceil(BATCH) as f64 * (voxels * FEATURES) as f64;
    let [mut epoch, mut products, mut update] = [Time::LONGEST; 3];
    for _ in 0..ROUNDS {
        let epoch_now = Time::of(1, || {
            training.epoch(&batches);
        });
        epoch = epoch.shorter(epoch_now);
        products = products.shorter(large_product().times(flop));
        update = update.shorter(bare_update().times(updates));
    }
    println!("threads                            {}", braindive::threads());
    let line = |name: &str, time: Time| println!("{name:<30} s  {:>8.3}   CPU s {:>8.3}", time.seconds, time.cpu);
    line("epoch,", epoch);
    line("products at a large one's rate,", products);
    line("updates at a bare loop's rate,", update);
    let ratio = |name: &str, limit: Time| {
        let (seconds, cpu) = (limit.seconds / epoch.seconds, limit.cpu / epoch.cpu);
        println!("{name:<32}  {seconds:>8.3}   of CPU {cpu:>7.3}");
    };
    ratio("products / epoch", products);
    ratio("(products + updates) / epoch", products.and(update));
    println!("products of an epoch, GFLOP        {:.0}", flop / 1e9);
    println!("epoch reaches, GFLOP/s             {:.1}", flop / epoch.seconds / 1e9);
    println!("large products reach, GFLOP/s      {:.1}", flop / products.seconds / 1e9);
    if std::env::var_os("RIDGE").is_some() {
        let settings = Settings::default();
        let time = Time::of(1, || {
            let Ok(found) = ridge::<std::convert::Infallible>(&features, FEATURES, &betas, &settings, || Ok(()));
            std::hint::black_box(found);
        });
        line("ridge, 15 penalties, 5 folds,", time);
    }
}

/// Time per floating-point operation of one large product of the `gemm` crate on all cores.
fn large_product() -> Time {
    const N: usize = 2048;
    let (a, b, mut c) = (values(N * N, 5), values(N * N, 6), vec![0.0_f32; N * N]);
    let n = N as isize;
    let time = Time::of(8, || {
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
    time.times((2.0 * (N as f64).powi(3)).recip())
}

/// Time per parameter of AdamW's update on all cores, everything in the innermost cache.
fn bare_update() -> Time {
    const N: usize = 1024;
    const TIMES: usize = 200_000;
    let threads = braindive::threads();
    let time = Time::of(1, || {
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    let [mut value, mut mean, gradient] = [8, 9, 10].map(|seed| values(N, seed));
                    let mut square = vec![1.0; N];
                    for _ in 0..TIMES {
                        update(&mut value, &mut mean, &mut square, std::hint::black_box(&gradient));
                    }
                    std::hint::black_box(value);
                });
            }
        });
    });
    time.times(((threads * TIMES * N) as f64).recip())
}

/// A step with the widest instructions that the processor has.
fn update(value: &mut [f32], mean: &mut [f32], square: &mut [f32], gradient: &[f32]) {
    #[inline(always)]
    fn portable(value: &mut [f32], mean: &mut [f32], square: &mut [f32], gradient: &[f32]) {
        for (((value, mean), square), &gradient) in value.iter_mut().zip(mean).zip(square).zip(gradient) {
            *mean = 0.9 * *mean + 0.1 * gradient;
            *square = 0.999 * *square + 0.001 * gradient * gradient;
            *value = 0.999_994 * *value - 3e-4 * *mean / (square.sqrt() * 1.01 + 1e-8);
        }
    }

    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f")]
        fn avx512(value: &mut [f32], mean: &mut [f32], square: &mut [f32], gradient: &[f32]) {
            portable(value, mean, square, gradient);
        }

        #[target_feature(enable = "avx2")]
        fn avx2(value: &mut [f32], mean: &mut [f32], square: &mut [f32], gradient: &[f32]) {
            portable(value, mean, square, gradient);
        }

        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has the instructions.
            return unsafe { avx512(value, mean, square, gradient) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: as above.
            return unsafe { avx2(value, mean, square, gradient) };
        }
    }
    portable(value, mean, square, gradient);
}
