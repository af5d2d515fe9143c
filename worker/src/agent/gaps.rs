//! How long slots stand idle between two batches: a histogram by powers of two milliseconds.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Bucket 0 holds gaps under 1 ms, bucket n those of 2^(n-1) ms up to 2^n ms; the last would hold 17 years.
const BUCKETS: usize = 40;

/// Counts of gaps; shared by all slots.
#[derive(Debug)]
pub struct Gaps([AtomicU64; BUCKETS]);

impl Default for Gaps {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; BUCKETS])
    }
}

impl Gaps {
    pub fn record(&self, gap: Duration) {
        let milliseconds = u64::try_from(gap.as_millis()).unwrap_or(u64::MAX);
        let bucket = (u64::BITS - milliseconds.leading_zeros()) as usize;
        self.0[bucket.min(BUCKETS - 1)].fetch_add(1, Ordering::Relaxed);
    }

    /// The end of the bucket under which at least `share` of the gaps lie, milliseconds; `None` if there is no gap.
    fn quantile(counts: &[u64], share: f64) -> Option<u64> {
        let rank = (counts.iter().sum::<u64>() as f64 * share).ceil().max(1.0) as u64;
        let below = counts.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        });
        below.enumerate().find(|(_, sum)| *sum >= rank).map(|(bucket, _)| 1 << bucket)
    }
}

impl fmt::Display for Gaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts: Vec<u64> = self.0.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let (Some(half), Some(most)) = (Self::quantile(&counts, 0.5), Self::quantile(&counts, 0.95)) else {
            return f.write_str("no gap between batches yet");
        };
        write!(f, "{} gaps between batches: half under {half} ms, 95 % under {most} ms (", counts.iter().sum::<u64>())?;
        let filled = counts.iter().enumerate().filter(|(_, count)| **count > 0);
        for (number, (bucket, count)) in filled.enumerate() {
            let comma = if number > 0 { ", " } else { "" };
            write!(f, "{comma}<{} ms: {count}", 1_u64 << bucket)?;
        }
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_counted_by_powers_of_two_and_told_in_one_line() {
        let gaps = Gaps::default();
        assert_eq!(gaps.to_string(), "no gap between batches yet");
        for micros in [0, 999, 1_000, 1_999, 2_000, 3_999, 4_000] {
            gaps.record(Duration::from_micros(micros));
        }
        gaps.record(Duration::from_secs(60));
        assert_eq!(
            gaps.to_string(),
            "8 gaps between batches: half under 2 ms, 95 % under 65536 ms (<1 ms: 2, <2 ms: 2, <4 ms: 2, <8 ms: 1, <65536 ms: 1)"
        );
        gaps.record(Duration::MAX);
    }

    #[test]
    fn the_quantile_is_the_least_bound_that_holds_its_share() {
        let gaps = Gaps::default();
        (0..95).for_each(|_| gaps.record(Duration::from_millis(5)));
        (0..5).for_each(|_| gaps.record(Duration::from_millis(100)));
        assert!(gaps.to_string().contains("95 % under 8 ms"), "{gaps}");
        gaps.record(Duration::from_millis(100));
        assert!(gaps.to_string().contains("95 % under 128 ms"), "{gaps}");
    }
}
