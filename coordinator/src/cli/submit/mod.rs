//! `coordinator submit`: experiment files into the job table, or what that would do.

pub mod report;

use super::Database;
use crate::queue::access::{Access, Preview};
use crate::queue::view::{self, Snapshot};
use crate::spec::diagnose::nearest;
use crate::spec::files::Digests;
use crate::spec::model::HubCache;
use crate::spec::summary::Summary;
use crate::spec::{self, Loaded};
use anyhow::Context;
use report::{FileReport, Report};
use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// All files are submitted, or everything is there for it (`--dry-run`).
pub const OK: u8 = 0;
/// A file has mistakes, or (without `--dry-run`) names files that are missing; nothing was written.
pub const REFUSED: u8 = 2;
/// `--dry-run`: no mistakes, but files are missing.
pub const MISSING: u8 = 3;

/// Add the jobs of experiment files to the job table. Submitting a file again adds only what is new.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Experiment files (YAML)
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,

    #[command(flatten)]
    pub database: Database,

    /// Show conditions, jobs, GPU-hours and missing files, and write nothing (exit code 3 if files are missing)
    #[arg(long)]
    pub dry_run: bool,

    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

impl Args {
    /// Findings go to standard error, the rest to standard output; `--json` has both in its one document.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let report = self.execute(&HubCache::from_env(), &mut Digests::new(true)).await?;
        if self.json {
            writeln!(io::stdout(), "{}", serde_json::to_string_pretty(&report)?)?;
        } else {
            write!(io::stderr(), "{}", report.findings(io::stderr().is_terminal()))?;
            write!(io::stdout(), "{}", report.human())?;
        }
        Ok(ExitCode::from(report.exit_code))
    }

    /// What [`Args::run`] does, without the printing.
    pub async fn execute(&self, hub: &HubCache, digests: &mut Digests) -> anyhow::Result<Report> {
        let mut loaded: Vec<Loaded> = self.files.iter().map(|path| spec::load(path, hub, digests)).collect();
        refuse_same_names(&mut loaded);
        tell_missing_needs(&mut loaded, &self.database.db).await?;
        let mistakes = loaded.iter().any(|file| file.diagnostics.has_mistakes());
        let missing = loaded.iter().any(|file| !file.diagnostics.is_empty());
        let exit_code = match (mistakes, missing, self.dry_run) {
            (true, _, _) | (false, true, false) => REFUSED,
            (false, true, true) => MISSING,
            (false, false, _) => OK,
        };

        // A dry run creates no database: where there is none, nothing exists yet.
        let open_it = if self.dry_run { self.database.db.exists() } else { exit_code == OK };
        let table = if open_it { Some(Access::open(&self.database.db).await?) } else { None };
        let files = self.each(loaded, table.as_ref()).await;
        if let Some(table) = table {
            table.close().await;
        }
        Ok(Report { dry_run: self.dry_run, database: self.database.db.clone(), exit_code, files: files? })
    }

    async fn each(&self, loaded: Vec<Loaded>, table: Option<&Access>) -> anyhow::Result<Vec<FileReport>> {
        let mut files = Vec::with_capacity(loaded.len());
        for file in loaded {
            files.push(self.file(file, table).await?);
        }
        Ok(files)
    }

    /// Submits one file, or looks up what submitting it would do; without a table, neither.
    async fn file(&self, loaded: Loaded, table: Option<&Access>) -> anyhow::Result<FileReport> {
        let Loaded { path, diagnostics, draft, plan } = loaded;
        let experiment = draft.as_ref().map(Summary::of);
        let at = || format!("the experiment of {}", path.display());
        let (mut preview, mut submitted) = (None, None);
        match (&plan, table) {
            (Some(plan), Some(table)) if self.dry_run => {
                preview = Some(table.preview(plan).await.with_context(|| format!("looking up {}", at()))?);
            }
            (Some(plan), Some(table)) => {
                submitted = Some(table.submit(plan).await.with_context(|| format!("submitting {}", at()))?);
            }
            (Some(plan), None) if self.dry_run => preview = Some(Preview::all_new(plan)),
            _ => {}
        }
        let estimate = experiment.as_ref().filter(|_| self.dry_run).map(|summary| match &preview {
            Some(preview) => summary.estimate(preview.new_jobs, preview.measured_seconds_per_image),
            None => summary.estimate(summary.jobs, None),
        });
        Ok(FileReport { file: path, experiment, preview, submitted, estimate, diagnostics })
    }
}

/// What an experiment needs must be in the job table at `db`, or among the files before its own.
async fn tell_missing_needs(loaded: &mut [Loaded], db: &Path) -> anyhow::Result<()> {
    let needs = |file: &Loaded| file.draft.as_ref().is_some_and(|draft| !draft.needs.is_empty());
    let mut known = Vec::new();
    if loaded.iter().any(needs) && db.exists() {
        let reader = view::open(db).await?;
        known = Snapshot::take(&reader).await?.experiment_names().await?;
        reader.close().await;
    }
    for file in loaded {
        let Some(draft) = &file.draft else { continue };
        for need in draft.needs.iter().filter(|need| !known.contains(&need.value)) {
            let message = format!("there is no experiment `{}` in {}", need.value, db.display());
            let found = file.diagnostics.missing(need.place, message);
            if let Some(nearest) = nearest(&need.value, &known.iter().map(String::as_str).collect::<Vec<_>>()) {
                found.note(format!("did you mean `{nearest}`?"));
            }
            found.note("submit it first, or name its file before this one");
            file.plan = None;
        }
        known.push(draft.name.clone());
    }
    Ok(())
}

/// Two files with one name would be one experiment, the second replacing the first.
fn refuse_same_names(loaded: &mut [Loaded]) {
    let mut first: HashMap<String, PathBuf> = HashMap::new();
    for file in loaded {
        let Some(draft) = &file.draft else { continue };
        if let Some(earlier) = first.get(&draft.name) {
            let message = format!("the experiment is named `{}`, as the one in {}", draft.name, earlier.display());
            file.diagnostics.mistake(draft.name_place, message).note("give each experiment a name of its own");
            file.plan = None;
        } else {
            first.insert(draft.name.clone(), file.path.clone());
        }
    }
}
