//! Grids of simulated jobs of any size, and tables in which half of one is done.

use anyhow::Context;
use coordinator::plan::{Experiment, Plan, PlannedCondition};
use coordinator::queue::open_database;
use protocol::ids::{Digest, Seed};
use protocol::job::{Condition, Kind, SimulateCondition};
use sha2::{Digest as _, Sha256};
use sqlx::Connection;
use std::collections::BTreeMap;
use std::path::Path;

/// The one experiment of a table.
pub const NAME: &str = "load";
/// Of every condition, as in the paper's grids.
const SEEDS: u64 = 500;
/// The bytes of the one image that every result names.
pub const IMAGE: &[u8] = b"\x89PNG\r\n\x1a\n and nothing more";

pub fn image() -> Digest {
    Digest::from_bytes(&Sha256::digest(IMAGE).into())
}

/// Subjects × regions × a swept axis × 500 seeds.
pub fn plan(jobs: u64) -> Plan {
    let conditions = (0..jobs / SEEDS).map(|number| {
        let (subject, region) = (format!("subj{:02}", number % 8 + 1), format!("region{:02}", number / 8 % 20));
        let seconds = 20.0 + (number / 160) as f64;
        let spec = SimulateCondition {
            subject: subject.clone(),
            region: region.clone(),
            seconds,
            spread: 0.2,
            fail: BTreeMap::new(),
            bytes: 0,
        };
        let axes = BTreeMap::from([("seconds".to_owned(), seconds.into())]);
        let key = Digest::from_bytes(&Sha256::digest(format!("{subject} {region} {seconds}")).into());
        PlannedCondition { key, subject, region, axes, spec: Condition::Simulate(spec) }
    });
    Plan {
        experiment: Experiment {
            name: NAME.to_owned(),
            description: "jobs that only take time".to_owned(),
            kind: Kind::Simulate,
            priority: 0,
            share: 1.0,
            max_attempts: 3,
            max_losses: 5,
            needs: Vec::new(),
            budget_gpu_hours: Some(1500.0),
            yaml: format!("name: {NAME}\n"),
        },
        conditions: conditions.collect(),
        seeds: (0..SEEDS).map(Seed).collect(),
    }
}

/// Brings every second ready job to its end, nine of ten of them with a result, by the transitions that the queue takes: all
/// constraints and triggers of the schema see every row.
pub async fn finish_half(db: &Path) -> anyhow::Result<()> {
    let mut connection = open_database(db).await?;
    let mut transaction = connection.begin().await?;
    let worker = "(SELECT id FROM worker LIMIT 1) + id % (SELECT count(*) FROM worker)";
    let moved = format!(
        "UPDATE job SET state = 'running', fence = fence + 1, worker_id = {worker}, lease_until = 1, updated_at = 1
         WHERE state = 'ready' AND id % 2 = 0"
    );
    let ended = "INSERT INTO attempt (job_id, fence, worker_id, device, started_at, outcome)
                 SELECT id, fence, worker_id, 'cpu', unixepoch() * 1000 - id, 'running' FROM job WHERE lease_until = 1";
    let steps = [
        moved.as_str(),
        ended,
        "UPDATE attempt SET ended_at = started_at + 20000, device_s = 20, sampling_s = 20,
                outcome = iif(job_id % 20 = 0, 'failed', 'done'), class = iif(job_id % 20 = 0, 'io', NULL),
                message = iif(job_id % 20 = 0, 'reading file ' || job_id % 5, NULL)
         WHERE job_id IN (SELECT id FROM job WHERE lease_until = 1) AND outcome = 'running'",
        "INSERT INTO result (job_id, condition_id, fence, counted, worker_id, image_sha256, body, created_at)
         SELECT id, condition_id, fence, 1, worker_id, (SELECT sha256 FROM artifact), '{}', unixepoch() * 1000 - id
         FROM job WHERE lease_until = 1 AND id % 20 <> 0",
        "UPDATE job SET state = iif(id % 20 = 0, 'failed', 'done'), attempts = iif(id % 20 = 0, max_attempts, 1),
                worker_id = NULL, lease_until = NULL WHERE lease_until = 1",
    ];
    for step in steps {
        let step = sqlx::AssertSqlSafe(step.to_owned());
        sqlx::query(step).execute(&mut *transaction).await.context("finishing half of the jobs")?;
    }
    transaction.commit().await?;
    connection.close().await?;
    Ok(())
}
