//! The table that ends a demo: guided against unguided where the experiment has both.

use crate::cli::table::Table;
use crate::queue::view::{Condition, Experiment, Snapshot, ViewError};
use crate::report::number::{activation, hours, interval, percent, thousands};
use crate::report::specificity::{self, Pair, Pool, Specificity};

/// The experiment's table and totals, as text.
pub async fn of(snapshot: &mut Snapshot, experiment: &Experiment) -> Result<String, ViewError> {
    let rows = specificity::read(snapshot, experiment.id).await?;
    let pairs = specificity::pairs(&rows);
    let table = if pairs.is_empty() { alone(&rows) } else { against(&pairs) };
    Ok(format!(
        "{table}\n{} images in {} device-hours\n",
        thousands(experiment.counts.done),
        hours(experiment.gpu_seconds.total())
    ))
}

fn name(condition: &Condition) -> String {
    format!("{} {} {}", condition.subject, condition.region, condition.axes)
}

fn against(pairs: &[Pair]) -> Table {
    let mut table = Table::new([
        "CONDITION",
        "PREFERS",
        ">IMAGES",
        ">ACTIVATION",
        ">UNGUIDED",
        ">IN PREFERRED",
        ">95 %",
        ">UNGUIDED",
        ">95 %",
    ]);
    for Pair { guided, unguided } in pairs {
        table.row([
            name(&guided.condition),
            guided.prefers.clone().unwrap_or_else(|| "-".to_owned()),
            format!("{} + {}", thousands(guided.images), thousands(unguided.images)),
            activation(guided.mean_activation()),
            activation(unguided.mean_activation()),
            percent(guided.in_preferred()),
            interval(guided.in_preferred()),
            percent(unguided.in_preferred()),
            interval(unguided.in_preferred()),
        ]);
    }
    let (guided, unguided) = (Pool::of(pairs.iter().map(|p| p.guided)), Pool::of(pairs.iter().map(|p| p.unguided)));
    table.row([
        "all".to_owned(),
        String::new(),
        format!("{} + {}", thousands(guided.images), thousands(unguided.images)),
        activation(guided.mean_activation()),
        activation(unguided.mean_activation()),
        percent(guided.in_preferred),
        interval(guided.in_preferred),
        percent(unguided.in_preferred),
        interval(unguided.in_preferred),
    ]);
    table
}

fn alone(rows: &[Specificity]) -> Table {
    let mut table = Table::new(["CONDITION", "PREFERS", ">IMAGES", ">ACTIVATION", ">IN PREFERRED", ">95 %"]);
    for row in rows {
        table.row([
            name(&row.condition),
            row.prefers.clone().unwrap_or_else(|| "-".to_owned()),
            thousands(row.images),
            activation(row.mean_activation()),
            percent(row.in_preferred()),
            interval(row.in_preferred()),
        ]);
    }
    let all = Pool::of(rows);
    table.row([
        "all".to_owned(),
        String::new(),
        thousands(all.images),
        activation(all.mean_activation()),
        percent(all.in_preferred),
        interval(all.in_preferred),
    ]);
    table
}
