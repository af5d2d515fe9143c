//! The end of a worker's allocation, as Slurm or a person gives it.

use jiff::Timestamp;
use std::future::pending;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

/// What is kept free before the end, so that the last results are delivered.
const MARGIN: Duration = Duration::from_secs(30);
/// What is kept free of the margin to take leave.
const LEAVE: Duration = Duration::from_secs(5);

/// A moment of the wall clock after which the worker is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline(SystemTime);

/// A text that names no moment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no moment: expected RFC 3339, for example 2026-03-01T18:00:00Z, or seconds since 1970, as in $SLURM_JOB_END_TIME"
)]
pub struct NotAMoment(String);

impl Deadline {
    /// Time left to compute in: until [`MARGIN`] before the end.
    pub fn left(self) -> Duration {
        self.before(MARGIN)
    }

    fn before(self, margin: Duration) -> Duration {
        self.0.duration_since(SystemTime::now()).unwrap_or_default().saturating_sub(margin)
    }

    async fn until(self, margin: Duration) {
        /// The wall clock may be set meanwhile.
        const LOOK: Duration = Duration::from_secs(60);
        loop {
            match self.before(margin) {
                Duration::ZERO => return,
                left => tokio::time::sleep(left.min(LOOK)).await,
            }
        }
    }
}

/// Returns when only the margin is left; never without a deadline.
pub async fn last_call(deadline: Option<Deadline>) {
    until(deadline, MARGIN).await;
}

/// Returns when it is high time to leave; never without a deadline.
pub async fn high_time(deadline: Option<Deadline>) {
    until(deadline, LEAVE).await;
}

async fn until(deadline: Option<Deadline>, margin: Duration) {
    match deadline {
        Some(deadline) => deadline.until(margin).await,
        None => pending().await,
    }
}

impl FromStr for Deadline {
    type Err = NotAMoment;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let seconds = text.parse().ok().or_else(|| u64::try_from(text.parse::<Timestamp>().ok()?.as_second()).ok());
        let moment = seconds.and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
        moment.map(Self).ok_or_else(|| NotAMoment(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_read_from_both_notations() {
        let one: Deadline = "2026-03-01T18:00:00Z".parse().unwrap();
        assert_eq!("2026-03-01T19:00:00+01:00".parse(), Ok(one));
        assert_eq!("1772388000".parse(), Ok(one));
        for wrong in ["", "soon", "18:00", "2026-03-01", "1e9", "99999999999999999999"] {
            assert!(wrong.parse::<Deadline>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_margin_is_kept_free() {
        let in_a_minute = Deadline(SystemTime::now() + Duration::from_secs(60));
        assert!(in_a_minute.left() <= Duration::from_secs(30));
        assert!(in_a_minute.left() > Duration::from_secs(20));
        assert_eq!(Deadline(SystemTime::UNIX_EPOCH).left(), Duration::ZERO);
    }
}
