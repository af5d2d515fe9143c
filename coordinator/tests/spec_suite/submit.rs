//! The `submit` command against a job table that records what reaches it.

use super::{Copy, miniature, no_hub, repository};
use clap::Parser;
use coordinator::cli::Database;
use coordinator::cli::submit::job_table::{JobTable, Preview, Submitted};
use coordinator::cli::submit::report::Report;
use coordinator::cli::submit::{Args, MISSING, OK, REFUSED};
use coordinator::plan::Plan;
use coordinator::spec::files::Digests;
use protocol::ids::ExperimentId;
use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// What reached the job table: `open`, `preview NAME JOBS`, `submit NAME JOBS`.
type Calls = Rc<RefCell<Vec<String>>>;

struct Recorder(Calls);

impl JobTable for Recorder {
    async fn submit(&self, plan: &Plan) -> anyhow::Result<Submitted> {
        self.0.borrow_mut().push(format!("submit {} {}", plan.experiment.name, plan.jobs()));
        Ok(Submitted {
            experiment: ExperimentId(7),
            created: false,
            new_conditions: 2,
            new_jobs: 32,
            existing_jobs: plan.jobs() - 32,
            unlisted_conditions: 1,
        })
    }

    async fn preview(&self, plan: &Plan) -> anyhow::Result<Preview> {
        self.0.borrow_mut().push(format!("preview {} {}", plan.experiment.name, plan.jobs()));
        Ok(Preview {
            exists: Some(ExperimentId(7)),
            new_conditions: 2,
            existing_jobs: plan.jobs() - 32,
            new_jobs: 32,
            unlisted_conditions: 1,
            measured_seconds_per_image: Some(4.5),
        })
    }

    async fn close(self) {
        self.0.borrow_mut().push("close".to_owned());
    }
}

#[derive(Debug, clap::Parser)]
struct CommandLine {
    #[command(flatten)]
    submit: Args,
}

#[test]
fn the_command_line_takes_several_files_and_needs_one() {
    let parse =
        |arguments: &[&str]| CommandLine::try_parse_from([&["submit"], arguments].concat()).map(|line| line.submit);
    let submit = parse(&["a.yaml", "--dry-run", "--json", "--db", "x.db", "b.yaml"]).unwrap();
    assert_eq!(submit.files, [Path::new("a.yaml"), Path::new("b.yaml")]);
    assert!(submit.dry_run && submit.json && submit.database.db == Path::new("x.db"));
    assert!(parse(&["--dry-run"]).is_err());
}

async fn execute(files: Vec<PathBuf>, db: &Path, dry_run: bool) -> (Report, Vec<String>) {
    let calls = Calls::default();
    let submit = Args { files, database: Database { db: db.to_owned() }, dry_run, json: false };
    let open = async |_: &Path| {
        calls.borrow_mut().push("open".to_owned());
        Ok(Recorder(calls.clone()))
    };
    let report = submit.execute(&no_hub(), &mut Digests::default(), open).await.unwrap();
    let calls = calls.take();
    (report, calls)
}

fn experiment(name: &str) -> PathBuf {
    repository().join("experiments").join(name)
}

/// The paper's experiment in a folder that has none of the files that it names.
fn without_data(scratch: &Path) -> PathBuf {
    let path = scratch.join("ofa_ffa.yaml");
    fs::copy(experiment("ofa_ffa.yaml"), &path).unwrap();
    path
}

#[tokio::test]
async fn a_dry_run_without_a_database_opens_none_and_shows_the_plan() {
    let scratch = tempfile::tempdir().unwrap();
    let db = scratch.path().join("jobs.db");
    let (report, calls) = execute(vec![experiment("miniature.yaml")], &db, true).await;
    assert_eq!((report.exit_code, calls.len(), db.exists()), (OK, 0, false));
    assert_eq!(report.findings(false), "");
    let expected = format!(
        "\
miniature ({})
  conditions  10 = 1 subject × 5 regions × 2 gamma
  jobs        160 = 10 conditions × 16 seeds
  new         160 jobs in 10 new conditions; 0 there before in {}
  GPU-hours   0.00 for 160 jobs of 0.098 s (assumed: 25 s per guided 512 px image of 50 steps on a V100, scaled by steps × pixels)
",
        experiment("miniature.yaml").display(),
        db.display()
    );
    assert_eq!(report.human(), expected);
}

#[tokio::test]
async fn a_dry_run_on_a_database_previews_and_estimates_from_what_was_measured() {
    let scratch = tempfile::tempdir().unwrap();
    let db = scratch.path().join("jobs.db");
    fs::write(&db, "").unwrap();
    let (report, calls) = execute(vec![experiment("miniature.yaml")], &db, true).await;
    assert_eq!(calls, ["open", "preview miniature 160", "close"]);
    assert_eq!(report.exit_code, OK);
    let human = report.human();
    assert!(human.contains("32 jobs in 2 new conditions; 128 there before"), "{human}");
    assert!(human.contains("0.04 for 32 jobs of 4.500 s (measured on this experiment's finished jobs)"), "{human}");
    assert!(human.contains("1 condition of this experiment is not in the file any more"), "{human}");
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["files"][0]["preview"]["existing_jobs"], 128);
    assert_eq!(json["files"][0]["experiment"]["jobs"], 160);
}

#[tokio::test]
async fn a_dry_run_with_missing_files_counts_lists_them_and_exits_3() {
    let scratch = tempfile::tempdir().unwrap();
    let files = vec![without_data(scratch.path())];
    let (report, calls) = execute(files, Path::new("/nonexistent/jobs.db"), true).await;
    assert_eq!((report.exit_code, calls.len()), (MISSING, 0));
    let human = report.human();
    for line in [
        "  conditions  8 = 4 subjects × 2 regions\n",
        "  jobs        4000 = 8 conditions × 500 seeds\n",
        "  new         unknown until all files are there\n",
        "  GPU-hours   28 for 4000 jobs of 25.000 s (assumed: ",
        "  budget      40 GPU-hours\n",
        "  missing     19 files or folders\n",
        "subj07/func1pt8mm/floc_facestval.nii.gz\n",
    ] {
        assert!(human.contains(line), "{line:?} in\n{human}");
    }
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["files"][0]["preview"], serde_json::Value::Null);
    assert_eq!(json["files"][0]["diagnostics"][0]["severity"], "missing");
}

#[tokio::test]
async fn a_submit_with_anything_missing_or_wrong_in_any_file_writes_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let db = scratch.path().join("jobs.db");
    let wrong = scratch.path().join("wrong.yaml");
    fs::write(&wrong, "name: wrong\nkind: simple\n").unwrap();
    let good = experiment("miniature.yaml");
    let missing = without_data(scratch.path());
    for bad in [missing.clone(), wrong.clone()] {
        let (report, calls) = execute(vec![good.clone(), bad], &db, false).await;
        assert_eq!((report.exit_code, calls.len()), (REFUSED, 0));
        assert_eq!(report.human(), "");
        assert!(report.findings(false).ends_with("in 1 file; nothing was submitted\n"), "{}", report.findings(false));
    }
    let (report, calls) = execute(vec![wrong, good, missing], &db, true).await;
    assert_eq!((report.exit_code, calls.len()), (REFUSED, 0));
    let findings = report.findings(false);
    assert!(findings.contains("wrong.yaml:2:7: `kind` cannot be `simple`"), "{findings}");
    assert!(findings.contains("ofa_ffa.yaml:"), "{findings}");
}

#[tokio::test]
async fn a_submit_says_what_is_new_what_was_there_and_what_is_not_listed_any_more() {
    let scratch = tempfile::tempdir().unwrap();
    let db = scratch.path().join("jobs.db");
    let (report, calls) = execute(vec![experiment("miniature.yaml")], &db, false).await;
    assert_eq!(calls, ["open", "submit miniature 160", "close"]);
    assert_eq!(report.exit_code, OK);
    let expected = "\
experiment 7 `miniature` updated: 32 new jobs in 2 new conditions, 128 there before
  note: 1 condition of this experiment is not in the file any more (a changed parameter makes new conditions); it keeps its jobs
";
    assert_eq!(report.human(), expected);
}

#[tokio::test]
async fn two_files_of_one_name_are_refused() {
    let copy = Copy::new();
    let folder = copy.root.path().join("experiments");
    let text = miniature("grid: { subject: s, region: face, seed: 1 }\nsampling: { size: 32 }\n");
    let files = vec![folder.join("a.yaml"), folder.join("b.yaml")];
    for file in &files {
        fs::write(file, &text).unwrap();
    }
    let (report, calls) = execute(files, &copy.root.path().join("jobs.db"), false).await;
    assert_eq!((report.exit_code, calls.len()), (REFUSED, 0));
    let findings = report.findings(false);
    assert!(findings.contains("b.yaml:1:7: the experiment is named `mini`, as the one in"), "{findings}");
}
