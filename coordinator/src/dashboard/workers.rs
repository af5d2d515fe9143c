//! `/workers`, and the tiles of workers on the overview.

use super::layout::ago;
use super::{Page, PageError, State, open};
use crate::queue::view::moment::{duration, utc};
use crate::queue::view::{WORKER_HISTORY, Worker};
use axum::extract;
use maud::{Markup, html};

/// A present worker whose heartbeat is older than this is marked; two heartbeats were missed.
const LATE: i64 = 45_000;

pub async fn page(extract::State(state): extract::State<State>) -> Result<Page, PageError> {
    let (mut snapshot, frame) = open(&state).await?;
    let workers = snapshot.workers(frame.now - WORKER_HISTORY).await?;
    let (present, past): (Vec<_>, Vec<_>) = workers.into_iter().partition(Worker::is_present);
    let body = html! {
        h1 { "Workers" }
        section.panel {
            @if present.is_empty() { p.muted { "No worker is connected. Start one with " code { "worker" } "." } }
            (tiles(&present, frame.now))
        }
        @if !past.is_empty() {
            section.panel {
                h2 { "Gone or silent " small { "in the last day" } }
                div.scroll {
                    table {
                        thead { tr { th { "Worker" } th { "Device" } th { "State" } th { "Registered" } th { "Last heard of" } } }
                        tbody {
                            @for worker in &past {
                                tr {
                                    td { (worker.name) small { " #" (worker.id) } }
                                    td { (worker.device_name) }
                                    td { (activity(worker)) }
                                    td.nowrap { (utc(worker.registered_at)) }
                                    td.nowrap { (ago(worker.heartbeat_at, frame.now)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    };
    Ok(frame.render("Workers", &body))
}

fn activity(worker: &Worker) -> Markup {
    html! { span.tag.(worker.activity) { (worker.activity) } }
}

/// A tile per worker: what it is, when it was last heard of, and what it does now.
pub fn tiles(workers: &[Worker], now: i64) -> Markup {
    html! {
        ul.tiles {
            @for worker in workers {
                @let late = worker.is_present() && now - worker.heartbeat_at > LATE;
                li.late[late] data-key={ "worker-" (worker.id) } {
                    header { b { (worker.name) } (activity(worker)) }
                    p.muted { (worker.device_name) }
                    @if let Some(reason) = &worker.quarantine {
                        p.message { "quarantined, gets no jobs: " (reason) ". When it is well: " code { "coordinator release-device " (worker.device_key) } }
                    }
                    @for running in &worker.running {
                        @let share = if running.steps > 0 { 100.0 * f64::from(running.step) / f64::from(running.steps) } else { 0.0 };
                        a.run href={ "/jobs/" (running.job) } {
                            span { "job " (running.job) " · " (running.subject) " " (running.region) " · seed " (running.seed) }
                            div.bar { i.running style={ "flex:" (format!("{share:.1}")) } {} i.ready style={ "flex:" (format!("{:.1}", 100.0 - share)) } {} }
                            small {
                                @if running.steps > 0 { "step " (running.step) " of " (running.steps) ", " } @else { "started " }
                                (duration(now - running.started_at)) @if running.steps == 0 { " ago" }
                            }
                        }
                    }
                    @if worker.running.is_empty() { p.muted { "holds no job" } }
                    small.muted { "heard of " (ago(worker.heartbeat_at, now)) }
                }
            }
        }
    }
}
