//! `/jobs/{id}`: everything that happened to one job.

use super::gallery::source;
use super::layout::ago;
use super::{Page, PageError, State, home, open};
use crate::queue::view::moment::{duration, utc};
use crate::queue::view::{Attempt, JobDetail};
use crate::report::number::{activation, figure, thousands};
use crate::spec::summary::plural;
use axum::extract::{self, Path};
use maud::{Markup, html};
use protocol::ids::JobId;
use protocol::outcome::{FolderResult, JobResult, SampleResult, SimulateResult};
use serde_json::Value;

pub async fn page(extract::State(state): extract::State<State>, Path(id): Path<String>) -> Result<Page, PageError> {
    let (mut snapshot, frame) = open(&state).await?;
    let not_found = || PageError::NotFound { what: "job", name: id.clone() };
    let id: JobId = id.parse().map_err(|_| not_found())?;
    let (detail, explanation) = snapshot.explained(id).await?.ok_or_else(not_found)?;
    let job = &detail.job;
    let body = html! {
        div.title {
            nav.crumbs {
                a href="/" { "Experiments" } " / "
                a href={ "/experiments/" (home::url_path(&job.experiment)) } { (job.experiment) } " / "
                a href={ "/conditions/" (job.condition) } { (job.subject) " " (job.region) " " (job.axes) } " / job " (job.id)
            }
            h1 { "Job " (job.id) " " span.tag.(job.state.as_str()) { (job.state) } }
            p.lead { (with_code(&explanation)) }
        }
        div.columns {
            @match &detail.result {
                Some(JobResult::Sample(result) | JobResult::Score(result)) => (picture(&detail, result)),
                Some(JobResult::Prepare(result) | JobResult::Fit(result) | JobResult::Cluster(result)) => (folder(result)),
                Some(JobResult::Simulate(result)) => (noise(result)),
                None => {},
            }
            section.panel {
                h2 { "Attempts" }
                @if detail.attempts.is_empty() { p.muted { "None yet." } }
                ol.timeline { @for (place, attempt) in detail.attempts.iter().enumerate() { (entry(place + 1, attempt, frame.now)) } }
                @if detail.superseded > 0 {
                    p.muted { (detail.superseded) " late result(s) came with an old fence; kept, never counted." }
                }
            }
            (parameters(&detail))
        }
    };
    Ok(frame.render(&format!("Job {id}"), &body))
}

/// A sentence with what stands in backticks set as code.
fn with_code(sentence: &str) -> Markup {
    html! {
        @for (place, part) in sentence.split('`').enumerate() {
            @if place % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}

fn noise(result: &SimulateResult) -> Markup {
    html! {
        section.panel.picture {
            img src=(source(&result.image_sha256)) alt="noise" width="320" height="320";
            p.muted { "A simulated job: the picture is noise, and nothing was computed." }
        }
    }
}

/// What a job made, beside its picture.
fn folder(result: &FolderResult) -> Markup {
    html! {
        section.panel.picture {
            img src=(source(&result.image_sha256)) alt="what was made" width="320" height="320";
            dl.facts {
                @for (name, value) in &result.summary { dt { (name.replace('_', " ")) } dd { b { (figure(*value)) } } }
                dt { "Folder" } dd { code { (result.out.display()) } }
                dt { "Made by" } dd { (result.software) " on " (result.device) }
            }
            details {
                summary { (plural(result.files.len() as u64, "file")) }
                table {
                    thead { tr { th { "File" } th.number { "Bytes" } th { "sha256" } } }
                    tbody {
                        @for file in &result.files {
                            tr { td { (file.name) } td.number { (thousands(file.bytes)) } td { code.digest { (file.sha256) } } }
                        }
                    }
                }
            }
            @if !result.inputs.is_empty() {
                details {
                    summary { "What was read" }
                    dl.facts { @for (role, digest) in &result.inputs { dt { (role) } dd { code.digest { (digest) } } } }
                }
            }
        }
    }
}

fn picture(detail: &JobDetail, result: &SampleResult) -> Markup {
    let largest = result.roi_activation.values().fold(f64::MIN_POSITIVE, |most, value| most.max(value.abs()));
    html! {
        section.panel.picture {
            img src=(source(&result.image_sha256)) alt={ (detail.job.region) ", seed " (detail.job.seed) } width="320" height="320";
            dl.facts {
                dt { "Predicted activation" } dd { b { (activation(Some(result.activation))) } }
                dt { "Probe's class" } dd { (result.probe.class) }
                dt { "Effective γ" } dd { (result.effective_gamma) }
                dt { "Deviations" } dd { @if result.deviations.is_empty() { "none" } @else { (result.deviations.join("; ")) } }
                dt { "Made by" } dd { (result.software) " on " (result.device) }
                dt { "sha256" } dd { code.digest { (result.image_sha256) } }
            }
            @if !result.roi_activation.is_empty() {
                h3 { "Predicted activation by region" }
                dl.rois {
                    @for (roi, value) in &result.roi_activation {
                        dt { (roi) }
                        dd {
                            i.negative[*value < 0.0] style={ "--length:" (format!("{:.3}", value.abs() / largest)) } {}
                            span { (activation(Some(*value))) }
                        }
                    }
                }
            }
        }
    }
}

fn entry(number: usize, attempt: &Attempt, now: i64) -> Markup {
    let seconds = &attempt.seconds;
    let phases = [
        ("loading", seconds.loading),
        ("sampling", seconds.sampling),
        ("scoring", seconds.scoring),
        ("uploading", seconds.uploading),
    ];
    let took = attempt.ended_at.unwrap_or(now) - attempt.started_at;
    let other = (took as f64 / 1000.0 - phases.iter().map(|(_, s)| s).sum::<f64>()).max(0.0);
    html! {
        li.(attempt.outcome) {
            header {
                b { "Attempt " (number) }
                span.tag.(attempt.outcome) { (attempt.outcome) }
                @if let Some(class) = attempt.class { span.tag { (class) } }
                @if !attempt.counted { span.muted { "not counted" } }
            }
            p { (attempt.worker) " · " (attempt.device) " · fence " (attempt.fence) }
            p.muted {
                (utc(attempt.started_at)) " UTC, "
                @match attempt.ended_at { Some(_) => { "took " (duration(took)) }, None => { "started " (ago(attempt.started_at, now)) } }
            }
            @if let Some(message) = &attempt.message { p.message { (message) } }
            @if attempt.ended_at.is_some() && phases.iter().any(|(_, s)| *s > 0.0) {
                div.bar.phases {
                    @for (name, spent) in phases { @if spent > 0.0 { i.(name) style={ "flex:" (format!("{spent:.2}")) } title={ (name) " " (format!("{spent:.1}")) " s" } {} } }
                    @if other > 0.0 { i.ready style={ "flex:" (format!("{other:.2}")) } title={ "waiting " (format!("{other:.1}")) " s" } {} }
                }
                ul.legend {
                    @for (name, spent) in phases { @if spent > 0.0 { li { i.dot.(name) {} (name) " " (format!("{spent:.1}")) " s" } } }
                }
            }
        }
    }
}

fn parameters(detail: &JobDetail) -> Markup {
    let job = &detail.job;
    let sampling = ["sampling", "settings"].iter().find_map(|section| detail.spec.get(section)?.as_object());
    html! {
        section.panel {
            h2 { "Parameters" }
            dl.facts {
                dt { "Subject" } dd { (job.subject) }
                @if !job.region.is_empty() { dt { "Region" } dd { (job.region) } }
                dt { "Seed" } dd { (job.seed) }
                @for (name, value) in sampling.into_iter().flatten() {
                    dt { (name) } dd { @match value { Value::String(text) => { @if text.is_empty() { "(empty)" } @else { (text) } }, other => (other) } }
                }
                dt { "Priority" } dd { (job.priority) }
                dt { "Attempts" } dd { (job.attempts) " of " (job.max_attempts) " counted" }
            }
            details {
                summary { "Everything that decides the result" }
                pre { (format!("{:#}", detail.spec)) }
            }
        }
    }
}
