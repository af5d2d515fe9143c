//! Waiting longer and longer, with jitter, so that a hundred workers do not return in the same millisecond.

use crate::chain::chain;
use std::error::Error;
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(30);

/// Exponential back-off with full jitter.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Says once that something is in the way; repeats stay quiet.
    pub fn report(&mut self, error: &dyn Error, what: &str) {
        if self.failures == 0 {
            tracing::warn!("{}; {what}", chain(error));
        }
    }

    /// Waits, longer each time.
    pub async fn pause(&mut self) {
        let ceiling = Self::ceiling(self.failures);
        self.failures += 1;
        tokio::time::sleep(ceiling.mul_f64(rand::random_range(0.5..1.0))).await;
    }

    fn ceiling(failures: u32) -> Duration {
        FIRST.saturating_mul(1 << failures.min(16)).min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_bounded() {
        let ceilings: Vec<_> = (0..40).map(Backoff::ceiling).collect();
        assert_eq!(ceilings[0], FIRST);
        assert!(ceilings.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(ceilings[39], LONGEST);
    }
}
