//! The layout of PyTorch's CPU generator: MT19937 (Matsumoto and Nishimura 1998) and Box-Muller (1958) in blocks of 16.
//!
//! A tensor is first filled with uniform numbers of 24 bits; then, in every block of 16, number j and number j + 8 become the
//! cosine and the sine of one pair. Where the last block is not full, the last 16 elements are drawn anew and done again.

use candle_core::{Result, bail};
use std::f32::consts::TAU;

const BLOCK: usize = 16;

/// The first `count` standard normal numbers of a tensor of `count` elements, at least 16.
pub fn standard_normals(seed: u64, count: usize) -> Result<Vec<f32>> {
    if count < BLOCK {
        bail!(
            "noise in the layout of PyTorch's CPU generator needs at least {BLOCK} elements, found {count}; take larger images"
        );
    }
    // PyTorch seeds with the low word alone.
    let mut generator = Mt19937::new(seed as u32);
    let mut draw = || (generator.next() & 0xff_ffff) as f32 / (1 << 24) as f32;
    let mut values: Vec<f32> = (0..count).map(|_| draw()).collect();
    values.chunks_exact_mut(BLOCK).for_each(box_muller);
    if !count.is_multiple_of(BLOCK) {
        let last = &mut values[count - BLOCK..];
        last.fill_with(draw);
        box_muller(last);
    }
    Ok(values)
}

/// 16 uniform numbers in 0..1 become standard normal.
fn box_muller(block: &mut [f32]) {
    let (first, second) = block.split_at_mut(BLOCK / 2);
    for (first, second) in first.iter_mut().zip(second) {
        let (radius, angle) = ((-2.0 * (1.0 - *first).ln()).sqrt(), TAU * *second);
        (*first, *second) = (radius * angle.cos(), radius * angle.sin());
    }
}

const WORDS: usize = 624;
const MIDDLE: usize = 397;

/// The Mersenne Twister of 32-bit words.
pub(crate) struct Mt19937 {
    state: [u32; WORDS],
    used: usize,
}

impl Mt19937 {
    pub fn new(seed: u32) -> Self {
        let mut state = [seed; WORDS];
        for i in 1..WORDS {
            let previous = state[i - 1];
            state[i] = 1_812_433_253_u32.wrapping_mul(previous ^ previous >> 30).wrapping_add(i as u32);
        }
        Self { state, used: WORDS }
    }

    pub fn next(&mut self) -> u32 {
        if self.used == WORDS {
            self.twist();
        }
        let mut word = self.state[self.used];
        self.used += 1;
        word ^= word >> 11;
        word ^= word << 7 & 0x9d2c_5680;
        word ^= word << 15 & 0xefc6_0000;
        word ^ word >> 18
    }

    fn twist(&mut self) {
        for i in 0..WORDS {
            let joined = self.state[i] & 0x8000_0000 | self.state[(i + 1) % WORDS] & 0x7fff_ffff;
            let odd = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + MIDDLE) % WORDS] ^ joined >> 1 ^ odd;
        }
        self.used = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// The C++ standard names the 10,000th word of the default seed ([rand.predef]).
    #[test]
    fn the_twister_gives_its_published_known_answer() {
        let mut generator = Mt19937::new(5489);
        assert_eq!((0..10_000).map(|_| generator.next()).last(), Some(4_123_659_995));
    }

    /// Logarithm and cosine differ by a last bit from machine to machine.
    #[test]
    fn a_seed_names_the_same_normals_as_in_pytorch() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/reference/request/noise_torch_cpu.json");
        let golden: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let cases = golden["cases"].as_array().unwrap();
        assert_eq!(cases.len(), 9);
        for case in cases {
            let (seed, n) = (case["seed"].as_u64().unwrap(), case["n"].as_u64().unwrap() as usize);
            let ours: Vec<f64> = standard_normals(seed, n).unwrap().into_iter().map(f64::from).collect();
            assert_eq!(ours.len(), n);
            let places = case["index"].as_array().unwrap().iter().zip(case["value"].as_array().unwrap());
            for (index, value) in places.map(|(index, value)| (index.as_u64().unwrap(), value.as_f64().unwrap())) {
                let found = ours[index as usize];
                assert!((found - value).abs() < 1e-6, "seed {seed}, n {n}, element {index}: {found}, expected {value}");
            }
            let (sum, squares) = (ours.iter().sum::<f64>(), ours.iter().map(|x| x * x).sum::<f64>());
            for (what, found) in [("sum", sum), ("sum_of_squares", squares)] {
                let expected = case[what].as_f64().unwrap();
                assert!((found - expected).abs() < 1e-3, "seed {seed}, n {n}, {what}: {found}, expected {expected}");
            }
        }
    }

    #[test]
    fn fewer_elements_than_a_block_are_refused() {
        assert!(standard_normals(0, 15).unwrap_err().to_string().contains("at least 16 elements, found 15"));
    }
}
