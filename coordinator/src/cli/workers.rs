//! `coordinator workers`: who works, and on what.

use super::Database;
use super::table::Table;
use crate::queue::view::moment::duration;
use crate::queue::view::{self, Snapshot, WORKER_HISTORY};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    database: Database,
    /// Also workers that were not heard of for a day
    #[arg(long)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let reader = view::open(&self.database.db).await?;
        let mut snapshot = Snapshot::take(&reader).await?;
        let now = snapshot.now();
        let workers = snapshot.workers(if self.all { 0 } else { now - WORKER_HISTORY }).await?;
        if self.json {
            println!("{}", serde_json::to_string(&workers)?);
            return Ok(ExitCode::SUCCESS);
        }
        if workers.is_empty() {
            println!("no workers: start one with `worker`");
            return Ok(ExitCode::SUCCESS);
        }
        let mut table =
            Table::new([">WORKER", "NAME", "STATE", "DEVICE", ">HEARD OF", ">JOB", "OF", ">SEED", ">STEP", ">FOR"]);
        for worker in &workers {
            let own = |rest: [String; 5]| {
                let [job, of, seed, step, time] = rest;
                [
                    worker.id.to_string(),
                    worker.name.clone(),
                    if worker.quarantine.is_some() { "quarantined".to_owned() } else { worker.activity.clone() },
                    worker.device_name.clone(),
                    duration(now - worker.heartbeat_at),
                    job,
                    of,
                    seed,
                    step,
                    time,
                ]
            };
            if worker.running.is_empty() {
                table.row(own(std::array::from_fn(|_| "-".to_owned())));
            }
            for running in &worker.running {
                table.row(own([
                    running.job.to_string(),
                    format!("{} {}", running.subject, running.region),
                    running.seed.to_string(),
                    format!("{}/{}", running.step, running.steps),
                    duration(now - running.started_at),
                ]));
            }
        }
        print!("{table}");
        let mut quarantined: Vec<_> =
            workers.iter().filter_map(|worker| Some((&worker.device_key, worker.quarantine.as_ref()?))).collect();
        quarantined.sort_unstable();
        quarantined.dedup();
        for (device, reason) in quarantined {
            println!("\nquarantined: {device} gets no jobs, because: {reason}");
            println!("  when it is well again: coordinator release-device {device}");
        }
        Ok(ExitCode::SUCCESS)
    }
}
