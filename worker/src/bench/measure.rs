//! What a piece of work costs: seconds, CPU seconds, peak memory, multiply-adds.

use braindive::device::{self, Calls};
use braindive::layers::multiply_adds;
use braindive::{Device, Result};
use serde::Serialize;
use std::time::Instant;

/// The cost of one run; of several, the one with the median of seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Cost {
    pub seconds: f64,
    /// User and system time of all threads.
    pub cpu_seconds: Option<f64>,
    /// Most memory that the process held while it ran, weights included; of a GPU, where it computes there.
    pub peak_bytes: Option<u64>,
    /// Of convolutions, linear layers and attention, by the direct method.
    pub multiply_adds: u64,
    /// What was asked of the device; where it is counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<Calls>,
}

impl Cost {
    /// Runs `work` `repeats` times.
    pub fn of(device: &Device, repeats: u32, mut work: impl FnMut() -> Result<()>) -> Result<Self> {
        let mut costs = Vec::new();
        for _ in 0..repeats.max(1) {
            device.synchronize()?;
            forget_peak();
            device::forget_peak(device)?;
            let (start, cpu, counted) = (Instant::now(), cpu_seconds(), multiply_adds());
            let asked = device::calls();
            work()?;
            let asked = device::calls().since(asked);
            device.synchronize()?;
            costs.push(Self {
                seconds: start.elapsed().as_secs_f64(),
                cpu_seconds: cpu.zip(cpu_seconds()).map(|(begin, end)| end - begin),
                // Of a GPU's memory, where it computes.
                peak_bytes: device::peak_bytes(device)?.or_else(peak_bytes),
                multiply_adds: multiply_adds() - counted,
                device: (!device.is_cpu()).then_some(asked),
            });
        }
        costs.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
        Ok(costs[(costs.len() - 1) / 2])
    }

    /// Multiply-adds per second of wall time, in units of 10⁹.
    pub fn giga_per_second(&self) -> f64 {
        self.multiply_adds as f64 / self.seconds / 1e9
    }
}

/// Hundredths of a second are what Linux counts processes' time in, on all platforms that it runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// User and system time of all threads of this process: `/proc/self/stat`, fields 14 and 15.
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = |field: usize| fields.get(field - 3)?.parse::<f64>().ok();
    Some((ticks(14)? + ticks(15)?) / TICKS_PER_SECOND)
}

/// Makes the kernel count the peak of resident memory from now on.
fn forget_peak() {
    // Where this is not allowed, peaks are those since the start.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_allocates_and_computes_costs_memory_and_time() {
        let cost = Cost::of(&Device::Cpu, 1, || {
            let mut bytes = vec![0u8; 64 << 20];
            let start = Instant::now();
            while start.elapsed().as_secs_f64() < 0.1 {
                bytes.iter_mut().step_by(4096).for_each(|byte| *byte = byte.wrapping_add(1));
            }
            assert!(std::hint::black_box(&bytes)[0] > 0);
            Ok(())
        });
        let cost = cost.unwrap();
        assert!(cost.seconds >= 0.1 && cost.cpu_seconds.unwrap() > 0.0);
        assert!(cost.peak_bytes.unwrap() >= 64 << 20);
    }
}
