//! Time as the queue sees it: milliseconds since 1970, from the system or from a test's hand.

use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// Milliseconds since 1970 (UTC), as every time column of the database has them.
pub type Millis = i64;

/// Tells the time and waits for it. Everything in the queue that depends on time asks this.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    /// The machine's clock.
    #[default]
    System,
    /// Stands still until somebody moves it: leases and back-offs run out without waiting.
    Manual(watch::Sender<Millis>),
}

impl Clock {
    /// A clock that stands at `start`.
    pub fn manual(start: Millis) -> Self {
        Self::Manual(watch::Sender::new(start))
    }

    pub fn now(&self) -> Millis {
        match self {
            Self::System => millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()),
            Self::Manual(time) => *time.borrow(),
        }
    }

    /// Returns once [`Clock::now`] is `time` or later.
    pub async fn sleep_until(&self, time: Millis) {
        match self {
            Self::System => {
                let wait = u64::try_from(time - self.now()).unwrap_or(0);
                tokio::time::sleep(Duration::from_millis(wait)).await;
            }
            Self::Manual(clock) => {
                let _ = clock.subscribe().wait_for(|now| *now >= time).await;
            }
        }
    }

    /// Moves a manual clock and wakes who sleeps; the system's clock is not moved.
    pub fn advance(&self, by: Duration) {
        if let Self::Manual(time) = self {
            time.send_modify(|now| *now += millis(by));
        }
    }
}

/// A duration in the database's unit.
pub fn millis(duration: Duration) -> Millis {
    Millis::try_from(duration.as_millis()).unwrap_or(Millis::MAX)
}
