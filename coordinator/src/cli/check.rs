//! `coordinator check`: whether the job table and the store are what they should be.

use super::Campaign;
use crate::artifacts::audit::Fault;
use crate::queue::check::Outcome;
use crate::queue::view::{self, Snapshot};
use crate::report::number::thousands;
use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use protocol::ids::Digest;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

/// A file younger than this may be one whose row is being written.
const ARRIVING: Duration = Duration::from_secs(600);

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    campaign: Campaign,
    /// Look for every image and its size, and do not read it
    #[arg(long)]
    quick: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Everything that was looked at.
#[derive(Debug, Serialize)]
struct Report {
    holds: bool,
    checks: Vec<Outcome>,
    /// Images that rows name.
    images: u64,
    /// Whether their content was read.
    hashed: bool,
    /// Files of the store that no row names: space, and no harm.
    orphans: u64,
    orphan_bytes: u64,
}

impl Args {
    /// Exit code 1 if anything does not hold.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let reader = view::open(self.campaign.db()).await?;
        let mut snapshot = Snapshot::take(&reader).await?;
        let before = SystemTime::now();
        let mut checks = snapshot.check_rows(|outcome| self.tell(outcome)).await?;
        let recorded = recorded(snapshot.artifacts().await?)?;
        drop(snapshot);

        let store = self.campaign.artifacts();
        let found = store.list().with_context(|| format!("listing the store {}", store.folder().display()))?;
        let bar = if self.json { ProgressBar::hidden() } else { progress(recorded.len()) };
        let (folder, hashed) = (store.clone(), !self.quick);
        let (files, counted) = (recorded.clone(), bar.clone());
        let faults = tokio::task::spawn_blocking(move || folder.verify_all(&files, hashed, || counted.inc(1))).await?;
        bar.finish_and_clear();
        // What was removed since the snapshot has no row either by now.
        let still = recorded_now(&reader).await?;
        let mut images = Outcome::new(
            "images",
            if self.quick {
                "every image is in the store with its size"
            } else {
                "every image is in the store and is what its name says"
            },
        );
        for (digest, fault) in faults {
            if still.contains(&digest) || !matches!(fault, Fault::Missing) {
                images.add(format!("image {digest} {fault}"));
            }
        }
        let advice = format!(
            "bring these files back from a backup of {}; their scores stand in the table as before",
            store.folder().display()
        );
        let images = images.advise(&advice);
        self.tell(&images);
        checks.push(images);

        let known: BTreeSet<&Digest> = recorded.iter().map(|(digest, _)| digest).collect();
        let orphans = found.iter().filter(|(digest, stored)| {
            let settled = before.duration_since(stored.modified).is_ok_and(|age| age > ARRIVING);
            settled && !known.contains(digest)
        });
        let (orphans, orphan_bytes) = orphans.fold((0, 0), |(n, bytes), (_, stored)| (n + 1, bytes + stored.bytes));
        let holds = checks.iter().all(Outcome::holds);
        let report = Report { holds, checks, images: recorded.len() as u64, hashed, orphans, orphan_bytes };
        if self.json {
            writeln!(io::stdout(), "{}", serde_json::to_string(&report)?)?;
        } else {
            write!(io::stdout(), "{}", report.conclusion())?;
        }
        Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Prints an outcome as it comes, for people.
    fn tell(&self, outcome: &Outcome) {
        if self.json {
            return;
        }
        if outcome.holds() {
            println!("ok     {}", outcome.promise);
            return;
        }
        println!("WRONG  {}: {} times not", outcome.promise, thousands(outcome.broken));
        outcome.findings.iter().for_each(|finding| println!("       {finding}"));
        let untold = outcome.broken - outcome.findings.len() as u64;
        if untold > 0 {
            println!("       and {} more", thousands(untold));
        }
        if let Some(advice) = &outcome.advice {
            println!("       {advice}");
        }
    }
}

impl Report {
    fn conclusion(&self) -> String {
        let mut text = String::new();
        if self.orphans > 0 {
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "note   {} files ({:.1} MB) in the store are named by no row; `coordinator gc` removes them",
                thousands(self.orphans),
                self.orphan_bytes as f64 / 1e6
            );
        }
        let broken = self.checks.iter().filter(|outcome| !outcome.holds()).count();
        let how = if self.hashed { "read and compared" } else { "found with their sizes, not read" };
        let images = thousands(self.images);
        let _ = match broken {
            0 => writeln!(text, "all {} checks hold; {images} images {how}", self.checks.len()),
            _ => writeln!(text, "{broken} of {} checks do not hold; {images} images {how}", self.checks.len()),
        };
        text
    }
}

fn recorded(rows: Vec<(String, i64)>) -> anyhow::Result<Vec<(Digest, u64)>> {
    let parsed = rows.into_iter().map(|(digest, bytes)| {
        let digest = digest.parse().with_context(|| format!("reading the recorded digest `{digest}`"))?;
        Ok((digest, bytes.cast_unsigned()))
    });
    parsed.collect()
}

async fn recorded_now(reader: &sqlx::SqlitePool) -> anyhow::Result<BTreeSet<Digest>> {
    let rows = Snapshot::take(reader).await?.artifacts().await?;
    Ok(recorded(rows)?.into_iter().map(|(digest, _)| digest).collect())
}

fn progress(images: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("images {bar:30} {human_pos}/{human_len} {per_sec} {eta}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(images as u64).with_style(style)
}
