//! How much of its time the device spends on jobs.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// From the start of the first batch to the end of the last, and what of it was work on the device; shared by all slots.
#[derive(Debug, Default)]
pub struct Busy(Mutex<Option<Span>>);

#[derive(Debug, Clone, Copy)]
struct Span {
    first: Instant,
    last: Instant,
    busy: Duration,
}

impl Busy {
    /// A batch ran from `began` to `ended`, of which the device worked for `busy`: a slot's share, if there are several.
    pub fn record(&self, began: Instant, ended: Instant, busy: Duration) {
        let mut span = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let so_far = span.unwrap_or(Span { first: began, last: ended, busy: Duration::ZERO });
        *span = Some(Span {
            first: so_far.first.min(began),
            last: so_far.last.max(ended),
            busy: so_far.busy.saturating_add(busy),
        });
    }
}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Span { first, last, busy }) = *self.0.lock().unwrap_or_else(PoisonError::into_inner) else {
            return f.write_str("the device had nothing to do yet");
        };
        let (seconds, busy) = ((last - first).as_secs_f64(), busy.as_secs_f64());
        let share = if seconds > 0.0 { 100.0 * busy / seconds } else { 0.0 };
        write!(
            f,
            "device busy for {share:.1} %: {busy:.1} of {seconds:.1} s from the first batch to the end of the last"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_counts_from_the_first_batch_to_the_end_of_the_last() {
        let busy = Busy::default();
        assert_eq!(busy.to_string(), "the device had nothing to do yet");
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        // Loading takes half of the first batch; nothing runs in the seconds 4 to 6.
        busy.record(start, start + 4 * second, 2 * second);
        busy.record(start + 6 * second, start + 8 * second, 2 * second);
        assert_eq!(
            busy.to_string(),
            "device busy for 50.0 %: 4.0 of 8.0 s from the first batch to the end of the last"
        );
        let two_slots = Busy::default();
        two_slots.record(start + second, start + 4 * second, second);
        two_slots.record(start, start + 4 * second, 2 * second);
        assert!(two_slots.to_string().starts_with("device busy for 75.0 %: 3.0 of 4.0 s"), "{two_slots}");
    }
}
