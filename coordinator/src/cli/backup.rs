//! `coordinator backup`: a consistent copy of the job table, made while a coordinator serves.

use super::Campaign;
use crate::queue::view;
use anyhow::{Context, bail, ensure};
use serde::Serialize;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    campaign: Campaign,
    /// The file to make; it must not be there yet
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    backup: PathBuf,
    bytes: u64,
    jobs: i64,
    /// Where the images are, which the copy does not hold.
    images: PathBuf,
}

impl Args {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let report = self.execute().await.with_context(|| format!("backing up to {}", self.file.display()))?;
        if self.json {
            writeln!(io::stdout(), "{}", serde_json::to_string(&report)?)?;
            return Ok(ExitCode::SUCCESS);
        }
        let (backup, images) = (report.backup.display(), report.images.display());
        let size = report.bytes as f64 / 1e6;
        writeln!(io::stdout(), "{backup}: {} jobs, {size:.1} MB, whole and on disk", report.jobs)?;
        writeln!(io::stdout(), "images are not in it: copy {images} too, after this")?;
        Ok(ExitCode::SUCCESS)
    }

    /// Everything happens in a temporary file beside the target, so that a file of that name is always a whole backup.
    async fn execute(&self) -> anyhow::Result<Report> {
        ensure!(!self.file.exists(), "the file is there already: name another, or move it away");
        let folder = match self.file.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let unfinished = tempfile::Builder::new().prefix(".backup-").tempfile_in(folder)?;
        let path = unfinished.path().to_str().context("the path is not UTF-8, which SQLite needs")?.to_owned();

        let reader = view::open(self.campaign.db()).await?;
        sqlx::query("VACUUM INTO ?").bind(&path).execute(&reader).await.context("copying the database")?;
        reader.close().await;
        let mut copy = SqliteConnectOptions::new().filename(&path).connect().await?;
        let jobs = prepare(&mut copy).await;
        copy.close().await?;
        let jobs = jobs?;

        File::open(&path)?.sync_all()?;
        let bytes = fs::metadata(&path)?.len();
        unfinished.persist_noclobber(&self.file).map_err(|error| error.error)?;
        File::open(folder)?.sync_all()?;
        let images = self.campaign.artifacts().folder().to_owned();
        Ok(Report { backup: self.file.clone(), bytes, jobs, images })
    }
}

/// The copy is nobody's: the coordinator that serves the original does not serve it. Gives the number of its jobs.
async fn prepare(copy: &mut SqliteConnection) -> anyhow::Result<i64> {
    sqlx::query("DELETE FROM owner").execute(&mut *copy).await?;
    let told: Vec<String> = sqlx::query_scalar("PRAGMA integrity_check").fetch_all(&mut *copy).await?;
    if told != ["ok"] {
        bail!("the copy is damaged, so that the database may be too: {}", told.join("; "));
    }
    Ok(sqlx::query_scalar("SELECT count(*) FROM job").fetch_one(&mut *copy).await?)
}
