//! PIL's antialiased bicubic resizing of 8-bit images, bit for bit, and the shortest-side resize with centre crop that
//! OpenCLIP's evaluation transform makes of it.
//!
//! The kernel is Keys' cubic (1981) with a = −1/2, widened by the reduction factor. As in Pillow's 8-bit path, rows are resized
//! before columns, weights are integers in units of 2⁻²², and the image between the two passes is 8-bit.

use super::RgbImage8;
use std::borrow::Cow;

/// Bits behind the binary point of a weight: 32 − 8 bits of a pixel − 2 of headroom for sums of overshooting weights.
const WEIGHT_BITS: u32 = 22;
/// What a sum begins with, so that cutting its fraction off rounds half up.
const HALF: i32 = 1 << (WEIGHT_BITS - 1);

/// Which input pixels an output pixel mixes.
struct Mix {
    first: usize,
    /// Fixed point; they add up to 1 but for rounding.
    weights: Vec<i32>,
}

/// Resizes to `width` × `height` pixels; equal to PIL's `Image.resize((width, height), BICUBIC)`.
pub fn bicubic(image: &RgbImage8, width: usize, height: usize) -> RgbImage8 {
    assert!(width > 0 && height > 0, "an image has at least one pixel");
    let mut resized = Cow::Borrowed(image);
    if width != image.width {
        resized = Cow::Owned(across(&resized, width));
    }
    if height != image.height {
        resized = Cow::Owned(down(&resized, height));
    }
    resized.into_owned()
}

/// Resizes every row to `width` pixels.
fn across(image: &RgbImage8, width: usize) -> RgbImage8 {
    let mixes = mixes(image.width, width);
    let mut pixels = Vec::with_capacity(3 * width * image.height);
    for row in image.pixels.chunks_exact(3 * image.width) {
        let (row, _) = row.as_chunks::<3>();
        for Mix { first, weights } in &mixes {
            let mut sums = [HALF; 3];
            for (pixel, &weight) in row[*first..].iter().zip(weights) {
                sums = std::array::from_fn(|channel| add(sums[channel], weight, pixel[channel]));
            }
            pixels.extend(sums.map(rounded));
        }
    }
    RgbImage8 { width, height: image.height, pixels }
}

/// Resizes every column to `height` pixels.
fn down(image: &RgbImage8, height: usize) -> RgbImage8 {
    let stride = 3 * image.width;
    let mut sums = vec![HALF; stride];
    let mut pixels = Vec::with_capacity(stride * height);
    for Mix { first, weights } in mixes(image.height, height) {
        sums.fill(HALF);
        for (row, &weight) in image.pixels.chunks_exact(stride).skip(first).zip(&weights) {
            sums.iter_mut().zip(row).for_each(|(sum, &value)| *sum = add(*sum, weight, value));
        }
        pixels.extend(sums.iter().map(|&sum| rounded(sum)));
    }
    RgbImage8 { width: image.width, height, pixels }
}

/// One more weighted value; the weights leave room for all sums.
fn add(sum: i32, weight: i32, value: u8) -> i32 {
    sum.wrapping_add(weight.wrapping_mul(i32::from(value)))
}

/// The 8-bit value of a sum that began with a half.
fn rounded(sum: i32) -> u8 {
    (sum >> WEIGHT_BITS).clamp(0, 255) as u8
}

/// Resizes the shorter side to `size` pixels, keeping the aspect ratio, and cuts the central `size` × `size` square.
pub fn shortest_side_center_crop(image: &RgbImage8, size: usize) -> RgbImage8 {
    let (width, height) = (image.width, image.height);
    let resized = match width <= height {
        true => bicubic(image, size, size * height / width),
        false => bicubic(image, size * width / height, size),
    };
    let margin = |side: usize| ((side - size) as f64 / 2.0).round_ties_even() as usize;
    let (left, top) = (margin(resized.width), margin(resized.height));
    let pixels = resized
        .pixels
        .chunks_exact(3 * resized.width)
        .skip(top)
        .take(size)
        .flat_map(|row| &row[3 * left..3 * (left + size)])
        .copied()
        .collect();
    RgbImage8 { width: size, height: size, pixels }
}

/// The mixes of all `output` pixels along one axis of `input` pixels.
fn mixes(input: usize, output: usize) -> Vec<Mix> {
    let scale = input as f64 / output as f64;
    let widening = scale.max(1.0);
    let support = 2.0 * widening;
    (0..output)
        .map(|at| {
            let center = (at as f64 + 0.5) * scale;
            let first = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(input);
            let weights: Vec<f64> =
                (first..end).map(|pixel| keys_cubic((pixel as f64 - center + 0.5) / widening)).collect();
            let total: f64 = weights.iter().sum();
            let fixed = |weight: &f64| (weight / total * f64::from(1u32 << WEIGHT_BITS)).round() as i32;
            Mix { first, weights: weights.iter().map(fixed).collect() }
        })
        .collect()
}

/// Keys' cubic convolution kernel with a = −1/2; zero outside −2..2.
fn keys_cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    match x.abs() {
        x if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
        x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
        _ => 0.0,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use checkpoint::Checkpoint;

    fn image(file: &Checkpoint, key: &str) -> RgbImage8 {
        let tensor = &file.tensors()[key];
        let &[height, width, 3] = tensor.shape.as_slice() else { panic!("{key} is no image") };
        RgbImage8::new(width, height, file.bytes(tensor).into_owned()).unwrap()
    }

    #[test]
    fn bicubic_equals_pil_bit_for_bit() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/reference/resize/resize.safetensors");
        let goldens = Checkpoint::open(path.as_ref()).unwrap();
        for case in ["20to33", "40x56to24", "48to32", "64to28"] {
            let expected = image(&goldens, &format!("{case}.pil_bicubic_u8"));
            let resized = bicubic(&image(&goldens, &format!("{case}.input_u8")), expected.width, expected.height);
            assert_eq!(resized, expected, "{case}");
        }
    }

    #[test]
    fn the_crop_takes_the_middle_of_the_longer_side() {
        // Five columns of one grey each; no resizing, since the shorter side already fits.
        let row: Vec<u8> = (0..5u8).flat_map(|column| [10 * column; 3]).collect();
        let wide = RgbImage8::new(5, 2, row.repeat(2)).unwrap();
        let cropped = shortest_side_center_crop(&wide, 2);
        // A margin of 1.5 rounds to 2, the even neighbour.
        assert_eq!(cropped.pixels(), [20, 20, 20, 30, 30, 30].repeat(2));
        let tall = RgbImage8::new(1, 4, [0u8, 1, 2, 3].iter().flat_map(|&grey| [grey; 3]).collect()).unwrap();
        assert_eq!(shortest_side_center_crop(&tall, 1).pixels(), [2; 3]);
    }
}
