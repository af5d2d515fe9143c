//! An experiment's conditions as a grid: a row per subject and other axes, a column per region.

use super::bar::{bar, words};
use crate::queue::view::Condition;
use crate::report::number::thousands;
use maud::{Markup, html};

/// The grid of one experiment's conditions, rows and columns in the order of the conditions.
pub fn grid(conditions: &[Condition]) -> Markup {
    let mut regions: Vec<&str> = Vec::new();
    let mut rows: Vec<(&str, String)> = Vec::new();
    for condition in conditions {
        if !regions.contains(&condition.region.as_str()) {
            regions.push(&condition.region);
        }
        let row = (condition.subject.as_str(), condition.axes.to_string());
        if !rows.contains(&row) {
            rows.push(row);
        }
    }
    let cells = |subject: &str, axes: &str, region: &str| {
        let wanted = |c: &&Condition| c.subject == subject && c.region == region && c.axes.to_string() == axes;
        conditions.iter().filter(wanted).collect::<Vec<_>>()
    };
    html! {
        div.scroll {
            table.grid {
                thead { tr { th {} @for region in &regions { th scope="col" { (region) } } } }
                tbody {
                    @for (subject, axes) in &rows {
                        tr {
                            th scope="row" { (subject) @if !axes.is_empty() { " " small { (axes) } } }
                            @for region in &regions {
                                td { @for condition in cells(subject, axes, region) { (cell(condition)) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn cell(condition: &Condition) -> Markup {
    let counts = &condition.counts;
    html! {
        a.cell href={ "/conditions/" (condition.id) } title=(words(counts)) {
            (bar(counts))
            span.numbers {
                span { b { (thousands(counts.done)) } "/" (thousands(counts.total())) }
                @if counts.failed > 0 { em.failed { (thousands(counts.failed)) " failed" } }
                @else if counts.running > 0 { em.running { (thousands(counts.running)) " running" } }
            }
        }
    }
}
