//! The `submit` command on databases of its own.

use super::{Copy, miniature, no_hub, repository};
use clap::Parser;
use coordinator::cli::Database;
use coordinator::cli::submit::report::Report;
use coordinator::cli::submit::{Args, MISSING, OK, REFUSED};
use coordinator::spec::files::Digests;
use std::fs;
use std::path::{Path, PathBuf};

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

pub async fn execute(files: Vec<PathBuf>, db: &Path, dry_run: bool) -> Report {
    let submit = Args { files, database: Database { db: db.to_owned() }, dry_run, json: false };
    submit.execute(&no_hub(), &mut Digests::default()).await.unwrap()
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
    let report = execute(vec![experiment("miniature.yaml")], &db, true).await;
    assert_eq!((report.exit_code, db.exists()), (OK, false));
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

/// The miniature's face and text, the first `seeds` seeds, at one γ.
fn small(copy: &Copy, gamma: u32, seeds: u32) -> PathBuf {
    let file = copy.root.path().join("experiments/small.yaml");
    let grid = format!("grid: {{ subject: sim01, region: [face, text], seed: {{ start: 0, count: {seeds} }} }}\n");
    fs::write(&file, miniature(&format!("{grid}sampling: {{ size: 32, gamma: {gamma} }}\n"))).unwrap();
    file
}

#[tokio::test]
async fn a_submit_says_what_is_new_what_was_there_and_what_is_not_listed_any_more() {
    let copy = Copy::new();
    let db = copy.root.path().join("jobs.db");
    let submit = async |gamma, seeds| execute(vec![small(&copy, gamma, seeds)], &db, false).await.human();
    assert_eq!(submit(14, 3).await, "experiment 1 `mini` created: 6 new jobs in 2 new conditions, 0 there before\n");
    assert_eq!(submit(14, 5).await, "experiment 1 `mini` updated: 4 new jobs in 0 new conditions, 6 there before\n");
    let expected = "\
experiment 1 `mini` updated: 10 new jobs in 2 new conditions, 0 there before
  note: 2 conditions of this experiment are not in the file any more (a changed parameter makes new conditions); they keep their jobs
";
    assert_eq!(submit(20, 5).await, expected);
}

#[tokio::test]
async fn a_dry_run_on_a_database_says_what_submitting_would_add_and_adds_nothing() {
    let copy = Copy::new();
    let db = copy.root.path().join("jobs.db");
    execute(vec![small(&copy, 14, 3)], &db, false).await;
    for _ in 0..2 {
        let report = execute(vec![small(&copy, 14, 5)], &db, true).await;
        assert_eq!(report.exit_code, OK);
        let human = report.human();
        assert!(human.contains("4 jobs in 0 new conditions; 6 there before"), "{human}");
        assert!(human.contains(" for 4 jobs of "), "{human}");
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["files"][0]["preview"]["existing_jobs"], 6);
        assert_eq!(json["files"][0]["experiment"]["jobs"], 10);
    }
}

#[tokio::test]
async fn a_dry_run_with_missing_files_counts_lists_them_and_exits_3() {
    let scratch = tempfile::tempdir().unwrap();
    let files = vec![without_data(scratch.path())];
    let report = execute(files, Path::new("/nonexistent/jobs.db"), true).await;
    assert_eq!(report.exit_code, MISSING);
    let human = report.human();
    for line in [
        "  conditions  8 = 4 subjects × 2 regions\n",
        "  jobs        4000 = 8 conditions × 500 seeds\n",
        "  new         unknown until everything is there\n",
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
        let report = execute(vec![good.clone(), bad], &db, false).await;
        assert_eq!((report.exit_code, db.exists()), (REFUSED, false));
        assert_eq!(report.human(), "");
        assert!(report.findings(false).ends_with("in 1 file; nothing was submitted\n"), "{}", report.findings(false));
    }
    let report = execute(vec![wrong, good, missing], &db, true).await;
    assert_eq!((report.exit_code, db.exists()), (REFUSED, false));
    let findings = report.findings(false);
    assert!(findings.contains("wrong.yaml:2:7: `kind` cannot be `simple`"), "{findings}");
    assert!(findings.contains("ofa_ffa.yaml:"), "{findings}");
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
    let db = copy.root.path().join("jobs.db");
    let report = execute(files, &db, false).await;
    assert_eq!((report.exit_code, db.exists()), (REFUSED, false));
    let findings = report.findings(false);
    assert!(findings.contains("b.yaml:1:7: the experiment is named `mini`, as the one in"), "{findings}");
}
