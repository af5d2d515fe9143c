//! How much of a voxel's variance a model can explain (Allen et al. 2022, methods, "Noise ceiling estimation").

/// Per cent of the variance of means over repeats: 100 · ncsnr²/(ncsnr² + noise), where noise is the mean of 1/repeats over the images.
pub fn noise_ceiling(ncsnr: f32, repeats: impl Iterator<Item = u8>) -> f32 {
    let (mut noise, mut images) = (0.0, 0u32);
    for repeats in repeats {
        noise += 1.0 / f64::from(repeats);
        images += 1;
    }
    let signal = f64::from(ncsnr).powi(2);
    (100.0 * signal / (signal + noise / f64::from(images))) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_lift_the_ceiling() {
        let ceiling = |repeats: &[u8]| noise_ceiling(0.5, repeats.iter().copied());
        assert!((ceiling(&[3, 3]) - 42.857_143).abs() < 1e-5);
        assert_eq!(ceiling(&[1]), 20.0);
        // One image of each: (1/3 + 1/2 + 1)/3 = 11/18.
        assert!((ceiling(&[1, 2, 3]) - 100.0 * 0.25 / (0.25 + 11.0 / 18.0)).abs() < 1e-5);
        assert!(noise_ceiling(f32::NAN, [1].into_iter()).is_nan());
    }
}
