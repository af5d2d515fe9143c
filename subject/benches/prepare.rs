//! What preparing a subject costs against reading its betas: `cargo bench -p subject --bench prepare -- ROOT [SUBJECT] [ROUNDS]`, where ROOT
//! is what `worker simulate-subject --real-size` or NSD itself put there.
//!
//! Prints one JSON object. Each round reads the files of the betas plainly, in pieces of 8 MB; reads and hashes them, which provenance asks
//! for; and prepares the subject; the order is turned around from round to round. Before each the disk reads the files twice, since many
//! are faster for the first gigabytes after a rest, which 40 sessions outlast, and the files' pages are dropped from the kernel's cache, so
//! that all read from the disk. Medians are given. `betas`: from the first piece to the last session's record on disk, hashing, picking and
//! z-scoring included. `plan`: what comes before, once a subject: looking at everything that is asked for, and hashing what is small. `peak_bytes`: the largest resident memory of the process (VmHWM).
#![allow(clippy::unwrap_used)]

#[allow(dead_code)]
#[path = "../../braindive/benches/measure/mod.rs"]
mod measure;

use measure::cpu_seconds;
use rustix::fs::{Advice, fadvise};
use serde_json::json;
use std::fmt::{Display, Formatter};
use std::fs::File;
use std::io::Read;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;
use subject::nsd::Subject;
use subject::nsd::betas::{Pick, Session};
use subject::nsd::layout::{BetasFormat, Layout};
use subject::nsd::prepare::{Plan, Settings, run};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let Some(root) = arguments.first().map(PathBuf::from) else {
        eprintln!("prepare: name the root of a dataset; nothing is measured without one");
        return;
    };
    let subject: Subject = arguments.get(1).map_or("1", String::as_str).parse().unwrap();
    let rounds: usize = arguments.get(2).map_or(4, |rounds| rounds.parse().unwrap());
    let folder = Layout::new(&root).betas(subject, &Settings::default().betas);
    let files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "hdf5"))
        .collect();
    let settings = Settings { root, sessions: Some(files.len()), ..Settings::default() };
    let plan = Plan::new(subject, &settings).unwrap();
    let bytes: u64 = files.iter().map(|file| std::fs::metadata(file).unwrap().len()).sum();

    let [mut plain, mut hashed, mut plans, mut betas, mut whole] = [const { Vec::new() }; 5];
    let pick = Pick::new([0; 3], &[]);
    let tire = || {
        for _ in 0..2 {
            files.iter().for_each(|file| forget(file));
            files.iter().for_each(|file| read(file));
        }
        files.iter().for_each(|file| forget(file));
    };
    let mut read_plainly = || {
        tire();
        let start = Start::now();
        files.iter().for_each(|file| read(file));
        plain.push(start.cost());
    };
    let mut read_and_hash = || {
        tire();
        let start = Start::now();
        for path in &files {
            let session = Session { path: path.clone(), format: BetasFormat::Hdf5 };
            session.pass(&pick, String::new(), &mut |_| ControlFlow::Continue(())).unwrap();
        }
        hashed.push(start.cost());
    };
    let mut prepare = |round: usize| {
        tire();
        let place = tempfile::tempdir_in(".").unwrap();
        let start = Start::now();
        let (mut begun, mut read) = (None, start.cost());
        let mut progress = |done, _| {
            begun.get_or_insert_with(|| start.cost());
            if done <= bytes {
                read = start.cost();
            }
            ControlFlow::Continue(())
        };
        run(subject, &settings, &place.path().join("out"), &round.to_string(), "bench", &mut progress).unwrap();
        whole.push(start.cost());
        let begun = begun.unwrap();
        plans.push(begun);
        betas.push(Cost { seconds: read.seconds - begun.seconds, cpu: read.cpu - begun.cpu });
    };
    for round in 0..rounds {
        if round % 2 == 0 {
            read_plainly();
            read_and_hash();
            prepare(round);
        } else {
            prepare(round);
            read_and_hash();
            read_plainly();
        }
    }
    for (round, (plain, hashed)) in plain.iter().zip(&hashed).enumerate() {
        let (plan, betas, whole) = (plans[round], betas[round], whole[round]);
        eprintln!("round {round}: plain {plain}, hashed {hashed}, plan {plan}, betas {betas}, whole {whole}");
    }
    let rate = |costs: &[Cost]| bytes as f64 / median(costs.iter().map(|cost| cost.seconds)) / 1e9;
    let cpu = |costs: &[Cost]| median(costs.iter().map(|cost| cost.cpu));
    let report = json!({
        "sessions": files.len(),
        "bytes": bytes,
        "voxels": plan.voxels.len(),
        "images": plan.images.len(),
        "plain_read_gb_per_second": rate(&plain),
        "plain_read_cpu_seconds": cpu(&plain),
        "hashed_gb_per_second": rate(&hashed),
        "hashed_cpu_seconds": cpu(&hashed),
        "plan_seconds": median(plans.iter().map(|cost| cost.seconds)),
        "betas_gb_per_second": rate(&betas),
        "betas_cpu_seconds": cpu(&betas),
        "share_of_plain_read": rate(&betas) / rate(&plain),
        "share_of_read_and_hashed": rate(&betas) / rate(&hashed),
        "whole_seconds": median(whole.iter().map(|cost| cost.seconds)),
        "whole_cpu_seconds": cpu(&whole),
        "peak_bytes": peak(),
    });
    println!("{}", serde_json::to_string_pretty(&report).unwrap());
}

/// What something took.
#[derive(Clone, Copy)]
struct Cost {
    seconds: f64,
    /// Of all threads, in user space and in the kernel.
    cpu: f64,
}

impl Display for Cost {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} s ({:.2} CPU-s)", self.seconds, self.cpu)
    }
}

struct Start {
    at: Instant,
    cpu: f64,
}

impl Start {
    fn now() -> Self {
        Self { at: Instant::now(), cpu: cpu_seconds().unwrap_or(f64::NAN) }
    }

    fn cost(&self) -> Cost {
        Cost { seconds: self.at.elapsed().as_secs_f64(), cpu: cpu_seconds().unwrap_or(f64::NAN) - self.cpu }
    }
}

/// Drops the file's pages from the cache.
fn forget(path: &Path) {
    let file = File::open(path).unwrap();
    file.sync_all().unwrap();
    fadvise(&file, 0, None, Advice::DontNeed).unwrap();
}

fn read(path: &Path) {
    let (mut file, mut piece) = (File::open(path).unwrap(), vec![0; 8 << 20]);
    while file.read(&mut piece).unwrap() > 0 {}
}

fn median(seconds: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = seconds.collect();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}
