//! The job table at size: what a plan of a million jobs costs, and what claims, finishes, restarts and pages cost beside it.
//!
//!     cargo bench -p coordinator --bench queue [-- --quick]
//!
//! Prints JSON; what it is doing goes to stderr. The coordinator is a process of its own, so that its time and memory are told from those
//! of the 64 workers, which are tasks of this one and share the machine's cores with it. Jobs are simulated; all results name one
//! image, so that a finish measures the table and not the store of images.

mod figure;
mod grid;
mod load;
mod machine;
mod server;

use coordinator::queue::{Queue, Settings};
use figure::{Figure, median};
use load::{Client, Load, Pace};
use machine::Machine;
use serde::Serialize;
use server::Server;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// How much is measured.
struct Extent {
    /// Rows of the tables; pages, memory and restart are measured on `large`.
    rows: &'static [u64],
    large: u64,
    rounds: usize,
    stretch: Duration,
}

const FULL: Extent = Extent {
    rows: &[10_000, 100_000, 1_000_000, 5_000_000],
    large: 1_000_000,
    rounds: 3,
    stretch: Duration::from_secs(5),
};
const QUICK: Extent = Extent { rows: &[20_000, 100_000], large: 100_000, rounds: 1, stretch: Duration::from_secs(2) };

#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    figures: Vec<Figure>,
    /// Claims and finishes at saturation by rows of the table; medians over rounds that take the tables in turns.
    by_rows: BTreeMap<u64, Load>,
    /// At 1,000 claims and finishes a second.
    paced: Load,
    /// Milliseconds until a page had come whole, median and longest, and its bytes.
    pages: BTreeMap<String, (f64, f64, usize)>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let extent = if std::env::args().any(|argument| argument == "--quick") { QUICK } else { FULL };
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let place = |rows: u64| folder.path().join(rows.to_string());
    eprintln!("the machine");
    let machine = Machine::measure(folder.path(), extent.stretch / 2).await?;
    let mut figures = Vec::new();
    for &rows in extent.rows {
        figures.extend(fill(&place(rows), rows).await?);
    }

    let mut loads: BTreeMap<u64, Vec<Load>> = BTreeMap::new();
    for round in 1..=extent.rounds {
        for &rows in extent.rows {
            eprintln!("claims and finishes at saturation, {rows} rows, round {round}");
            let server = Server::start(&place(rows))?;
            let duration = extent.stretch.min(Duration::from_millis(rows / 8));
            loads.entry(rows).or_default().push(load::run(&server, Pace::Saturated, duration).await?);
        }
    }
    let by_rows: BTreeMap<u64, Load> =
        loads.into_iter().map(|(rows, mut rounds)| (rows, middle(&mut rounds))).collect();
    let large = place(extent.large);
    eprintln!("1,000 claims and finishes a second");
    let server = Server::start(&large)?;
    let paced = load::run(&server, Pace::PerSecond(1000.0), 2 * extent.stretch).await?;
    server.kill()?;
    let saturated = &by_rows[&extent.large];
    let bare = machine.bare_claim_finish_per_second;
    figures.extend([
        Figure::above("claims and finishes at saturation", saturated.per_second, "/s", 1000.0),
        Figure::plain("the same against a bare SQLite loop", saturated.per_second / bare, "×"),
        Figure::below("claim at 1,000/s, 99th percentile", paced.claim_p99_ms, "ms", 20.0),
        Figure::plain("finish at 1,000/s, 99th percentile", paced.finish_p99_ms, "ms"),
        flatness("largest deviation by rows, jobs per second", &by_rows, |load| load.per_second),
        flatness("largest deviation by rows, processor time of the coordinator", &by_rows, |load| load.server_cpu_ms),
        Figure::below("start to first claim, after kill -9", restart(&large, 5).await?, "s", 1.0),
    ]);

    eprintln!("pages and memory");
    grid::finish_half(&large.join("campaign.db")).await?;
    let server = Server::start(&large)?;
    let pages = pages(&server).await?;
    let slowest = pages.values().map(|(median, ..)| *median).fold(0.0, f64::max);
    figures.push(Figure::below("slowest page, median", slowest, "ms", 100.0));
    load::run(&server, Pace::Saturated, extent.stretch).await?;
    figures.push(Figure::below("resident memory of the coordinator", server.resident_mb()?, "MB", 200.0));
    server.kill()?;

    let report = Report { machine, figures, by_rows, paced, pages };
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}

/// A new table of `rows` jobs, and the same plan once more.
async fn fill(folder: &Path, rows: u64) -> anyhow::Result<Vec<Figure>> {
    eprintln!("planning and inserting {rows} jobs");
    let queue = Queue::open(&folder.join("campaign.db"), Settings::default()).await?;
    let mut seconds = Vec::new();
    for expected in [rows, 0] {
        let start = Instant::now();
        let submitted = queue.submit(grid::plan(rows)).await?;
        seconds.push(start.elapsed().as_secs_f64());
        anyhow::ensure!(submitted.new_jobs == expected, "{} new jobs instead of {expected}", submitted.new_jobs);
    }
    queue.close().await;
    let (insert, again) = (format!("plan and insert {rows} jobs"), format!("submit {rows} jobs again"));
    Ok(match rows {
        100_000 => vec![Figure::below(insert, seconds[0], "s", 2.0), Figure::plain(again, seconds[1], "s")],
        1_000_000 => vec![Figure::below(insert, seconds[0], "s", 15.0), Figure::below(again, seconds[1], "s", 5.0)],
        _ => vec![Figure::plain(insert, seconds[0], "s"), Figure::plain(again, seconds[1], "s")],
    })
}

/// The round with the median rate.
fn middle(rounds: &mut [Load]) -> Load {
    rounds.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
    rounds[rounds.len() / 2].clone()
}

/// How far the tables lie from their median, per cent.
fn flatness(what: &str, by_rows: &BTreeMap<u64, Load>, value: impl Fn(&Load) -> f64) -> Figure {
    let mut values: Vec<f64> = by_rows.values().map(value).collect();
    let middle = median(&mut values);
    let deviation = values.iter().map(|value| 100.0 * (value / middle - 1.0).abs()).fold(0.0, f64::max);
    Figure::below(what, deviation, "%", 10.0)
}

/// Seconds from the start of the process to the answer to a known worker's claim, median; every process is killed with -9.
async fn restart(folder: &Path, times: usize) -> anyhow::Result<f64> {
    let server = Server::start(folder)?;
    let worker = Client::new(&server.endpoint)?.register(0).await?;
    server.kill()?;
    let mut seconds = Vec::new();
    for _ in 0..times {
        let server = Server::start(folder)?;
        let claimed = Client::new(&server.endpoint)?.claim(worker, Vec::new()).await?;
        seconds.push(server.started.elapsed().as_secs_f64());
        anyhow::ensure!(claimed.jobs.len() == 1, "nothing was claimed");
        server.kill()?;
    }
    Ok(median(&mut seconds))
}

async fn pages(server: &Server) -> anyhow::Result<BTreeMap<String, (f64, f64, usize)>> {
    const TIMES: usize = 15;
    let client = Client::new(&server.endpoint)?;
    let mut pages = BTreeMap::new();
    let experiment = format!("/experiments/{}", grid::NAME);
    for path in ["/", &experiment, "/conditions/1", "/jobs/1", "/jobs/2", "/workers", "/failures"] {
        let (mut times, mut bytes) = (Vec::new(), 0);
        for _ in 0..TIMES {
            let (seconds, size) = client.page(path).await?;
            times.push(1e3 * seconds);
            bytes = size;
        }
        pages.insert(path.to_owned(), (median(&mut times), times[TIMES - 1], bytes));
    }
    let mut times = Vec::new();
    for _ in 0..TIMES {
        times.push(1e3 * client.first_event().await?);
    }
    pages.insert("/events (first word)".to_owned(), (median(&mut times), times[TIMES - 1], 0));
    Ok(pages)
}
