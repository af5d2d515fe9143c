//! Looking into the job table from outside, read-only, as a suspicious user would.

use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A read-only view of the database file.
#[derive(Debug)]
pub struct Table {
    runtime: tokio::runtime::Runtime,
    pool: SqlitePool,
}

/// A counted result: which job, and what must be the same however often it is computed.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct Counted {
    pub subject: String,
    pub region: String,
    pub axes: String,
    pub seed: i64,
    pub image_sha256: String,
    pub activation: f64,
    pub probe_class: String,
    pub similarity: String,
}

impl Table {
    /// Waits until `jobs` jobs are done; none may fail.
    pub fn wait_until_done(&self, jobs: i64) {
        crate::wait_for("every job to be done", || {
            assert_eq!(self.number("SELECT count(*) FROM job WHERE state IN ('failed', 'cancelled')"), 0);
            (self.number("SELECT count(*) FROM job WHERE state = 'done'") == jobs).then_some(())
        });
    }

    pub fn open(database: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
        let options = SqliteConnectOptions::new().filename(database).read_only(true);
        let pool = runtime
            .block_on(SqlitePoolOptions::new().max_connections(1).connect_with(options))
            .expect("the database opens");
        Self { runtime, pool }
    }

    /// The one number that a query gives.
    pub fn number(&self, query: &'static str) -> i64 {
        self.runtime.block_on(sqlx::query_scalar(query).fetch_one(&self.pool)).expect("the query runs")
    }

    /// The one number that a query with one parameter gives.
    pub fn number_of(&self, query: &'static str, parameter: i64) -> i64 {
        self.runtime.block_on(sqlx::query_scalar(query).bind(parameter).fetch_one(&self.pool)).expect("the query runs")
    }

    /// The distinct numbers that a query gives.
    pub fn set(&self, query: &'static str) -> BTreeSet<i64> {
        let rows: Vec<i64> =
            self.runtime.block_on(sqlx::query_scalar(query).fetch_all(&self.pool)).expect("the query runs");
        rows.into_iter().collect()
    }

    /// Subject, region, seed and image of every counted result, in an order that does not depend on who computed them when.
    pub fn images(&self) -> Vec<(String, String, i64, String)> {
        let query = "SELECT c.subject, c.region, j.seed, r.image_sha256
                     FROM result r JOIN job j ON j.id = r.job_id JOIN condition c ON c.id = j.condition_id
                     WHERE r.counted = 1 ORDER BY c.subject, c.region, j.seed";
        self.runtime.block_on(sqlx::query_as(query).fetch_all(&self.pool)).expect("the query runs")
    }

    /// All counted results, in an order that does not depend on who computed them when.
    pub fn counted(&self) -> Vec<Counted> {
        let query = "SELECT c.subject, c.region, c.axes, j.seed, r.image_sha256, r.activation, r.probe_class,
                            json_extract(r.body, '$.probe.similarity') AS similarity
                     FROM result r JOIN job j ON j.id = r.job_id JOIN condition c ON c.id = j.condition_id
                     WHERE r.counted = 1 ORDER BY c.subject, c.region, c.axes, j.seed";
        self.runtime.block_on(sqlx::query_as(query).fetch_all(&self.pool)).expect("the query runs")
    }

    /// The counted results as they were delivered, by region; the last of each.
    pub fn bodies(&self) -> BTreeMap<String, serde_json::Value> {
        let query = "SELECT c.region, r.body FROM result r JOIN job j ON j.id = r.job_id
                     JOIN condition c ON c.id = j.condition_id WHERE r.counted = 1 ORDER BY j.id";
        let rows: Vec<(String, String)> =
            self.runtime.block_on(sqlx::query_as(query).fetch_all(&self.pool)).expect("the query runs");
        rows.into_iter().map(|(region, body)| (region, serde_json::from_str(&body).expect("a body is JSON"))).collect()
    }

    /// Asserts that sums of device seconds, kept attempt by attempt, are those of a recount, and that no worker computed for longer
    /// than it was up.
    pub fn assert_ledger_adds_up(&self) {
        let none = [
            (
                "conditions whose spent device seconds differ from their attempts'",
                "SELECT count(*) FROM (
                     SELECT condition_id, outcome, count(*) AS attempts, sum(device_s) AS seconds
                     FROM attempt JOIN job ON job.id = job_id WHERE outcome <> 'running' GROUP BY 1, 2) AS recount
                 FULL JOIN spent USING (condition_id, outcome)
                 WHERE recount.attempts IS NOT spent.attempts OR abs(seconds - gpu_seconds) > 1e-6 * (1 + seconds)",
            ),
            (
                "workers whose useful or wasted seconds differ from their attempts'",
                "SELECT count(*) FROM worker LEFT JOIN (
                     SELECT worker_id, sum(iif(outcome = 'done', device_s, 0)) AS useful, sum(iif(outcome = 'done', 0, device_s)) AS wasted
                     FROM attempt WHERE outcome <> 'running' GROUP BY 1) AS recount ON worker_id = worker.id
                 WHERE abs(useful_s - coalesce(useful, 0)) > 1e-6 * (1 + useful_s)
                    OR abs(wasted_s - coalesce(wasted, 0)) > 1e-6 * (1 + wasted_s)",
            ),
            (
                "workers that computed for longer than they were up",
                "SELECT count(*) FROM worker WHERE useful_s + wasted_s > (heartbeat_at - registered_at) / 1000.0 + 1",
            ),
        ];
        for (what, query) in none {
            assert_eq!(self.number(query), 0, "{what}");
        }
    }

    /// Asserts what must hold of every database at every moment.
    pub fn assert_sound(&self) {
        let none = [
            (
                "jobs done without exactly one counted result",
                "SELECT count(*) FROM job j WHERE (state = 'done') <> (SELECT count(*) FROM result r WHERE r.job_id = j.id AND r.counted = 1)",
            ),
            (
                "counters that differ from a recount",
                "SELECT count(*) FROM (
                SELECT condition_id, state, jobs FROM counter WHERE jobs > 0
                EXCEPT SELECT condition_id, state, count(*) FROM job GROUP BY condition_id, state)",
            ),
            (
                "recounts that no counter holds",
                "SELECT count(*) FROM (
                SELECT condition_id, state, count(*) FROM job GROUP BY condition_id, state
                EXCEPT SELECT condition_id, state, jobs FROM counter)",
            ),
            (
                "open attempts of jobs that do not run",
                "SELECT count(*) FROM attempt a JOIN job j ON j.id = a.job_id WHERE a.outcome = 'running' AND (j.state <> 'running' OR j.fence <> a.fence)",
            ),
            (
                "counted results without an attempt that ended as done",
                "SELECT count(*) FROM result r WHERE counted = 1 AND NOT EXISTS (
                SELECT 1 FROM attempt a WHERE a.job_id = r.job_id AND a.fence = r.fence AND a.outcome = 'done')",
            ),
        ];
        for (what, query) in none {
            assert_eq!(self.number(query), 0, "{what}");
        }
    }
}
