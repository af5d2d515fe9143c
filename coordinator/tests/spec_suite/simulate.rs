//! Experiments of simulated jobs, and experiments that need others.

use super::submit::execute;
use super::{findings, read, repository};
use coordinator::cli::submit::{MISSING, OK, REFUSED};
use coordinator::plan::Plan;
use protocol::job::{Condition, Kind, SimulateCondition};
use protocol::outcome::FailureClass;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

fn simulated(sections: &str) -> String {
    format!(
        "name: sim\nkind: simulate\ngrid: {{ subject: [s1, s2], region: [FFA, OFA], seed: {{ count: 3 }} }}\n{sections}"
    )
}

fn plan(text: &str) -> Plan {
    let loaded = read(text);
    let findings = findings(&loaded);
    loaded.plan.unwrap_or_else(|| panic!("{findings}"))
}

#[test]
fn simulated_jobs_need_no_files_and_carry_what_the_file_says() {
    let plan = plan(&simulated(
        "simulate: { seconds: 2.5, spread: 0.5, fail: { io: 0.1, lost: 0.02 }, bytes: 3000 }\nshare: 2\nlosses: 7\n",
    ));
    assert_eq!((plan.experiment.kind, plan.experiment.share, plan.experiment.max_losses), (Kind::Simulate, 2.0, 7));
    assert_eq!((plan.conditions.len(), plan.jobs()), (4, 12));
    let keys: BTreeSet<_> = plan.conditions.iter().map(|condition| &condition.key).collect();
    assert_eq!(keys.len(), 4);
    let expected = Condition::Simulate(SimulateCondition {
        subject: "s1".to_owned(),
        region: "OFA".to_owned(),
        seconds: 2.5,
        spread: 0.5,
        fail: BTreeMap::from([(FailureClass::Io, 0.1), (FailureClass::Lost, 0.02)]),
        bytes: 3000,
    });
    assert_eq!(plan.conditions[1].spec, expected);
}

#[test]
fn every_part_of_a_simulated_job_makes_another_condition() {
    let key = |section: &str| plan(&simulated(&format!("simulate: {{ {section} }}\n"))).conditions[0].key.clone();
    let keys: BTreeSet<_> = [
        "seconds: 1",
        "seconds: 2",
        "seconds: 1, spread: 0.1",
        "seconds: 1, fail: { io: 0.1 }",
        "seconds: 1, bytes: 9",
    ]
    .map(key)
    .into();
    assert_eq!(keys.len(), 5);
    assert_eq!(key("seconds: 1"), key("seconds: 1.0, spread: 0, bytes: 0, fail: {}"));
}

#[test]
fn sections_of_samples_are_refused_beside_simulate_with_their_place() {
    let text = simulated("simulate: { seconds: 1 }\nsampling: { steps: 5 }\nprobes: {}\n");
    let expected = "\
x.yaml:5:1: `sampling` means nothing to jobs of kind simulate
 5 | sampling: { steps: 5 }
   | ^^^^^^^^
   = simulated jobs only take time, they read no model and compute nothing: leave it out

x.yaml:6:1: `probes` means nothing to jobs of kind simulate
 6 | probes: {}
   | ^^^^^^
   = simulated jobs only take time, they read no model and compute nothing: leave it out
";
    assert_eq!(findings(&read(&text)), expected);
    let text = super::miniature("grid: { subject: s, region: face, seed: 1 }\nsampling: { size: 32 }\nsimulate: {}\n");
    assert!(findings(&read(&text)).contains("`simulate` means nothing to jobs of kind sample"));
}

/// Each is the only mistake of its file.
#[test]
fn every_mistake_in_simulate_is_told_at_its_place() {
    let cases = [
        ("simulate: { seconds: -1 }", "x.yaml:4:22: `seconds` cannot be the number -1"),
        ("simulate: { seconds: 1, spread: 1.5 }", "`spread` cannot be the number 1.5"),
        ("simulate: { spread: 0.5 }", "`seconds` is missing in `simulate`"),
        ("simulate: { seconds: 1, fail: { oi: 0.5 } }", "did you mean `io`?"),
        ("simulate: { seconds: 1, fail: { io: 2 } }", "the probability of `io` cannot be the number 2"),
        ("simulate: { seconds: 1, fail: { io: 0.6, bug: 0.6 } }", "add up to 1.2"),
        ("simulate: { seconds: 1, bytes: 99999999 }", "`bytes` cannot be the number 99999999"),
        ("simulate: { second: 1, seconds: 1 }", "did you mean `seconds`?"),
        ("simulate: { seconds: 1 }\nshare: 0", "`share` cannot be the number 0"),
        ("simulate: { seconds: 1 }\nlosses: 0", "`losses` cannot be the number 0"),
        ("simulate: { seconds: 1 }\nneeds: sim", "an experiment cannot need itself"),
        ("simulate: { seconds: 1 }\nneeds: [a, a]", "is listed twice in `needs`"),
        ("priority: 1", "`simulate` is missing in an experiment"),
    ];
    for (sections, expected) in cases {
        let loaded = read(&simulated(&format!("{sections}\n")));
        let findings = findings(&loaded);
        assert!(findings.contains(expected) && loaded.plan.is_none(), "{sections}: {findings}");
        assert_eq!(loaded.diagnostics.found().len(), 1, "{sections}: {findings}");
    }
    let swept =
        "name: sim\nkind: simulate\nsimulate: { seconds: 1 }\ngrid: { subject: s, region: r, seed: 1, gamma: 5 }\n";
    assert!(findings(&read(swept)).contains("unknown key `gamma` in `grid`"));
}

#[test]
fn the_load_test_is_an_experiment_of_simulated_jobs() {
    let text = fs::read_to_string(repository().join("experiments/load.yaml")).unwrap();
    let plan = plan(&text);
    assert_eq!(plan.experiment.kind, Kind::Simulate);
}

#[tokio::test]
async fn an_experiment_that_needs_another_is_submitted_after_it_only() {
    let scratch = tempfile::tempdir().unwrap();
    let db = scratch.path().join("jobs.db");
    let write = |name: &str, needs: &str| {
        let path = scratch.path().join(format!("{name}.yaml"));
        let text = format!(
            "name: {name}\nkind: simulate\nsimulate: {{ seconds: 1 }}\ngrid: {{ subject: s, region: r, seed: 1 }}\n{needs}"
        );
        fs::write(&path, text).unwrap();
        path
    };
    let (first, second) = (write("encoders", ""), write("images", "needs: encoders\n"));
    for (dry_run, code) in [(true, MISSING), (false, REFUSED)] {
        let report = execute(vec![second.clone()], &db, dry_run).await;
        let findings = report.findings(false);
        assert_eq!((report.exit_code, db.exists()), (code, false), "{findings}");
        assert!(findings.contains("images.yaml:5:8: there is no experiment `encoders`"), "{findings}");
        assert!(findings.contains("submit it first"), "{findings}");
    }
    let together = execute(vec![first.clone(), second.clone()], &db, true).await;
    assert_eq!(together.exit_code, OK, "{}", together.findings(false));
    assert!(together.human().contains("  needs       encoders\n"), "{}", together.human());
    assert_eq!(execute(vec![first], &db, false).await.exit_code, OK);
    let near = write("images", "needs: encoder\n");
    let report = execute(vec![near], &db, true).await;
    assert!(report.findings(false).contains("did you mean `encoders`?"), "{}", report.findings(false));
    let submitted = execute(vec![write("images", "needs: encoders\n")], &db, false).await;
    assert_eq!(submitted.exit_code, OK, "{}", submitted.findings(false));
}
