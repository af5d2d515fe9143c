//! What happens after a failed attempt: one row per failure class.

use crate::queue::clock::Millis;
use protocol::outcome::FailureClass;

/// What the queue does about a class of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    pub class: FailureClass,
    /// Whether another attempt can mend it.
    pub retry: bool,
    pub charge: Charge,
    /// Whether the condition's other jobs that wait would meet the same failure: they are blocked until somebody retries.
    pub blocks_condition: bool,
    /// Whether the device is to blame: it gets no more jobs until somebody releases it.
    pub quarantines_device: bool,
    /// Wait before the second attempt; doubles with every counted attempt. Milliseconds.
    pub base: Millis,
    /// Longest wait, milliseconds.
    pub cap: Millis,
}

/// What a failed attempt counts against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Charge {
    /// The job's `max_attempts`.
    Attempt,
    /// The job's `max_losses`: it is not to blame, unless it happens to it again and again.
    Loss,
    /// Nothing.
    Nothing,
}

const SECOND: Millis = 1_000;
const MINUTE: Millis = 60 * SECOND;

/// The classes in the order of [`FailureClass::ALL`].
pub const POLICIES: [Policy; 10] = {
    use FailureClass::*;
    const fn counted(class: FailureClass, base: Millis, cap: Millis) -> Policy {
        let charge = Charge::Attempt;
        Policy { class, retry: true, charge, blocks_condition: false, quarantines_device: false, base, cap }
    }
    const fn free(class: FailureClass) -> Policy {
        Policy { charge: Charge::Nothing, ..counted(class, 0, 0) }
    }
    [
        // Another GPU may have more memory.
        counted(OutOfMemory, 10 * SECOND, 10 * MINUTE),
        // The device is at fault, not the job.
        Policy { charge: Charge::Loss, quarantines_device: true, ..counted(DeviceFault, 0, 0) },
        // The worker went silent; the lease was wait enough.
        Policy { charge: Charge::Loss, ..counted(Lost, 0, 0) },
        // The cluster took the machine back.
        free(Preempted),
        // The worker was asked to stop and gave the job back.
        free(Drained),
        // A retry finds the same input.
        Policy { retry: false, blocks_condition: true, ..counted(BadInput, 0, 0) },
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
    fn backoff_doubles_to_its_cap_and_jitter_takes_at_most_half() {
        let io = Policy::of(FailureClass::Io);
        assert_eq!(io.backoff(1, 0.0), io.base / 2);
        assert!(io.backoff(1, 0.999) <= io.base);
        assert_eq!(io.backoff(2, 0.0), io.base);
        assert_eq!(io.backoff(u32::MAX, 0.0), io.cap / 2);
        assert_eq!(Policy::of(FailureClass::Lost).backoff(7, 0.9), 0);
    }
}
