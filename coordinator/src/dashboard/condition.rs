//! `/conditions/{id}`: one cell of the grid with its images.

use super::bar::{bar, legend};
use super::{Page, PageError, State, gallery, home, open};
use crate::queue::Filter;
use crate::queue::view::{Condition, Image, Job, JobPage, State as JobState};
use crate::report::number::{activation, interval, percent, thousands};
use crate::report::specificity::{self, Specificity};
use axum::extract::{self, Path};
use maud::{Markup, html};
use protocol::ids::ConditionId;

const IMAGES: u32 = 24;
const JOBS: u32 = 20;

pub async fn page(extract::State(state): extract::State<State>, Path(id): Path<String>) -> Result<Page, PageError> {
    let (mut snapshot, frame) = open(&state).await?;
    let not_found = || PageError::NotFound { what: "condition", name: id.clone() };
    let id: ConditionId = id.parse().map_err(|_| not_found())?;
    let condition = snapshot.condition(id).await?.ok_or_else(not_found)?;
    let experiments = snapshot.experiments().await?;
    let table = match experiments.iter().find(|experiment| experiment.name == condition.experiment) {
        Some(experiment) => specificity::read(&mut snapshot, experiment.id).await?,
        None => Vec::new(),
    };
    let row = table.iter().find(|row| row.condition.id == id);
    let prefers = row.and_then(|row| row.prefers.as_deref());
    let top = snapshot.top_of(id, IMAGES).await?;
    let bottom = snapshot.bottom_of(id, IMAGES).await?;
    let newest = snapshot.newest_of(id, IMAGES).await?;
    let mut listed = Vec::new();
    for state in [JobState::Failed, JobState::Running] {
        let filter = JobPage { filter: Filter::default().and_condition(id).and_state(state), after: None, limit: JOBS };
        listed.extend(snapshot.jobs(&filter).await?);
    }

    let name = format!("{} {} {}", condition.subject, condition.region, condition.axes);
    let section = |title: &str, images: &[Image]| {
        html! { @if !images.is_empty() { section.panel { h2 { (title) } (gallery::of_condition(images, prefers)) } } }
    };
    let body = html! {
        div.title {
            nav.crumbs {
                a href="/" { "Experiments" } " / "
                a href={ "/experiments/" (home::url_path(&condition.experiment)) } { (condition.experiment) } " / " (name)
            }
            h1 { (condition.subject) " " (condition.region) " " small { (condition.axes) } }
        }
        section.panel { (standing(&condition, row)) (neighbours(&condition, &table)) }
        @if !listed.is_empty() { (jobs(&listed, &condition)) }
        @if condition.counts.done == 0 { section.panel { p.muted { "No images yet." } } }
        @if condition.counts.done <= IMAGES.into() {
            (section(if row.is_some() { "All images, highest predicted activation first" } else { "All images" }, &top))
        } @else if row.is_none() {
            (section("Newest", &newest))
        } @else {
            (section("Highest predicted activation", &top))
            (section("Lowest predicted activation", &bottom))
            (section("Newest", &newest))
        }
    };
    Ok(frame.render(&name, &body))
}

fn standing(condition: &Condition, row: Option<&Specificity>) -> Markup {
    html! {
        div.standing {
            div { (bar(&condition.counts)) (legend(&condition.counts)) }
            @if let Some(row) = row {
                ul.legend {
                    li { "mean activation " b { (activation(row.mean_activation())) } }
                    @if let Some(prefers) = &row.prefers {
                        li { b { (percent(row.in_preferred())) } " " small { "(" (interval(row.in_preferred())) ")" } " in " (prefers) }
                    }
                }
            }
        }
    }
}

/// The same region in other subjects and with other parameters.
fn neighbours(condition: &Condition, table: &[Specificity]) -> Markup {
    let others: Vec<_> = table
        .iter()
        .map(|row| &row.condition)
        .filter(|c| c.region == condition.region && c.id != condition.id)
        .collect();
    html! {
        @if !others.is_empty() {
            p.muted {
                "Also for " (condition.region) ": "
                @for (place, other) in others.iter().enumerate() {
                    @if place > 0 { ", " }
                    a href={ "/conditions/" (other.id) } { (other.subject) " " (other.axes) }
                }
            }
        }
    }
}

fn jobs(jobs: &[Job], condition: &Condition) -> Markup {
    html! {
        section.panel {
            h2 { "Failed and running jobs" }
            table {
                thead { tr { th { "Job" } th { "Seed" } th { "State" } th.number { "Attempts" } th { "Worker" } th { "Step" } } }
                tbody {
                    @for job in jobs {
                        tr data-key={ "job-" (job.id) } {
                            td { a href={ "/jobs/" (job.id) } { (job.id) } }
                            td { (job.seed) }
                            td { span.tag.(job.state.as_str()) { (job.state) } }
                            td.number { (job.attempts) " of " (job.max_attempts) }
                            td { (job.worker.as_deref().unwrap_or("–")) }
                            td { @if job.state == JobState::Running { (job.step) " of " (job.steps) } @else { "–" } }
                        }
                    }
                }
            }
            @if condition.counts.failed > JOBS.into() {
                p.muted {
                    "The first " (JOBS) " of " (thousands(condition.counts.failed)) " failed; all: "
                    code { "coordinator jobs --state failed --condition " (condition.id) }
                }
            }
        }
    }
}
