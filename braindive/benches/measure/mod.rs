//! How the benchmarks measure: a part is run again and again until the clock's ticks do not show.

use std::time::{Duration, Instant};

/// A part is repeated for at least this long, so that the kernel's clock ticks of 10 ms do not show.
const AT_LEAST: Duration = Duration::from_millis(1500);

/// What one run of a part takes.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// Wall-clock time, the median.
    pub seconds: f64,
    /// User and system time of all threads, the mean.
    pub cpu_seconds: Option<f64>,
}

/// Runs `part` once to warm up, then measures it.
pub fn measure<R>(part: impl Fn() -> R) -> Measured {
    part();
    let (mut seconds, begin, cpu_begin) = (Vec::new(), Instant::now(), cpu_seconds());
    while begin.elapsed() < AT_LEAST {
        let start = Instant::now();
        std::hint::black_box(part());
        seconds.push(start.elapsed().as_secs_f64());
    }
    let cpu_seconds = cpu_begin.zip(cpu_seconds()).map(|(begin, end)| (end - begin) / seconds.len() as f64);
    seconds.sort_by(f64::total_cmp);
    Measured { seconds: seconds[seconds.len() / 2], cpu_seconds }
}

/// The words on the command line: only parts whose names contain one of them are measured, all if there is none.
#[derive(Debug)]
pub struct Wanted(Vec<String>);

impl Wanted {
    pub fn from_arguments() -> Self {
        Self(std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect())
    }

    pub fn contains(&self, name: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|word| name.contains(word))
    }
}

/// User and system time of all threads of this process (`/proc/PID/stat`, fields 14 and 15, in hundredths of a second).
pub fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = |field: usize| fields.get(field - 3)?.parse::<f64>().ok();
    Some((ticks(14)? + ticks(15)?) / 100.0)
}
