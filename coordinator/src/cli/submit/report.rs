//! What `submit` found and did, as text and as JSON.

use crate::queue::access::{Preview, Submitted};
use crate::spec::diagnose::Diagnostics;
use crate::spec::summary::{Estimate, Summary, plural};
use serde::Serialize;
use std::fmt::{self, Write};
use std::path::PathBuf;

/// The whole command's outcome.
#[derive(Debug, Serialize)]
pub struct Report {
    pub dry_run: bool,
    pub database: PathBuf,
    pub exit_code: u8,
    pub files: Vec<FileReport>,
}

/// The outcome of one file.
#[derive(Debug, Serialize)]
pub struct FileReport {
    pub file: PathBuf,
    /// `None` if the file has mistakes.
    pub experiment: Option<Summary>,
    /// `--dry-run` with everything there: what submitting would change.
    pub preview: Option<Preview>,
    pub submitted: Option<Submitted>,
    /// `--dry-run`: GPU time of the jobs that would be new, of all jobs while files are missing.
    pub estimate: Option<Estimate>,
    pub diagnostics: Diagnostics,
}

impl Report {
    /// Every finding of every file, and how many there are; empty if there are none.
    pub fn findings(&self, colour: bool) -> String {
        let wrong: Vec<_> = self.files.iter().filter(|file| !file.diagnostics.is_empty()).collect();
        if wrong.is_empty() {
            return String::new();
        }
        let mut text: Vec<String> = wrong.iter().map(|file| file.diagnostics.render(colour)).collect();
        let findings = wrong.iter().map(|file| file.diagnostics.found().len() as u64).sum();
        let refused = if self.dry_run { "" } else { "; nothing was submitted" };
        text.push(format!("{} in {}{refused}\n", plural(findings, "finding"), plural(wrong.len() as u64, "file")));
        text.join("\n")
    }

    /// The rest, for people.
    pub fn human(&self) -> String {
        let mut text = String::new();
        for file in &self.files {
            // Writing to a String cannot fail.
            let _ = match (&file.experiment, &file.submitted) {
                (Some(summary), Some(submitted)) => self.submitted(&mut text, summary, submitted),
                (Some(summary), None) if self.dry_run => self.dry(&mut text, file, summary),
                _ => Ok(()),
            };
        }
        text
    }

    fn submitted(&self, out: &mut String, summary: &Summary, submitted: &Submitted) -> fmt::Result {
        let Submitted { experiment, created, new_conditions, new_jobs, existing_jobs, unlisted_conditions } = submitted;
        let what = if *created { "created" } else { "updated" };
        write!(out, "experiment {experiment} `{}` {what}: ", summary.name)?;
        write!(out, "{} in {}", plural(*new_jobs, "new job"), plural(*new_conditions, "new condition"))?;
        writeln!(out, ", {existing_jobs} there before")?;
        unlisted(out, *unlisted_conditions)
    }

    fn dry(&self, out: &mut String, file: &FileReport, summary: &Summary) -> fmt::Result {
        writeln!(out, "{} ({})", summary.name, file.file.display())?;
        writeln!(out, "  conditions  {} = {}", summary.conditions, summary.product())?;
        writeln!(
            out,
            "  jobs        {} = {} × {}",
            summary.jobs,
            plural(summary.conditions, "condition"),
            plural(summary.seeds, "seed")
        )?;
        if !summary.needs.is_empty() {
            writeln!(out, "  needs       {}", summary.needs.join(", "))?;
        }
        match &file.preview {
            Some(preview) => {
                writeln!(
                    out,
                    "  new         {} in {}; {} there before in {}",
                    plural(preview.new_jobs, "job"),
                    plural(preview.new_conditions, "new condition"),
                    preview.existing_jobs,
                    self.database.display()
                )?;
                unlisted(out, preview.unlisted_conditions)?;
            }
            None => writeln!(out, "  new         unknown until everything is there")?,
        }
        if let Some(estimate) = &file.estimate {
            writeln!(
                out,
                "  GPU-hours   {} for {} of {:.3} s ({})",
                hours(estimate.gpu_hours),
                plural(estimate.jobs, "job"),
                estimate.seconds_per_image,
                estimate.basis
            )?;
            if let Some(budget) = summary.budget_gpu_hours {
                let enough = if estimate.gpu_hours > budget { ", less than the estimate" } else { "" };
                writeln!(out, "  budget      {} GPU-hours{enough}", hours(budget))?;
            }
        }
        let missing: Vec<_> = file.diagnostics.found().iter().flat_map(|found| &found.missing).collect();
        if !missing.is_empty() {
            writeln!(out, "  missing     {} files or folders", missing.len())?;
            for path in missing {
                writeln!(out, "              {}", path.display())?;
            }
        }
        Ok(())
    }
}

/// A changed parameter makes new conditions; the old ones are not listed any more, and stay.
fn unlisted(out: &mut String, conditions: u64) -> fmt::Result {
    if conditions == 0 {
        return Ok(());
    }
    let (are, they) = if conditions == 1 { ("is", "it keeps its") } else { ("are", "they keep their") };
    writeln!(
        out,
        "  note: {} of this experiment {are} not in the file any more (a changed parameter makes new conditions); {they} jobs",
        plural(conditions, "condition")
    )
}

fn hours(hours: f64) -> String {
    if hours >= 10.0 { format!("{hours:.0}") } else { format!("{hours:.2}") }
}
