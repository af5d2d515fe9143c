//! Images as a backbone sees them while a head is fitted (Luo et al. 2023, section 4.1, in the order of the authors' code): resized,
//! brightened, normalised, shifted, with noise.

use super::settings::Settings;
use crate::models::open_clip::Preprocess;
use crate::sampler::noise::torch_cuda::philox4x32_10;
use rayon::prelude::*;
use std::f64::consts::TAU;

/// The random numbers of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Draws {
    /// What each image is multiplied by.
    pub brightness: Vec<f64>,
    /// Pixels right and down, the same for the whole batch.
    pub shift: [i64; 2],
    /// [images, 3, size, size], or empty for none.
    pub noise: Vec<f32>,
}

/// What a sequence of random numbers is for.
#[derive(Clone, Copy)]
enum Purpose {
    Brightness,
    Shift,
    Noise,
}

impl Draws {
    /// No augmentation.
    pub fn none(images: usize) -> Self {
        Self { brightness: vec![1.0; images], shift: [0; 2], noise: Vec::new() }
    }

    /// The draws of batch `batch` of pass `pass` over the images, which depend on these and the seed alone; an image has 3 · `size`²
    /// elements.
    pub fn of(settings: &Settings, pass: u32, batch: u32, images: usize, size: usize) -> Self {
        let block = |purpose: Purpose, index: usize| {
            let key = [settings.seed as u32, (settings.seed >> 32) as u32];
            philox4x32_10(key, [index as u32, batch, pass, purpose as u32])
                .map(|word| (f64::from(word) + 0.5) / 2f64.powi(32))
        };
        let brightness = |image| 1.0 + settings.brightness * (2.0 * block(Purpose::Brightness, image)[0] - 1.0);
        let reach = i64::from(settings.shift);
        let [x, y, ..] = block(Purpose::Shift, 0).map(|uniform| (uniform * (2 * reach + 1) as f64) as i64 - reach);
        let mut noise = vec![0.0; if settings.noise > 0.0 { images * 3 * size * size } else { 0 }];
        noise.par_chunks_mut(4).enumerate().for_each(|(i, noise)| {
            let [a, b, c, d] = block(Purpose::Noise, i);
            let normals = [box_muller(a, b), box_muller(c, d)].concat();
            noise.iter_mut().zip(normals).for_each(|(noise, normal)| *noise = (settings.noise * normal) as f32);
        });
        Self { brightness: (0..images).map(brightness).collect(), shift: [x, y], noise }
    }
}

/// Two standard normal numbers of two uniform ones (Box and Muller 1958).
fn box_muller(u: f64, v: f64) -> [f64; 2] {
    let (sin, cos) = (TAU * v).sin_cos();
    [cos, sin].map(|direction| (-2.0 * u.ln()).sqrt() * direction)
}

/// `images`: 8-bit RGB, [side, side, 3] each; returns [images, 3, size, size]. Resized bilinearly about the pixels' centres without
/// antialiasing, which from 256 to 224 pixels equals scikit-image's `resize` with its defaults.
pub fn augment(images: &[&[u8]], side: usize, size: usize, preprocess: &Preprocess, draws: &Draws) -> Vec<f32> {
    let elements = 3 * size * size;
    let mut pixels = vec![0.0; images.len() * elements];
    let [right, down] = draws.shift;
    let (columns, rows) = (taps(side, size, right), taps(side, size, down));
    pixels.par_chunks_mut(elements).enumerate().for_each(|(i, pixels)| {
        let image = images[i];
        let scale = draws.brightness[i] / 255.0;
        for (channel, plane) in pixels.chunks_mut(size * size).enumerate() {
            let (mean, std) = (f64::from(preprocess.mean[channel]), f64::from(preprocess.std[channel]));
            let pixel = |y: usize, x: usize| f64::from(image[3 * (y * side + x) + channel]);
            for (row, &[(y0, a0), (y1, a1)]) in plane.chunks_mut(size).zip(&rows) {
                for (value, &[(x0, b0), (x1, b1)]) in row.iter_mut().zip(&columns) {
                    let upper = b0 * pixel(y0, x0) + b1 * pixel(y0, x1);
                    let lower = b0 * pixel(y1, x0) + b1 * pixel(y1, x1);
                    *value = (((a0 * upper + a1 * lower) * scale - mean) / std) as f32;
                }
            }
        }
        let noise = draws.noise.chunks(elements).nth(i).unwrap_or_default();
        pixels.iter_mut().zip(noise).for_each(|(pixel, noise)| *pixel += noise);
    });
    pixels
}

/// Which two input pixels, with which weights, make each output pixel along an axis that is resized and then shifted with its edges
/// replicated.
fn taps(input: usize, output: usize, shift: i64) -> Vec<[(usize, f64); 2]> {
    let last = input - 1;
    let tap = |at: i64| {
        let at = (at + shift).clamp(0, output as i64 - 1) as f64;
        let center = ((at + 0.5) * input as f64 / output as f64 - 0.5).clamp(0.0, last as f64);
        let first = center as usize;
        let share = center - first as f64;
        [(first, 1.0 - share), ((first + 1).min(last), share)]
    };
    (0..output as i64).map(tap).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device, safetensors};

    #[test]
    fn an_augmented_batch_equals_the_authors_chain_in_pytorch_and_scikit_image() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/reference/encoder/augment.safetensors");
        let golden = safetensors::load(path, &Device::Cpu).unwrap();
        let values = |key: &str| {
            let tensor = golden[key].to_dtype(DType::F32).unwrap();
            tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        let images = golden["images"].flatten_all().unwrap().to_vec1::<u8>().unwrap();
        let images: Vec<&[u8]> = images.chunks(32 * 32 * 3).collect();
        let preprocess = Preprocess {
            mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
            std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
        };
        for case in ["a", "b", "c"] {
            let shift = golden[&format!("shift_{case}")].to_vec1::<i64>().unwrap();
            let brightness = values("brightness").into_iter().map(f64::from).collect();
            let draws = Draws { brightness, shift: [shift[0], shift[1]], noise: values("noise") };
            let found = augment(&images, 32, 28, &preprocess, &draws);
            let expected = values(&format!("augmented_{case}"));
            let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(found.len() == expected.len() && worst < 1e-6, "{case}: {worst}");
        }
    }

    #[test]
    fn from_256_to_224_pixels_every_block_of_28_is_resized_as_scikit_image_does_one() {
        let (block, whole) = (taps(32, 28, 0), taps(256, 224, 0));
        assert_eq!(whole.len(), 224);
        for (pixel, taps) in whole.iter().enumerate() {
            for (&(from, weight), &(of_block, expected)) in taps.iter().zip(&block[pixel % 28]) {
                assert_eq!(from, of_block + 32 * (pixel / 28), "pixel {pixel}");
                assert!((weight - expected).abs() < 1e-12, "pixel {pixel}: {weight}, expected {expected}");
            }
        }
    }

    #[test]
    fn draws_have_the_distributions_of_the_paper_and_are_the_same_again() {
        let settings = Settings::default();
        let draws = |batch| Draws::of(&settings, 3, batch, 64, 16);
        assert_eq!(draws(7), draws(7));
        assert_ne!(draws(7), draws(8));
        let noise = draws(0).noise;
        let mean = noise.iter().map(|&x| f64::from(x)).sum::<f64>() / noise.len() as f64;
        let variance = noise.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / noise.len() as f64;
        // 49,152 draws: standard errors of 2.3e-4 and, of the standard deviation, 1.6e-4.
        assert!(mean.abs() < 1e-3 && (variance.sqrt() - 0.05).abs() < 7e-4, "{mean} {variance}");
        let mut seen = [[0; 9]; 2];
        for batch in 0..2000 {
            let Draws { brightness, shift, .. } =
                Draws::of(&Settings { noise: 0.0, ..settings.clone() }, 1, batch, 2, 16);
            assert!(brightness.iter().all(|scale| (0.95..=1.05).contains(scale)) && brightness[0] != brightness[1]);
            seen.iter_mut().zip(shift).for_each(|(seen, shift)| seen[(shift + 4) as usize] += 1);
        }
        // 222 expected, with a standard deviation of 14.
        assert!(seen.as_flattened().iter().all(|count| (150..300).contains(count)), "{seen:?}");
    }
}
