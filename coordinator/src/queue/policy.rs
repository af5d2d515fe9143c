//! What happens after a failed attempt: one row per failure class.

use crate::queue::clock::Millis;
use protocol::outcome::FailureClass;

/// What the queue does about a class of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    pub class: FailureClass,
    /// Whether another attempt can mend it.
    pub retry: bool,
    /// Whether the attempt counts against the job's `max_attempts`.
    pub counted: bool,
    /// Whether the condition's other jobs that wait would meet the same failure: they are blocked until somebody retries.
    pub blocks_condition: bool,
    /// Wait before the second attempt; doubles with every counted attempt. Milliseconds.
    pub base: Millis,
    /// Longest wait, milliseconds.
    pub cap: Millis,
}

const SECOND: Millis = 1_000;
const MINUTE: Millis = 60 * SECOND;

/// The classes in the order of [`FailureClass::ALL`].
pub const POLICIES: [Policy; 10] = {
    use FailureClass::*;
    const fn counted(class: FailureClass, base: Millis, cap: Millis) -> Policy {
        Policy { class, retry: true, counted: true, blocks_condition: false, base, cap }
    }
    const fn free(class: FailureClass, base: Millis, cap: Millis) -> Policy {
        Policy { counted: false, ..counted(class, base, cap) }
    }
    [
        // Another GPU may have more memory.
        counted(OutOfMemory, 10 * SECOND, 10 * MINUTE),
        // The device is at fault, not the job.
        free(DeviceFault, 10 * SECOND, 10 * SECOND),
        // The worker went silent; the lease was wait enough.
        free(Lost, 0, 0),
        // The cluster took the machine back.
        free(Preempted, 0, 0),
        // The worker was asked to stop and gave the job back.
        free(Drained, 0, 0),
        // A retry finds the same input.
        Policy { class: BadInput, retry: false, counted: true, blocks_condition: true, base: 0, cap: 0 },
        // Half precision overflows on some devices and not on others.
        counted(NonFinite, 5 * SECOND, 5 * MINUTE),
        // File systems and networks recover.
        counted(Io, 5 * SECOND, 5 * MINUTE),
        // A machine may have been slow.
        counted(Timeout, 5 * SECOND, 5 * MINUTE),
        // Some faults of the software come and go.
        counted(Bug, 5 * SECOND, 5 * MINUTE),
    ]
};

impl Policy {
    /// The row of `class`.
    pub fn of(class: FailureClass) -> &'static Self {
        &POLICIES[class as usize]
    }

    /// Whether the job gets another attempt. `attempts` includes this one if it counts; `repeated` says that the last
    /// counted failure had the same class and message.
    pub fn retries(&self, attempts: u32, max_attempts: u32, repeated: bool) -> bool {
        self.retry && (!self.counted || (attempts < max_attempts && !repeated))
    }

    /// Wait before the next attempt, milliseconds: exponential in the counted attempts, with "equal jitter": between half
    /// of the step and the whole. `jitter` lies in [0, 1).
    pub fn backoff(&self, attempts: u32, jitter: f64) -> Millis {
        let doublings = attempts.saturating_sub(1).min(30);
        let step = self.base.saturating_mul(1 << doublings).min(self.cap);
        step / 2 + ((step - step / 2) as f64 * jitter) as Millis
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_every_class_in_its_place() {
        for class in FailureClass::ALL {
            assert_eq!(Policy::of(class).class, class);
        }
    }

    #[test]
    fn what_is_not_the_jobs_fault_never_uses_up_its_attempts() {
        for class in [FailureClass::Lost, FailureClass::Drained, FailureClass::Preempted, FailureClass::DeviceFault] {
            assert!(!Policy::of(class).counted, "{class}");
            assert!(Policy::of(class).retries(1000, 1, true), "{class}");
        }
    }

    #[test]
    fn bad_input_fails_at_once_and_the_same_signature_twice_stops_a_counted_retry() {
        assert!(!Policy::of(FailureClass::BadInput).retries(1, 3, false));
        assert!(Policy::of(FailureClass::Io).retries(1, 3, false));
        assert!(!Policy::of(FailureClass::Io).retries(2, 3, true));
        assert!(!Policy::of(FailureClass::Io).retries(3, 3, false));
    }

    #[test]
    fn backoff_doubles_to_its_cap_and_jitter_takes_at_most_half() {
        let io = Policy::of(FailureClass::Io);
        assert_eq!(io.backoff(1, 0.0), io.base / 2);
        assert!(io.backoff(1, 0.999) <= io.base);
        assert_eq!(io.backoff(2, 0.0), io.base);
        assert_eq!(io.backoff(u32::MAX, 0.0), io.cap / 2);
        assert_eq!(Policy::of(FailureClass::Lost).backoff(7, 0.9), 0);
    }
}
