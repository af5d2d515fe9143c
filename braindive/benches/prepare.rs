//! What preparing a subject costs against reading its betas: `cargo bench -p braindive --bench prepare -- ROOT [SUBJECT] [ROUNDS]`, where ROOT
//! is what `worker simulate-subject --real-size` or NSD itself put there.
//!
//! Prints one JSON object. Each round reads the files of the betas plainly, in pieces of 8 MB, and then prepares the subject; before each the
//! files' pages are dropped from the kernel's cache, so that both read from the disk. `betas`: from the first byte of the first session to
//! the last session's record on disk, hashing, picking and z-scoring included. `peak_bytes`: the largest resident memory of the process
//! (VmHWM).
#![allow(clippy::unwrap_used)]

use braindive::nsd::prepare::{Plan, Settings, run};
use braindive::nsd::{Subject, layout::Layout};
use rustix::fs::{Advice, fadvise};
use serde_json::json;
use std::fs::File;
use std::io::Read;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let Some(root) = arguments.first().map(PathBuf::from) else {
        eprintln!("prepare: name the root of a dataset; nothing is measured without one");
        return;
    };
    let subject: Subject = arguments.get(1).map_or("1", String::as_str).parse().unwrap();
    let rounds: usize = arguments.get(2).map_or(3, |rounds| rounds.parse().unwrap());
    let folder = Layout::new(&root).betas(subject, &Settings::default().betas);
    let files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "hdf5"))
        .collect();
    let settings = Settings { root, sessions: Some(files.len()), ..Settings::default() };
    let plan = Plan::new(subject, &settings).unwrap();
    let bytes: u64 = files.iter().map(|file| std::fs::metadata(file).unwrap().len()).sum();

    let (mut plain, mut betas, mut whole, mut share) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        files.iter().for_each(|file| forget(file));
        let start = Instant::now();
        files.iter().for_each(|file| read(file));
        plain.push(start.elapsed().as_secs_f64());

        files.iter().for_each(|file| forget(file));
        let place = tempfile::tempdir_in(".").unwrap();
        let (start, mut read) = (Instant::now(), 0.0);
        let mut progress = |done, _| {
            if done <= bytes {
                read = start.elapsed().as_secs_f64();
            }
            ControlFlow::Continue(())
        };
        let from = Instant::now();
        run(subject, &settings, &place.path().join("out"), &round.to_string(), "bench", &mut progress).unwrap();
        whole.push(from.elapsed().as_secs_f64());
        betas.push(read);
        share.push(plain[round] / read);
        eprintln!("round {round}: plain {:.2} s, betas {read:.2} s, whole {:.2} s", plain[round], whole[round]);
    }
    let rate = |seconds: &[f64]| bytes as f64 / median(seconds) / 1e9;
    let report = json!({
        "sessions": files.len(),
        "bytes": bytes,
        "voxels": plan.voxels.len(),
        "images": plan.images.len(),
        "plain_read_gb_per_second": rate(&plain),
        "betas_gb_per_second": rate(&betas),
        "share_of_plain_read": median(&share),
        "share_by_round": share,
        "whole_seconds": median(&whole),
        "peak_bytes": peak(),
    });
    println!("{}", serde_json::to_string_pretty(&report).unwrap());
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

fn median(seconds: &[f64]) -> f64 {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}
