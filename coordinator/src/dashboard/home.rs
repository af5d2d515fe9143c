//! `/`: everything at a glance, failures first.

use super::bar::{bar, legend};
use super::grid::grid;
use super::workers::tiles;
use super::{Page, PageError, State, failures, gallery, open};
use crate::queue::view::moment::duration;
use crate::queue::view::{Condition, Counts, Experiment, WORKER_HISTORY, Worker};
use crate::report::number::{hours, thousands};
use axum::extract;
use maud::{Markup, html};

/// The rate of images is taken over this time, milliseconds.
const RATE_WINDOW: i64 = 10 * 60_000;
const IMAGES: u32 = 16;

pub async fn page(extract::State(state): extract::State<State>) -> Result<Page, PageError> {
    let (mut snapshot, frame) = open(&state).await?;
    let experiments = snapshot.experiments().await?;
    if experiments.is_empty() {
        return Ok(frame.render("Overview", &empty()));
    }
    let conditions = snapshot.conditions(None).await?;
    let failures = snapshot.failures().await?;
    let workers = snapshot.workers(frame.now - WORKER_HISTORY).await?;
    let rate = snapshot.images_per_hour(RATE_WINDOW).await?;
    let newest = snapshot.newest_images(IMAGES).await?;
    let shown = shown(&experiments);
    let mut best = match shown.first() {
        Some(experiment) => snapshot.best_of_each(experiment.id).await?,
        None => Vec::new(),
    };
    best.retain(|image| image.activation.is_some());
    best.sort_by(|a, b| b.activation.partial_cmp(&a.activation).unwrap_or(std::cmp::Ordering::Equal));
    best.truncate(IMAGES as usize);

    let body = html! {
        (failures::alarm(&failures, frame.failed, frame.now))
        (summary(&experiments, &workers, rate))
        @for experiment in &experiments {
            @let own: Vec<Condition> = conditions.iter().filter(|c| c.experiment == experiment.name).cloned().collect();
            (panel(experiment, shown.iter().any(|s| s.id == experiment.id).then_some(&own)))
        }
        section.panel {
            h2 { "Workers" }
            @if workers.is_empty() { p.muted { "None in the last day. Start one with " code { "worker" } "." } }
            (tiles(&workers, frame.now))
        }
        @if !newest.is_empty() {
            section.panel { h2 { "Newest images" } (gallery::of_many(&newest, Some(frame.now))) }
        }
        @if let (false, Some(experiment)) = (best.is_empty(), shown.first()) {
            section.panel {
                h2 { "Highest predicted activation " small { "one image per condition of " (experiment.name) } }
                (gallery::of_many(&best, None))
            }
        }
    };
    Ok(frame.render("Overview", &body))
}

/// The experiments whose grid the page shows: those with open jobs, else the newest.
fn shown(experiments: &[Experiment]) -> Vec<&Experiment> {
    let open: Vec<_> = experiments.iter().filter(|e| e.counts.open() > 0).collect();
    if open.is_empty() { experiments.first().into_iter().collect() } else { open }
}

fn empty() -> Markup {
    html! {
        section.panel {
            h1 { "No experiments yet" }
            p { "Submit one: " code { "coordinator submit experiments/miniature.yaml" } }
        }
    }
}

fn summary(experiments: &[Experiment], workers: &[Worker], rate: Option<f64>) -> Markup {
    let sum = |count: fn(&Counts) -> u64| experiments.iter().map(|e| count(&e.counts)).sum::<u64>();
    let (done, open, running) = (sum(|c| c.done), sum(Counts::open), sum(|c| c.running));
    let present = workers.iter().filter(|worker| worker.is_present()).count();
    let busy = workers.iter().filter(|worker| !worker.running.is_empty()).count();
    let useful: f64 = experiments.iter().map(|e| e.gpu_seconds.useful).sum();
    let wasted: f64 = experiments.iter().map(|e| e.gpu_seconds.wasted).sum();
    let spent: f64 = experiments.iter().map(|e| e.gpu_seconds.total()).sum();
    html! {
        dl.summary {
            div { dt { "Done" } dd { (thousands(done)) } p { "of " (thousands(sum(Counts::total))) " jobs" } }
            div { dt { "Running" } dd { (thousands(running)) } p { (busy) " of " (present) " workers busy" } }
            div {
                dt { "Rate" }
                dd { @if let Some(rate) = rate { (thousands(rate.round() as u64)) small { " jobs/h" } } @else { "–" } }
                p { "over the last 10 min" }
            }
            div {
                dt { "Left" }
                dd { (thousands(open)) small { " jobs" } }
                p {
                    @if open == 0 { "nothing waits" }
                    @else if let Some(rate) = rate { "about " (duration((open as f64 / rate * 3_600_000.0) as i64)) " at this rate" }
                    @else { "too few ended in the last 10 min to tell" }
                }
            }
            div {
                dt { "GPU-hours" }
                dd { (hours(spent)) }
                p {
                    @if useful + wasted > 0.0 { (format!("{:.1} %", 100.0 * wasted / (useful + wasted))) " wasted" }
                    @else { "none closed yet" }
                }
            }
        }
    }
}

fn panel(experiment: &Experiment, conditions: Option<&Vec<Condition>>) -> Markup {
    html! {
        section.panel data-key={ "experiment-" (experiment.id) } {
            header {
                h2 { a href={ "/experiments/" (url_path(&experiment.name)) } { (experiment.name) } }
                p.muted { (experiment.description) }
            }
            (standing(experiment))
            @if let Some(conditions) = conditions { (grid(conditions)) }
        }
    }
}

/// Counts and GPU-hours of an experiment.
pub fn standing(experiment: &Experiment) -> Markup {
    let spent = experiment.gpu_seconds.total();
    html! {
        div.standing {
            div {
                @if experiment.paused {
                    p { span.tag { "paused" } " its jobs wait until " code { "coordinator resume " (experiment.name) } }
                }
                (bar(&experiment.counts)) (legend(&experiment.counts))
            }
            div {
                @if let Some(budget) = experiment.budget_gpu_seconds {
                    @let share = spent / budget;
                    div.bar.budget role="img" aria-label="share of the budget used" {
                        i.spent.over[share > 1.0] style={ "flex:" (format!("{:.4}", share.min(1.0))) } {}
                        i.ready style={ "flex:" (format!("{:.4}", (1.0 - share).max(0.0))) } {}
                    }
                    ul.legend {
                        li { b { (hours(spent)) } " of " b { (hours(budget)) } " GPU-hours used" }
                        @if share > 1.0 { li { em.failed { "over budget" } } }
                    }
                } @else {
                    ul.legend { li { b { (hours(spent)) } " GPU-hours used, no budget" } }
                }
            }
        }
    }
}

/// A name as one segment of a path.
pub fn url_path(name: &str) -> String {
    let mut path = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => path.push(char::from(byte)),
            other => path.push_str(&format!("%{other:02X}")),
        }
    }
    path
}
