//! Chaos: a coordinator and four workers on simulated jobs, while processes are killed and frozen, links cut and the disk filled at
//! random moments. At the end every job must be done exactly once, and nothing that was acknowledged may be missing.
//!
//!     cargo build --workspace --bins && cargo run --bin chaos -- --kills 200 [--seed N] [--json FILE]
//!
//! The seed decides the order of events; the moments are the machine's.

mod arena;
mod event;
mod record;
mod tally;

use arena::Arena;
use clap::Parser;
use event::{Event, Events};
use std::path::PathBuf;
use std::time::Instant;
use tally::Tally;

#[derive(Debug, Parser)]
#[command(
    about = "Kills, freezes and cuts off a coordinator and its workers, and checks that nothing is lost or done twice"
)]
struct Arguments {
    /// How many processes to kill with -9
    #[arg(long, default_value_t = 200)]
    kills: u32,
    /// Decides the order of events [default: drawn, and printed]
    #[arg(long)]
    seed: Option<u64>,
    /// Cut links by proxies, also where network namespaces can be had
    #[arg(long)]
    proxies: bool,
    /// Also write the tally to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() {
    let Arguments { kills, seed, proxies, json } = Arguments::parse();
    let seed = seed.unwrap_or_else(rand::random);
    let start = Instant::now();
    let mut events = Events::new(seed, kills);
    let mut arena = Arena::open(proxies);
    eprintln!("seed {seed}, {}, {}", arena.network(), arena.disk());
    let mut tally = Tally::new(seed);
    while tally.kills() < kills {
        let event = events.draw(&arena.standings(), tally.kills());
        arena.wait_for_the_moment(events.moment());
        tally.count(event);
        arena.strike(event);
        if matches!(event, Event::KillCoordinator | Event::KillWorker(_)) && tally.kills().is_multiple_of(20) {
            eprintln!(
                "{:4} kills, {:6} jobs done, {:.0} s",
                tally.kills(),
                arena.done(),
                start.elapsed().as_secs_f64()
            );
        }
    }
    arena.calm();
    record::check(&arena);
    tally.read(&arena, start.elapsed());
    print!("{tally}");
    println!("{}", tally.json());
    if let Some(path) = json {
        std::fs::write(&path, tally.json().to_string())
            .unwrap_or_else(|error| panic!("writing {}: {error}", path.display()));
    }
    assert_eq!(tally.lost(), 0, "acknowledged results are missing");
}
