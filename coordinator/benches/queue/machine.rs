//! What the machine itself can do, measured in the same run: durable appends, and SQLite without a queue around it.

use crate::figure::median;
use anyhow::Context;
use serde::Serialize;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

#[derive(Debug, Serialize)]
pub struct Machine {
    pub cores: usize,
    /// An append of 4 KiB made durable with fdatasync, median.
    pub fsync_ms: f64,
    /// Per second, one after the other: 1 / median.
    pub fsyncs_per_second: f64,
    /// One row claimed and then finished, each in a transaction of its own, per second; pragmas as the job table has them.
    pub bare_claim_finish_per_second: f64,
}

impl Machine {
    /// Measures on the file system of `folder`.
    pub async fn measure(folder: &Path, at_least: Duration) -> anyhow::Result<Self> {
        let fsync = fsync_seconds(&folder.join("append"), at_least).context("measuring durable appends")?;
        Ok(Self {
            cores: std::thread::available_parallelism()?.get(),
            fsync_ms: fsync * 1e3,
            fsyncs_per_second: 1.0 / fsync,
            bare_claim_finish_per_second: bare_loop(&folder.join("bare.db"), at_least).await?,
        })
    }
}

fn fsync_seconds(path: &Path, at_least: Duration) -> std::io::Result<f64> {
    let (mut file, block) = (File::create(path)?, [7_u8; 4096]);
    let (begin, mut seconds) = (Instant::now(), Vec::new());
    while begin.elapsed() < at_least {
        let start = Instant::now();
        file.write_all(&block)?;
        file.sync_data()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    Ok(median(&mut seconds))
}

async fn bare_loop(path: &Path, at_least: Duration) -> anyhow::Result<f64> {
    let mut connection = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("cache_size", "-65536")
        .connect()
        .await?;
    for statement in [
        "CREATE TABLE task (id INTEGER PRIMARY KEY, state TEXT NOT NULL, worker INTEGER, lease INTEGER) STRICT",
        "CREATE INDEX task_ready ON task (id) WHERE state = 'ready'",
        "INSERT INTO task (state) WITH RECURSIVE n AS (SELECT 1 UNION ALL SELECT 1 FROM n LIMIT 100000) SELECT 'ready' FROM n",
    ] {
        sqlx::query(statement).execute(&mut connection).await?;
    }
    let (begin, mut pairs) = (Instant::now(), 0);
    while begin.elapsed() < at_least {
        let id: i64 = sqlx::query_scalar(
            "UPDATE task SET state = 'running', worker = 1, lease = 1
             WHERE id = (SELECT id FROM task WHERE state = 'ready' ORDER BY id LIMIT 1) RETURNING id",
        )
        .fetch_one(&mut connection)
        .await?;
        sqlx::query("UPDATE task SET state = 'done', worker = NULL, lease = NULL WHERE id = ? AND state = 'running'")
            .bind(id)
            .execute(&mut connection)
            .await?;
        pairs += 1;
    }
    let rate = f64::from(pairs) / begin.elapsed().as_secs_f64();
    connection.close().await?;
    Ok(rate)
}
