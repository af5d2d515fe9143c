//! `coordinator jobs`: lists jobs.

use super::Database;
use super::table::Table;
use crate::queue::Filter;
use crate::queue::view::moment::{duration, now};
use crate::queue::view::{self, JobPage, Snapshot, State};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use protocol::ids::{ConditionId, JobId};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    database: Database,
    /// Only jobs of this experiment
    #[arg(long, value_name = "NAME")]
    experiment: Option<String>,
    /// Only jobs in this state
    #[arg(long, value_name = "STATE", value_parser = states())]
    state: Option<State>,
    /// Only jobs of this condition
    #[arg(long, value_name = "ID")]
    condition: Option<ConditionId>,
    /// Only jobs that fit, for example 'state=failed class=io region=FFA seed=0-99 message~"no space"'
    #[arg(long = "where", value_name = "FILTER")]
    filter: Option<Filter>,
    /// At most this many
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: u32,
    /// Go on after this job, the last of the page before
    #[arg(long, value_name = "JOB")]
    after: Option<JobId>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn states() -> impl TypedValueParser<Value = State> {
    PossibleValuesParser::new(State::ALL.map(State::as_str)).try_map(|name| name.parse::<State>())
}

impl Args {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let reader = view::open(&self.database.db).await?;
        let mut filter = self.filter.unwrap_or_default();
        if let Some(name) = &self.experiment {
            filter = filter.and_experiment(name);
        }
        if let Some(state) = self.state {
            filter = filter.and_state(state);
        }
        if let Some(condition) = self.condition {
            filter = filter.and_condition(condition);
        }
        let page = JobPage { filter, after: self.after, limit: self.limit };
        let jobs = Snapshot::take(&reader).await?.jobs(&page).await?;
        if self.json {
            println!("{}", serde_json::to_string(&jobs)?);
            return Ok(ExitCode::SUCCESS);
        }
        let mut table = Table::new([
            ">JOB",
            "EXPERIMENT",
            ">CONDITION",
            "SUBJECT",
            "REGION",
            "AXES",
            ">SEED",
            "STATE",
            ">ATTEMPTS",
            "WORKER",
            ">STEP",
            ">CHANGED",
        ]);
        for job in &jobs {
            table.row([
                job.id.to_string(),
                job.experiment.clone(),
                job.condition.to_string(),
                job.subject.clone(),
                job.region.clone(),
                job.axes.to_string(),
                job.seed.to_string(),
                job.state.to_string(),
                format!("{}/{}", job.attempts, job.max_attempts),
                job.worker.clone().unwrap_or_else(|| "-".to_owned()),
                if job.state == State::Running { format!("{}/{}", job.step, job.steps) } else { "-".to_owned() },
                duration(now() - job.updated_at),
            ]);
        }
        print!("{table}");
        if let (Some(last), true) = (jobs.last(), jobs.len() as u64 == u64::from(self.limit)) {
            eprintln!("there may be more: --after {} --limit {}", last.id, self.limit);
        }
        Ok(ExitCode::SUCCESS)
    }
}
