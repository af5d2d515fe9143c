//! The layout of PyTorch's CUDA generator: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3")
//! followed by Box-Muller (1958).
//!
//! Element `i` is the first normal of the Philox block with key `seed` and counter `(0, 0, i, 0)`, computed in f64.

use std::f64::consts::TAU;

/// Element `index` of the standard normal sequence of `seed`.
pub fn standard_normal(seed: u64, index: u64) -> f64 {
    const ULP: f64 = 1.0 / (1u64 << 32) as f64;
    let [x0, x1, ..] = philox4x32_10(halves(seed), [0, 0, index as u32, (index >> 32) as u32]);
    let u = f64::from(x0) * ULP + ULP / 2.0;
    let v = f64::from(x1) * ULP + ULP / 2.0;
    (-2.0 * u.ln()).sqrt() * (TAU * v).sin()
}

/// Ten rounds of the Philox bijection (Salmon et al. 2011, section 3.3): four random words of a counter under a key.
pub(crate) fn philox4x32_10(mut key: [u32; 2], mut counter: [u32; 4]) -> [u32; 4] {
    const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
    /// Golden ratio and √3 − 1: the Weyl increments of the key.
    const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        let [low0, high0] = halves(u64::from(MULTIPLIERS[0]) * u64::from(counter[0]));
        let [low1, high1] = halves(u64::from(MULTIPLIERS[1]) * u64::from(counter[2]));
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0];
    }
    counter
}

/// Low word, high word.
fn halves(word: u64) -> [u32; 2] {
    [word as u32, (word >> 32) as u32]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The known answers that Salmon et al. publish with their implementation (Random123, `kat_vectors`).
    #[test]
    fn philox_gives_its_published_known_answers() {
        assert_eq!(philox4x32_10([0; 2], [0; 4]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox4x32_10([u32::MAX; 2], [u32::MAX; 4]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox4x32_10([0xa409_3822, 0x299f_31d0], [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn a_seed_names_the_same_normals_as_the_reference() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/reference/noise.json");
        let reference: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let seeds = reference["seeds"].as_object().unwrap();
        assert_eq!(seeds.len(), 4);
        for (seed, expected) in seeds {
            let seed: u64 = seed.parse().unwrap();
            for (index, expected) in expected.as_array().unwrap().iter().enumerate() {
                let found = standard_normal(seed, index as u64);
                assert!((found - expected.as_f64().unwrap()).abs() < 1e-12, "seed {seed}, element {index}: {found}");
            }
        }
    }
}
