//! `coordinator submit`: experiment files into the job table, or what that would do.

pub mod report;

use super::Database;
use crate::queue::access::{Access, Preview};
use crate::queue::view::{self, Snapshot};
use crate::spec::diagnose::nearest;
use crate::spec::files::Digests;
use crate::spec::known::{Known, Standing};
use crate::spec::model::HubCache;
use crate::spec::summary::Summary;
use crate::spec::{self, Loaded, Opened};
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
        let mut opened: Vec<Opened> = self.files.iter().map(|path| spec::open(path)).collect();
        refuse_same_names(&mut opened);
        let known = known(&opened, &self.database.db).await?;
        let loaded = plan_in_turn(opened, known, &self.database.db, |opened, known| opened.plan(hub, known, digests));
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
        let experiment = draft.as_ref().map(|draft| Summary::of(draft, plan.as_ref()));
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

/// What the job table at `db` has of the experiments that the files need.
async fn known(opened: &[Opened], db: &Path) -> anyhow::Result<Known> {
    let mut known = Known::default();
    if opened.iter().any(|file| file.needs().next().is_some()) && db.exists() {
        let reader = view::open(db).await?;
        let mut snapshot = Snapshot::take(&reader).await?;
        for name in opened.iter().flat_map(Opened::needs) {
            if let Some(needed) = snapshot.planned(name).await? {
                known.insert(name.to_owned(), needed);
            }
        }
        // Others may be what was meant.
        for name in snapshot.experiment_names().await? {
            known.name(name);
        }
        // A pool closes when nobody uses it any more.
        drop(snapshot);
        reader.close().await;
    }
    Ok(known)
}

/// Plans file after file, each with those before it known.
fn plan_in_turn(
    opened: Vec<Opened>,
    mut known: Known,
    db: &Path,
    mut plan: impl FnMut(Opened, &Known) -> Loaded,
) -> Vec<Loaded> {
    let mut loaded = Vec::with_capacity(opened.len());
    for mut file in opened {
        tell_missing_needs(&mut file, &known, db);
        let name = file.draft.as_ref().map(|draft| draft.name.clone());
        let file = plan(file, &known);
        if let Some(name) = name {
            match &file.plan {
                Some(plan) => known.insert(name, plan.into()),
                None => known.unplanned(name, &file.path),
            }
        }
        loaded.push(file);
    }
    loaded
}

/// What an experiment needs must be in the job table, or among the files before its own.
fn tell_missing_needs(file: &mut Opened, known: &Known, db: &Path) {
    let Some(draft) = &file.draft else { return };
    for need in &draft.needs {
        match known.standing(&need.value) {
            Standing::Known => {}
            Standing::Unplanned(path) => {
                let message = format!("`{}` cannot be planned as it stands in {}", need.value, path.display());
                file.diagnostics.missing(need.place, message).note("mend that file first");
            }
            Standing::Missing { names } => {
                let message = format!("there is no experiment `{}` in {}", need.value, db.display());
                let found = file.diagnostics.missing(need.place, message);
                if let Some(nearest) = nearest(&need.value, &names) {
                    found.note(format!("did you mean `{nearest}`?"));
                }
                found.note("submit it first, or name its file before this one");
            }
        }
    }
}

/// Two files with one name would be one experiment, the second replacing the first.
fn refuse_same_names(opened: &mut [Opened]) {
    let mut first: HashMap<String, PathBuf> = HashMap::new();
    for file in opened {
        let Some(draft) = &file.draft else { continue };
        if let Some(earlier) = first.get(&draft.name) {
            let message = format!("the experiment is named `{}`, as the one in {}", draft.name, earlier.display());
            file.diagnostics.mistake(draft.name_place, message).note("give each experiment a name of its own");
        } else {
            first.insert(draft.name.clone(), file.path.clone());
        }
    }
}
