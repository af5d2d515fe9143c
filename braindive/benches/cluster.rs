//! Measures soft EM for von Mises-Fisher mixtures on rows and from starts that `cluster.py` beside it made; that one runs the same EM in NumPy,
//! in turns with this.
//!
//! ```text
//! cargo bench --bench cluster -- ROWS STARTS
//! ```
//!
//! ROWS: float32, 512 a row. STARTS: JSON, for every k a list of starts, each the numbers of k rows. Prints a line of JSON for every k: the
//! time of all its starts, and of every start EM's steps and the log-likelihood per row before the last of them.
#![allow(clippy::unwrap_used)]

#[allow(dead_code, reason = "the rounds are the caller's")]
mod measure;

use braindive::cluster::{Assignment, Directions, Mixture};
use measure::cpu_seconds;
use std::collections::BTreeMap;
use std::time::Instant;

const DIMENSION: usize = 512;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [rows, starts] = &arguments[..] else {
        eprintln!("cluster: name the rows and the starts that cluster.py writes; nothing is measured without them");
        return;
    };
    let bytes = std::fs::read(rows).unwrap();
    let values: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    let rows = Directions::new(&values, DIMENSION).unwrap();
    let starts: BTreeMap<usize, Vec<Vec<usize>>> = serde_json::from_slice(&std::fs::read(starts).unwrap()).unwrap();
    for (k, starts) in starts {
        let (begin, cpu) = (Instant::now(), cpu_seconds().unwrap_or(f64::NAN));
        let fit = |start: &Vec<usize>| {
            let means = start.iter().map(|&row| rows.row(row).to_vec()).collect();
            Mixture::around(means).fit(&rows, Assignment::Soft).unwrap().log_likelihood
        };
        let log_likelihood: Vec<Vec<f64>> = starts.iter().map(fit).collect();
        let (seconds, cpu) = (begin.elapsed().as_secs_f64(), cpu_seconds().unwrap_or(f64::NAN) - cpu);
        let steps: Vec<usize> = log_likelihood.iter().map(Vec::len).collect();
        let last: Vec<f64> = log_likelihood.iter().filter_map(|course| course.last().copied()).collect();
        let found =
            serde_json::json!({ "k": k, "seconds": seconds, "cpu": cpu, "steps": steps, "log_likelihood": last });
        println!("{found}");
    }
}
