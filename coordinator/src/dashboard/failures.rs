//! `/failures`, and the alarm that stands first on the overview.

use super::layout::ago;
use super::{Page, PageError, State, open};
use crate::queue::view::FailureGroup;
use crate::report::number::thousands;
use axum::extract;
use maud::{Markup, html};

/// How many signatures the overview shows.
const FIRST: usize = 5;

pub async fn page(extract::State(state): extract::State<State>) -> Result<Page, PageError> {
    let (mut snapshot, frame) = open(&state).await?;
    let groups = snapshot.failures().await?;
    let (routine, failures): (Vec<_>, Vec<_>) = groups.iter().partition(|group| group.is_routine());
    let body = html! {
        h1 { "Failures" }
        section.panel {
            @if frame.failed > 0 {
                p {
                    b { (thousands(frame.failed)) } " " (jobs(frame.failed)) " failed for good. Mend the cause, then "
                    code { "coordinator retry --failed" } "."
                }
            } @else { p.muted { "No job has failed for good." } }
            @if failures.is_empty() { p.muted { "No attempt has failed." } } @else { (table(&failures, frame.now)) }
        }
        @if !routine.is_empty() {
            section.panel {
                h2 { "Given back " small { "by workers that were asked to stop; not counted against the jobs" } }
                (table(&routine, frame.now))
            }
        }
    };
    Ok(frame.render("Failures", &body))
}

/// What went wrong, by signature; nothing if nothing did.
pub fn alarm(groups: &[FailureGroup], failed: u64, now: i64) -> Markup {
    let failures: Vec<_> = groups.iter().filter(|group| !group.is_routine()).collect();
    html! {
        @if failed > 0 || !failures.is_empty() {
            section.panel.alarm.quiet[failed == 0] {
                header {
                    h2 {
                        @if failed > 0 { (thousands(failed)) " " (jobs(failed)) " failed" }
                        @else { "Attempts failed; their jobs are tried again" }
                    }
                    @if failed > 0 { p.muted { "Mend the cause, then " code { "coordinator retry --failed" } } }
                }
                (table(&failures[..failures.len().min(FIRST)], now))
                @if failures.len() > FIRST {
                    p { a href="/failures" { "All " (failures.len()) " kinds of failure" } }
                }
            }
        }
    }
}

fn jobs(number: u64) -> &'static str {
    if number == 1 { "job" } else { "jobs" }
}

fn table(groups: &[&FailureGroup], now: i64) -> Markup {
    html! {
        div.scroll {
            table.failures {
                thead { tr { th { "Class" } th { "Message" } th.number { "Attempts" } th.number { "Conditions" } th { "Last" } } }
                tbody {
                    @for group in groups {
                        tr data-key={ (group.class) (group.message) } {
                            td { span.tag { (group.class) } }
                            td.message { (group.message) }
                            td.number { (thousands(group.attempts)) }
                            td.number { (thousands(group.conditions)) }
                            td.nowrap { (ago(group.last_at, now)) br; a href={ "/jobs/" (group.last_job) } { "job " (group.last_job) } }
                        }
                    }
                }
            }
        }
    }
}
