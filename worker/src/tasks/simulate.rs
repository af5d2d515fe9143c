//! Jobs that only take time: they sleep, then fail as asked or give a picture of noise. For load tests and rehearsals; no model
//! is read and nothing is computed. Time and picture follow from the seed, so that two attempts at a job give equal bytes;
//! whether an attempt fails is drawn from its fence too.

use super::{Computed, Product, TaskError, Work};
use protocol::ids::Digest;
use protocol::job::SimulateCondition;
use protocol::outcome::{FailureClass, JobResult, PhaseSeconds, SimulateResult};
use protocol::version::SOFTWARE;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use subject::image::{ImageError, RgbImage8, png};

/// What a job sleeps at a time before it looks whether it should stop.
const NAP: Duration = Duration::from_millis(5);
/// The sampler's usual number of steps, for the progress that people see.
const STEPS: u32 = 50;

/// Runs simulated jobs together, as a sampler would: all are done when the longest is. One outcome per job.
pub fn run(device: &str, batch: &[(&Work, &SimulateCondition)]) -> Vec<Result<Computed, TaskError>> {
    let longest = batch.iter().map(|(work, condition)| duration(condition, work.job.seed.0)).max().unwrap_or_default();
    let start = Instant::now();
    while start.elapsed() < longest {
        std::thread::sleep(NAP.min(longest.saturating_sub(start.elapsed())));
        let share = start.elapsed().as_secs_f64() / longest.as_secs_f64();
        let step = (share.min(1.0) * f64::from(STEPS)) as u32;
        batch.iter().for_each(|(work, _)| work.control.report(step, STEPS));
        if batch.iter().all(|(work, _)| work.control.is_stopped()) {
            return batch.iter().map(|_| Err(TaskError::Stopped)).collect();
        }
    }
    let sampling = start.elapsed().as_secs_f64() / batch.len().max(1) as f64;
    let seconds = PhaseSeconds { sampling, ..PhaseSeconds::default() };
    batch.iter().map(|(work, condition)| end(work, condition, device, seconds)).collect()
}

fn end(work: &Work, condition: &SimulateCondition, device: &str, seconds: PhaseSeconds) -> Result<Computed, TaskError> {
    if work.control.is_stopped() {
        return Err(TaskError::Stopped);
    }
    let seed = work.job.seed.0;
    if let Some(class) = failure(condition, seed, work.job.fence.0) {
        let message = format!("a simulated failure of class {class}");
        return Err(TaskError::Failed { class, message, seconds });
    }
    let (condition, device) = (condition.clone(), device.to_owned());
    Ok(Computed::new(seconds, move || product(&condition, seed, device, seconds)))
}

fn product(
    condition: &SimulateCondition,
    seed: u64,
    device: String,
    seconds: PhaseSeconds,
) -> Result<Product, TaskError> {
    let png = picture(condition, seed).map_err(|error| TaskError::Failed {
        class: FailureClass::Bug,
        message: format!("painting a simulated image: {error}"),
        seconds,
    })?;
    let image_sha256 = Digest::from_bytes(&Sha256::digest(&png).into());
    let result = SimulateResult { image_sha256, seconds, device, software: SOFTWARE.to_owned() };
    Ok(Product { png: Some(png), result: JobResult::Simulate(result) })
}

fn duration(condition: &SimulateCondition, seed: u64) -> Duration {
    let around = 2.0 * unit(condition, "time", seed, 0) - 1.0;
    Duration::try_from_secs_f64(condition.seconds * (1.0 + condition.spread * around)).unwrap_or_default()
}

/// The class that the attempt fails in, if it does.
fn failure(condition: &SimulateCondition, seed: u64, fence: i64) -> Option<FailureClass> {
    let mut draw = unit(condition, "fail", seed, fence);
    for (class, probability) in &condition.fail {
        if draw < *probability {
            return Some(*class);
        }
        draw -= probability;
    }
    None
}

/// Noise that a PNG cannot make smaller.
fn picture(condition: &SimulateCondition, seed: u64) -> Result<Vec<u8>, ImageError> {
    let side = (f64::from(condition.bytes) / 3.0).sqrt().ceil().max(8.0) as usize;
    let mut pixels = Vec::with_capacity(side * side * 3 + 32);
    let mut block = 0;
    while pixels.len() < side * side * 3 {
        pixels.extend_from_slice(&draw(condition, "pixels", seed, block));
        block += 1;
    }
    pixels.truncate(side * side * 3);
    png::encode(&RgbImage8::new(side, side, pixels)?, &BTreeMap::from([("Software".to_owned(), SOFTWARE.to_owned())]))
}

/// 32 bytes that condition, purpose, seed and number decide.
fn draw(condition: &SimulateCondition, purpose: &str, seed: u64, number: i64) -> [u8; 32] {
    let mut hash = Sha256::new();
    for name in [condition.subject.as_str(), &condition.region, purpose] {
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name);
    }
    hash.update(seed.to_le_bytes());
    hash.update(number.to_le_bytes());
    hash.finalize().into()
}

/// Uniform in [0, 1).
fn unit(condition: &SimulateCondition, purpose: &str, seed: u64, number: i64) -> f64 {
    let bytes = draw(condition, purpose, seed, number);
    let bits = bytes.iter().take(8).fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(fail: &[(FailureClass, f64)]) -> SimulateCondition {
        SimulateCondition {
            subject: "sim01".to_owned(),
            region: "FFA".to_owned(),
            seconds: 2.0,
            spread: 0.5,
            fail: fail.iter().copied().collect(),
            bytes: 3000,
        }
    }

    #[test]
    fn time_and_picture_follow_from_the_seed_and_pictures_differ() {
        let condition = condition(&[]);
        let spread = Duration::from_secs(1)..Duration::from_secs(3);
        assert!((0..100).all(|seed| spread.contains(&duration(&condition, seed))));
        assert_ne!(duration(&condition, 1), duration(&condition, 2));
        let first = picture(&condition, 1).expect("a picture");
        assert_eq!(first, picture(&condition, 1).expect("the same picture"));
        assert_ne!(first, picture(&condition, 2).expect("another picture"));
        assert!(first.len() >= 3000, "{}", first.len());
    }

    #[test]
    fn attempts_fail_as_often_as_asked() {
        let condition = condition(&[(FailureClass::Io, 0.2), (FailureClass::Bug, 0.1)]);
        let mut counts = BTreeMap::<_, usize>::new();
        for seed in 0..2_000 {
            *counts.entry(failure(&condition, seed, 1)).or_default() += 1;
        }
        let share = |class| counts[&class] as f64 / 2_000.0;
        assert!((share(Some(FailureClass::Io)) - 0.2).abs() < 0.03, "{counts:?}");
        assert!((share(Some(FailureClass::Bug)) - 0.1).abs() < 0.03, "{counts:?}");
        assert!(
            (0..50).any(|fence| failure(&condition, 7, fence) != failure(&condition, 7, 1)),
            "drawn for every attempt"
        );
    }
}
