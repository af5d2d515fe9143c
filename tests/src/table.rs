//! Looking into the job table from outside, read-only, as a suspicious user would.

use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A read-only view of the database file.
#[derive(Debug)]
pub struct Table {
    runtime: tokio::runtime::Runtime,
    pool: SqlitePool,
    database: PathBuf,
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

/// A counted result as it was delivered.
#[derive(Debug)]
pub struct Delivered {
    pub region: String,
    pub axes: String,
    pub seed: i64,
    pub body: serde_json::Value,
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
        Self { runtime, pool, database: database.to_owned() }
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

    /// The counted results of an experiment, in the order of the grid.
    pub fn delivered(&self, experiment: &str) -> Vec<Delivered> {
        let query = "SELECT c.region, c.axes, j.seed, r.body FROM result r JOIN job j ON j.id = r.job_id
                     JOIN condition c ON c.id = j.condition_id JOIN experiment e ON e.id = c.experiment_id
                     WHERE r.counted = 1 AND e.name = ? ORDER BY c.region, c.axes, j.seed";
        let rows: Vec<(String, String, i64, String)> = self
            .runtime
            .block_on(sqlx::query_as(query).bind(experiment).fetch_all(&self.pool))
            .expect("the query runs");
        rows.into_iter()
            .map(|(region, axes, seed, body)| {
                let body = serde_json::from_str(&body).expect("a body is JSON");
                Delivered { region, axes, seed, body }
            })
            .collect()
    }

    /// Asserts what must hold of every database at every moment, images included.
    pub fn assert_sound(&self) {
        let check = Command::new(crate::binary("coordinator")).arg("check").arg("--db").arg(&self.database).output();
        let check = check.expect("the program starts");
        let text = [check.stdout, check.stderr].concat();
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&text));
    }
}
