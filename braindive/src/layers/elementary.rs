//! The exponential and the error function in f32, without branches or tables, so that loops over them vectorise.
//!
//! Coefficients are minimax fits (Lawson's iteration on Chebyshev nodes), made for this file.

/// 1.5·2²³: a small number added to it is rounded to an integer, which its lowest bits then hold.
const ROUNDER: f32 = 12_582_912.0;
/// ln 2 in two parts; the first has nine significant bits, so that its product with an exponent is exact.
const LN_2: [f32; 2] = [355.0 / 512.0, -2.121_944_4e-4];

/// (eʳ − 1 − r)/r² for |r| <= ln(2)/2, relative to eʳ to 6e-11; lowest power first.
const EXP: [f32; 6] = [0.5, 0.166_666_66, 0.041_666_288, 0.008_333_500_5, 0.001_394_520_9, 1.978_980_4e-4];
/// erf(x)/x − 1 in powers of x² for |x| <= 1, to 2e-9.
const ERF: [f32; 7] =
    [0.128_379_17, -0.376_126_26, 0.112_835_854, -0.026_853_81, 0.005_188_327_7, -8.010_192_5e-4, 7.853_858e-5];
/// −ln(erfc(t))/t for 1 <= t <= 4; the error of erf is 4e-10.
const LOG_ERFC: [f32; 7] =
    [1.128_691_4, 0.634_980_56, 0.106_513_39, -0.023_995_636, 0.003_750_914_7, -3.490_359_2e-4, 1.381_213_9e-5];

#[inline(always)]
fn polynomial<const N: usize>(coefficients: &[f32; N], x: f32) -> f32 {
    let mut value = coefficients[N - 1];
    for i in (0..N - 1).rev() {
        value = value * x + coefficients[i];
    }
    value
}

/// 2ⁿ for −126 <= n <= 127; anything for others.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// eˣ to 0.8 ulp, of subnormal results too.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Beyond these bounds the result is 0 or ∞ all the same; a comparison with NaN keeps it.
    let x = if x < -104.0 { -104.0 } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
    let rounded = x * std::f32::consts::LOG2_E + ROUNDER;
    let exponent = (rounded.to_bits() as i32).wrapping_sub(ROUNDER.to_bits() as i32);
    let n = rounded - ROUNDER;
    // r = high − low; 1 + high is split into its rounded value and the error of that, so that only the last sum rounds visibly.
    let (high, low) = (x - n * LN_2[0], n * LN_2[1]);
    let r = high - low;
    let sum = 1.0 + high;
    let error = high - (sum - 1.0);
    let mantissa = sum + ((r * r * polynomial(&EXP, r) - low) + error);
    // In two factors, since 2ⁿ itself may be subnormal or too large.
    let half = exponent >> 1;
    mantissa * power_of_two(half) * power_of_two(exponent.wrapping_sub(half))
}

/// The error function to 1.5 ulp.
#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    let near = polynomial(&ERF, x * x) * x + x;
    let t = x.abs();
    // 1 − erfc(4) rounds to 1.
    let t = if t > 4.0 { 4.0 } else { t };
    let far = (1.0 - exp(-t * polynomial(&LOG_ERFC, t))).copysign(x);
    if t < 1.0 { near } else { far }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The largest error of `f` in units of the last place of the exact result, over `arguments`.
    fn worst_ulps(f: fn(f32) -> f32, exact: fn(f64) -> f64, arguments: impl Iterator<Item = f32>) -> f64 {
        let smallest = f64::from(f32::from_bits(1));
        let ulps = |x: f32| {
            let (found, exact) = (f64::from(f(x)), exact(f64::from(x)));
            if exact > f64::from(f32::MAX) {
                return if found.is_infinite() { 0.0 } else { f64::INFINITY };
            }
            let ulp = (exact.abs().log2().floor() - 23.0).exp2().max(smallest);
            (found - exact).abs() / ulp
        };
        arguments.map(ulps).fold(0.0, |worst, error| if error <= worst { worst } else { error })
    }

    /// Numbers of every order of magnitude and both signs.
    fn all_magnitudes() -> impl Iterator<Item = f32> {
        (0..=u32::MAX).step_by(1009).map(f32::from_bits).filter(|x| x.is_finite())
    }

    fn between(low: f32, high: f32) -> impl Iterator<Item = f32> {
        (0..=1_000_000).map(move |i| low + (high - low) * i as f32 / 1e6)
    }

    #[test]
    fn the_exponential_is_accurate_to_the_last_place() {
        assert!(worst_ulps(exp, f64::exp, all_magnitudes()) <= 0.8);
        assert!(worst_ulps(exp, f64::exp, between(-105.0, 90.0)) <= 0.8);
        assert_eq!([exp(0.0), exp(f32::INFINITY), exp(f32::NEG_INFINITY)], [1.0, f32::INFINITY, 0.0]);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn the_error_function_is_accurate_to_the_last_place() {
        assert!(worst_ulps(erf, libm::erf, all_magnitudes()) <= 1.5);
        assert!(worst_ulps(erf, libm::erf, between(-4.5, 4.5)) <= 1.5);
        assert_eq!([erf(0.0), erf(f32::INFINITY), erf(f32::NEG_INFINITY)], [0.0, 1.0, -1.0]);
        assert!(erf(f32::NAN).is_nan());
    }
}
