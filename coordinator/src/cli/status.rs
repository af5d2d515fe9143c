//! `coordinator status`: where the experiments stand.

use super::Database;
use super::table::Table;
use crate::queue::view::{self, Counts, Experiment, Snapshot};
use crate::report::number::{activation, hours, interval, percent, thousands};
use crate::report::specificity::{self, Specificity};
use serde::Serialize;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

/// How often `--watch` looks.
const PERIOD: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    database: Database,
    /// Only this experiment, with its conditions
    #[arg(value_name = "EXPERIMENT")]
    experiment: Option<String>,
    /// Go on until stopped
    #[arg(long)]
    watch: bool,
    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
}

impl Args {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let reader = view::open(&self.database.db).await?;
        let mut out = std::io::stdout();
        loop {
            let text = self.look(&mut Snapshot::take(&reader).await?).await?;
            if self.watch && !self.json && out.is_terminal() {
                // Clears the screen and goes to its corner.
                write!(out, "\x1b[2J\x1b[H")?;
            }
            write!(out, "{text}")?;
            out.flush()?;
            if !self.watch {
                return Ok(ExitCode::SUCCESS);
            }
            tokio::select! {
                () = tokio::time::sleep(PERIOD) => {}
                _ = tokio::signal::ctrl_c() => return Ok(ExitCode::SUCCESS),
            }
        }
    }

    async fn look(&self, snapshot: &mut Snapshot) -> anyhow::Result<String> {
        let experiments = snapshot.experiments().await?;
        match &self.experiment {
            None if self.json => Ok(serde_json::to_string(&experiments)? + "\n"),
            None => Ok(overview(&experiments)),
            Some(name) => {
                let experiment = find(&experiments, name)?;
                let conditions = specificity::read(snapshot, experiment.id).await?;
                if self.json {
                    Ok(serde_json::to_string(&Standing { experiment, conditions: &conditions })? + "\n")
                } else {
                    Ok(format!("{}\n{}", overview(std::slice::from_ref(experiment)), by_condition(&conditions)))
                }
            }
        }
    }
}

#[derive(Serialize)]
struct Standing<'a> {
    experiment: &'a Experiment,
    conditions: &'a [Specificity],
}

/// The experiment of that name; an error that names the nearest one if there is none.
fn find<'a>(experiments: &'a [Experiment], name: &str) -> anyhow::Result<&'a Experiment> {
    if let Some(found) = experiments.iter().find(|experiment| experiment.name == name) {
        return Ok(found);
    }
    let nearest = experiments
        .iter()
        .max_by(|a, b| strsim::jaro_winkler(&a.name, name).total_cmp(&strsim::jaro_winkler(&b.name, name)));
    match nearest {
        Some(nearest) => anyhow::bail!("there is no experiment `{name}`; the nearest name is `{}`", nearest.name),
        None => {
            anyhow::bail!("there is no experiment `{name}`, nor any other: submit one with `coordinator submit FILE`")
        }
    }
}

fn overview(experiments: &[Experiment]) -> String {
    if experiments.is_empty() {
        return "no experiments: submit one with `coordinator submit FILE`\n".to_owned();
    }
    let mut table = Table::new([
        "EXPERIMENT",
        ">PRIORITY",
        ">DONE",
        ">RUNNING",
        ">READY",
        ">BLOCKED",
        ">FAILED",
        ">CANCELLED",
        ">TOTAL",
        ">GPU-HOURS",
        ">BUDGET",
    ]);
    for experiment in experiments {
        let [done, running, ready, blocked, failed, cancelled, total] = counts(&experiment.counts);
        table.row([
            experiment.name.clone(),
            if experiment.paused { "paused".to_owned() } else { experiment.priority.to_string() },
            done,
            running,
            ready,
            blocked,
            failed,
            cancelled,
            total,
            hours(experiment.gpu_seconds.total()),
            experiment.budget_gpu_seconds.map_or("-".to_owned(), hours),
        ]);
    }
    table.to_string()
}

fn by_condition(conditions: &[Specificity]) -> String {
    let mut table = Table::new([
        ">CONDITION",
        "SUBJECT",
        "REGION",
        "AXES",
        ">DONE",
        ">RUNNING",
        ">READY",
        ">BLOCKED",
        ">FAILED",
        ">CANCELLED",
        ">TOTAL",
        ">ACTIVATION",
        ">PREFERRED",
        ">95 %",
    ]);
    for row in conditions {
        let [done, running, ready, blocked, failed, cancelled, total] = counts(&row.condition.counts);
        table.row([
            row.condition.id.to_string(),
            row.condition.subject.clone(),
            row.condition.region.clone(),
            row.condition.axes.to_string(),
            done,
            running,
            ready,
            blocked,
            failed,
            cancelled,
            total,
            activation(row.mean_activation()),
            percent(row.in_preferred()),
            interval(row.in_preferred()),
        ]);
    }
    table.to_string()
}

fn counts(counts: &Counts) -> [String; 7] {
    [counts.done, counts.running, counts.ready, counts.blocked, counts.failed, counts.cancelled, counts.total()]
        .map(thousands)
}
