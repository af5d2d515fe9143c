//! How long an experiment's jobs take on a kind of device: a histogram in steps of ten per cent, from which a claim reads whether a
//! job will be done before the worker's allocation ends.

/// Ratio of a bucket's bound to the one before.
const STEP: f64 = 1.1;
/// Share of the jobs that must have been faster.
const QUANTILE: f64 = 0.95;

/// The bucket of a job that took `seconds`: it holds durations up to [`upper`] of it.
pub fn bucket(seconds: f64) -> i64 {
    (seconds.max(0.001).ln() / STEP.ln()).ceil() as i64
}

/// The longest duration of a bucket, seconds.
pub fn upper(bucket: i64) -> f64 {
    STEP.powi(bucket.clamp(-1_000, 1_000) as i32)
}

/// The 95th percentile of a histogram of (bucket, jobs), ascending; at most ten per cent too long. `None` if it is empty.
pub fn p95(histogram: &[(i64, i64)]) -> Option<f64> {
    let total: i64 = histogram.iter().map(|(_, jobs)| jobs).sum();
    let mut faster = 0;
    let reached = histogram.iter().find(|(_, jobs)| {
        faster += jobs;
        faster as f64 >= QUANTILE * total as f64
    });
    reached.map(|(bucket, _)| upper(*bucket))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn the_percentile_is_never_too_short_and_at_most_ten_per_cent_too_long() {
        let durations: Vec<f64> = (1..=1_000).map(|n| 0.05 * f64::from(n)).collect();
        let mut histogram = BTreeMap::new();
        for &seconds in &durations {
            *histogram.entry(bucket(seconds)).or_insert(0) += 1;
        }
        let histogram: Vec<_> = histogram.into_iter().collect();
        let found = p95(&histogram).expect("a percentile");
        let exact = durations[949];
        assert!((exact..=exact * 1.1001).contains(&found), "{found} for {exact}");
        assert_eq!(p95(&[]), None);
    }

    #[test]
    fn every_duration_fits_into_its_bucket() {
        for seconds in [0.0, 0.001, 0.02, 0.5, 1.0, 1.1, 30.0, 86_400.0] {
            assert!(upper(bucket(seconds)) * 1.000_001 >= seconds, "{seconds}");
            assert!(upper(bucket(seconds) - 1) < seconds.max(0.001), "{seconds}");
        }
    }
}
