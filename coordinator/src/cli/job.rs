//! `coordinator job`: everything about one job, and why it does not run if it does not.

use super::Database;
use crate::queue::view::moment::{duration, utc};
use crate::queue::view::{self, Attempt, JobDetail, Snapshot};
use crate::report::number::{activation, figure};
use protocol::ids::JobId;
use serde::Serialize;
use std::fmt::Write;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    database: Database,
    /// The job's number
    #[arg(value_name = "JOB")]
    job: JobId,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let reader = view::open(&self.database.db).await?;
        let mut snapshot = Snapshot::take(&reader).await?;
        let (detail, explanation) = super::explained(&mut snapshot, self.job).await?;
        if self.json {
            println!("{}", serde_json::to_string(&Explained { explanation, detail: &detail })?);
        } else {
            print!("{}", tell(&detail, &explanation, snapshot.now())?);
        }
        Ok(ExitCode::SUCCESS)
    }
}

#[derive(Serialize)]
struct Explained<'a> {
    explanation: String,
    #[serde(flatten)]
    detail: &'a JobDetail,
}

fn tell(detail: &JobDetail, explanation: &str, now: i64) -> Result<String, std::fmt::Error> {
    let job = &detail.job;
    let mut text = String::new();
    writeln!(text, "job {}: {}", job.id, job.state)?;
    writeln!(text, "{explanation}\n")?;
    writeln!(text, "experiment  {}", job.experiment)?;
    let axes = job.axes.to_string();
    let cell = [job.subject.as_str(), &job.region, &axes].into_iter().filter(|part| !part.is_empty());
    let cell = cell.collect::<Vec<_>>();
    writeln!(text, "condition   {}: {}", job.condition, cell.join(" "))?;
    writeln!(text, "seed        {}", job.seed)?;
    writeln!(text, "attempts    {} of {} counted, priority {}", job.attempts, job.max_attempts, job.priority)?;
    if let Some(result) = &detail.result {
        if let Some(scores) = result.scores() {
            writeln!(text, "activation  {}", activation(Some(scores.activation)))?;
            writeln!(text, "class       {}", scores.probe.class)?;
        }
        if let Some(folder) = result.folder() {
            writeln!(text, "folder      {}", folder.out.display())?;
            let width = folder.summary.keys().map(String::len).max().unwrap_or_default();
            for (name, value) in &folder.summary {
                writeln!(text, "            {name:<width$}  {}", figure(*value))?;
            }
        }
        writeln!(text, "image       {}", result.image())?;
    }
    if detail.superseded > 0 {
        writeln!(text, "superseded  {} late result(s) with an old fence, never counted", detail.superseded)?;
    }
    for (place, attempt) in detail.attempts.iter().enumerate() {
        write_attempt(&mut text, place + 1, attempt, now)?;
    }
    Ok(text)
}

fn write_attempt(text: &mut String, number: usize, attempt: &Attempt, now: i64) -> std::fmt::Result {
    let took = duration(attempt.ended_at.unwrap_or(now) - attempt.started_at);
    let class = attempt.class.map_or(String::new(), |class| format!(" {class}"));
    let counted = if attempt.counted { "" } else { ", not counted" };
    writeln!(
        text,
        "\n{number}. {} UTC  {}{class} after {took} on {} ({}, fence {}){counted}",
        utc(attempt.started_at),
        attempt.outcome,
        attempt.worker,
        attempt.device,
        attempt.fence
    )?;
    if let Some(message) = &attempt.message {
        writeln!(text, "   {message}")?;
    }
    let phases = &attempt.seconds;
    if phases.loading + phases.sampling + phases.scoring + phases.uploading > 0.0 {
        writeln!(
            text,
            "   loading {:.1} s, sampling {:.1} s, scoring {:.1} s, uploading {:.1} s",
            phases.loading, phases.sampling, phases.scoring, phases.uploading
        )?;
    }
    Ok(())
}
