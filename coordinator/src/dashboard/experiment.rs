//! `/experiments/{name}`: the grid and the science of one experiment.

use super::grid::grid;
use super::{Page, PageError, State, gallery, home, interval, open};
use crate::report::number::{activation, interval as bounds, percent, thousands};
use crate::report::specificity::{self, Pair, Pool, Specificity};
use axum::extract::{self, Path};
use maud::{Markup, html};

pub async fn page(extract::State(state): extract::State<State>, Path(name): Path<String>) -> Result<Page, PageError> {
    let (mut snapshot, frame) = open(&state).await?;
    let experiments = snapshot.experiments().await?;
    let Some(experiment) = experiments.iter().find(|experiment| experiment.name == name) else {
        return Err(PageError::NotFound { what: "experiment", name });
    };
    let table = specificity::read(&mut snapshot, experiment.id).await?;
    let best = snapshot.best_of_each(experiment.id).await?;
    let conditions = snapshot.conditions(Some(experiment.id)).await?;
    let pairs = specificity::pairs(&table);
    let body = html! {
        div.title {
            nav.crumbs { a href="/" { "Experiments" } " / " (name) }
            h1 { (name) }
            p.muted { (experiment.description) }
        }
        section.panel { (home::standing(experiment)) (grid(&conditions)) }
        @if !pairs.is_empty() { (against(&pairs)) }
        @if !table.is_empty() { (classes(&table)) }
        @if !best.is_empty() {
            section.panel {
                h2 {
                    @if table.is_empty() { "Pictures " } @else { "Highest predicted activation " }
                    small { "one image per condition" }
                }
                (gallery::of_many(&best, None))
            }
        }
    };
    Ok(frame.render(&name, &body))
}

/// What tells a condition from the others, as a link to it.
fn link(row: &Specificity) -> Markup {
    let condition = &row.condition;
    html! { a href={ "/conditions/" (condition.id) } { (condition.subject) " " b { (condition.region) } } " " small { (condition.axes) } }
}

/// The share that a blind guess would have.
fn chance(row: &Specificity) -> Option<f64> {
    (!row.classes.is_empty()).then(|| 1.0 / row.classes.len() as f64)
}

fn against(pairs: &[Pair]) -> Markup {
    let (guided, unguided) = (Pool::of(pairs.iter().map(|p| p.guided)), Pool::of(pairs.iter().map(|p| p.unguided)));
    html! {
        section.panel {
            header {
                h2 { "Guided against unguided" }
                p.muted { "Share of images in the class that the region prefers, with Wilson's 95 % interval; the dashed line is chance." }
            }
            div.scroll {
                table.science {
                    thead {
                        tr { th rowspan="2" { "Condition" } th rowspan="2" { "Prefers" } th.number colspan="2" { "Images" }
                             th.number colspan="2" { "Mean activation" } th.number colspan="2" { "In preferred class" } th rowspan="2" { "0 to 100 %" } }
                        tr { @for _ in 0..3 { th.number.guided { "guided" } th.number.unguided { "unguided" } } }
                    }
                    tbody {
                        @for Pair { guided, unguided } in pairs {
                            tr {
                                td { (link(guided)) }
                                td { (guided.prefers.as_deref().unwrap_or("–")) }
                                td.number { (thousands(guided.images)) }
                                td.number { (thousands(unguided.images)) }
                                td.number { (activation(guided.mean_activation())) }
                                td.number { (activation(unguided.mean_activation())) }
                                td.number { b { (percent(guided.in_preferred())) } " " small { (bounds(guided.in_preferred())) } }
                                td.number { (percent(unguided.in_preferred())) " " small { (bounds(unguided.in_preferred())) } }
                                td { (interval::chart(guided.in_preferred(), unguided.in_preferred(), chance(guided))) }
                            }
                        }
                    }
                    tfoot {
                        tr {
                            th scope="row" colspan="2" { "All" }
                            td.number { (thousands(guided.images)) }
                            td.number { (thousands(unguided.images)) }
                            td.number { (activation(guided.mean_activation())) }
                            td.number { (activation(unguided.mean_activation())) }
                            td.number { b { (percent(guided.in_preferred)) } " " small { (bounds(guided.in_preferred)) } }
                            td.number { (percent(unguided.in_preferred)) " " small { (bounds(unguided.in_preferred)) } }
                            td { (interval::chart(guided.in_preferred, unguided.in_preferred, pairs.first().and_then(|p| chance(p.guided)))) }
                        }
                    }
                }
            }
        }
    }
}

/// Every condition's images by probe class.
fn classes(table: &[Specificity]) -> Markup {
    let mut names: Vec<&str> = Vec::new();
    for (class, _) in table.iter().flat_map(|row| &row.classes) {
        if !names.contains(&class.as_str()) {
            names.push(class);
        }
    }
    html! {
        section.panel {
            header {
                h2 { "What the images show" }
                p.muted { "Share of each condition's images in each class of the probe; the preferred class is framed." }
            }
            div.scroll {
                table.classes {
                    thead {
                        tr {
                            th { "Condition" } th.number { "Images" } th.number { "Mean activation" }
                            @for name in &names { th.number { (name) } }
                            th.number { "In preferred, 95 %" }
                        }
                    }
                    tbody {
                        @for row in table {
                            tr {
                                td { (link(row)) }
                                td.number { (thousands(row.images)) }
                                td.number { (activation(row.mean_activation())) }
                                @for name in &names { (share(row, name)) }
                                td.number { (percent(row.in_preferred())) " " small { (bounds(row.in_preferred())) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn share(row: &Specificity, class: &str) -> Markup {
    let images = row.classes.iter().find(|(name, _)| name == class).map_or(0, |(_, images)| *images);
    let share = if row.images > 0 { images as f64 / row.images as f64 } else { 0.0 };
    html! {
        td.share.preferred[row.prefers.as_deref() == Some(class)] style={ "--share:" (format!("{share:.3}")) } title={ (images) " images" } {
            @if row.images > 0 { (format!("{:.0} %", share * 100.0)) } @else { "–" }
        }
    }
}
