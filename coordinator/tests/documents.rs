//! Pages of docs/ that are drawn from the code: this test fails when one is out of date, and `UPDATE_DOCS=1 cargo test -p coordinator
//! --test documents` writes it anew.
#![allow(clippy::unwrap_used)]

use coordinator::queue::policy::{Charge, POLICIES, Policy};
use coordinator::queue::state::{State, TRANSITIONS};
use std::fmt::Write as _;
use std::path::Path;

/// What stands in `docs/{page}` between `<!-- {name} -->` and `<!-- end {name} -->` must be `drawn`.
fn section(page: &str, name: &str, drawn: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(page);
    let text = std::fs::read_to_string(&path).unwrap();
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- end {name} -->"));
    let from = text.find(&begin).unwrap_or_else(|| panic!("docs/{page} has no section {name}")) + begin.len();
    let to = from + text[from..].find(&end).unwrap_or_else(|| panic!("the section {name} of docs/{page} has no end"));
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, format!("{}{drawn}{}", &text[..from], &text[to..])).unwrap();
    } else {
        assert_eq!(&text[from..to], drawn, "docs/{page}, {name}: run with UPDATE_DOCS=1");
    }
}

#[test]
fn the_tables_in_the_documents_are_the_ones_that_run() {
    state_machine();
    failure_classes();
}

fn state_machine() {
    let mut drawn =
        String::from("\n```mermaid\nstateDiagram-v2\n    [*] --> ready: submit\n    [*] --> blocked: submit\n");
    for row in &TRANSITIONS {
        writeln!(drawn, "    {} --> {}: {}", row.from, row.to, format!("{:?}", row.event).to_lowercase()).unwrap();
    }
    drawn.push_str("    done --> [*]\n```\n\n| from | event | to | when |\n|---|---|---|---|\n");
    for row in &TRANSITIONS {
        let event = format!("{:?}", row.event).to_lowercase();
        writeln!(drawn, "| {} | {event} | {} | {} |", row.from, row.to, row.guard).unwrap();
    }
    drawn.push('\n');
    assert!(State::ALL.iter().all(|state| drawn.contains(state.as_str())));
    section("architecture.md", "state machine", &drawn);
}

fn failure_classes() {
    let mut drawn = String::from("\n| class | counts against | then | waits |\n|---|---|---|---|\n");
    for policy in &POLICIES {
        let counts = match policy.charge {
            Charge::Attempt => "the job's attempts (`retries` + 1)",
            Charge::Loss => "the job's losses (`losses`)",
            Charge::Nothing => "nothing",
        };
        let then = match policy {
            Policy { retry: false, .. } => {
                "fails at once, and its condition's other jobs are blocked until somebody retries"
            }
            Policy { quarantines_device: true, .. } => "tried on another device; this one is quarantined",
            _ => "tried again",
        };
        let seconds = |millis| millis as f64 / 1000.0;
        let waits = match policy.base {
            _ if !policy.retry => "–".to_owned(),
            0 => "not at all".to_owned(),
            base => format!("{} s, doubling to {} s, half of it at random", seconds(base), seconds(policy.cap)),
        };
        writeln!(drawn, "| `{}` | {counts} | {then} | {waits} |", policy.class).unwrap();
    }
    drawn.push('\n');
    section("architecture.md", "failure classes", &drawn);
}
