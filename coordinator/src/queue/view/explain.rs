//! A sentence on where a job stands and, if it does not run, why.

use super::moment::{duration, utc};
use super::{Attempt, JobDetail, Snapshot, State, ViewError, reading};
use crate::queue::pace;
use protocol::ids::JobId;
use std::collections::BTreeMap;

/// What around a job decides when it runs.
#[derive(Debug, Clone, PartialEq, Default)]
struct Surroundings {
    /// Its experiment is paused.
    paused: bool,
    /// The failure that opened the breaker of its condition, if it is open.
    breaker: Option<BadInput>,
    /// Conditions that it waits for.
    needs: Vec<Need>,
    workers: Workers,
    /// Ready jobs of its experiment that are claimed before this one, counted up to [`Surroundings::MOST`].
    ahead: u64,
    /// Ready jobs of experiments with a higher priority.
    ahead_by_priority: u64,
}

/// An input of a condition was found missing or wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
struct BadInput {
    /// Who met it last, and what it said; `None` if the coordinator itself could not read the condition.
    met: Option<(JobId, String)>,
}

/// A condition that is needed and not done.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
struct Need {
    experiment: String,
    condition: i64,
    subject: String,
    region: String,
    /// Jobs that are not done.
    unfinished: i64,
    /// Of them, those that failed or were cancelled: they need somebody.
    stuck: i64,
}

/// The workers that claim jobs, each counted by the first reason that keeps it from this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Workers {
    /// That can take the job.
    able: u64,
    /// That do not do this kind of work.
    other_kind: u64,
    /// Whose device does not compute in its precision.
    other_precision: u64,
    /// Whose device is quarantined.
    quarantined: u64,
    /// Whose allocation ends before the job would be done.
    too_late: u64,
}

impl Surroundings {
    /// Counting stops here, so that asking costs the same for a million jobs.
    const MOST: u64 = 10_000;
}

impl Snapshot {
    /// Everything about a job, and in a sentence where it stands and why it does not run; `None` if there is no such job.
    pub async fn explained(&mut self, job: JobId) -> Result<Option<(JobDetail, String)>, ViewError> {
        let Some(detail) = self.job(job).await? else { return Ok(None) };
        let around = self.surroundings(&detail).await?;
        let explanation = explain(&detail, &around, self.now());
        Ok(Some((detail, explanation)))
    }

    /// What decides when the job runs.
    async fn surroundings(&mut self, detail: &JobDetail) -> Result<Surroundings, ViewError> {
        let job = &detail.job;
        let (experiment, condition) = (job.experiment_id.0, job.condition.0);
        let (paused, open, ahead, ahead_by_priority): (bool, bool, u64, u64) = sqlx::query_as(
            "SELECT mine.paused, condition.breaker = 'open',
                    (SELECT count(*) FROM (
                        SELECT 1 FROM job INDEXED BY job_ready
                        WHERE experiment_id = ?1 AND state = 'ready' AND not_before > 0 AND not_before <= ?4 AND id <> ?2
                        UNION ALL
                        SELECT 1 FROM job INDEXED BY job_ready
                        WHERE experiment_id = ?1 AND state = 'ready' AND not_before = 0 AND id < ?2 LIMIT ?3)),
                    (SELECT coalesce(sum(counter.jobs), 0)
                     FROM experiment AS other JOIN condition AS theirs ON theirs.experiment_id = other.id
                          JOIN counter ON counter.condition_id = theirs.id AND counter.state = 'ready'
                     WHERE other.priority > mine.priority AND other.paused = 0)
             FROM experiment AS mine, condition WHERE mine.id = ?1 AND condition.id = ?5",
        )
        .bind(experiment)
        .bind(job.id.0)
        .bind(Surroundings::MOST as i64)
        .bind(self.now)
        .bind(condition)
        .fetch_one(&mut *self.tx)
        .await
        .map_err(reading("what stands before a job"))?;
        let mut breaker = None;
        if open {
            let met: Option<(i64, String)> = sqlx::query_as(
                "SELECT last_job_id, message FROM failure WHERE condition_id = ? AND class = 'bad_input'
                 ORDER BY last_at DESC LIMIT 1",
            )
            .bind(condition)
            .fetch_optional(&mut *self.tx)
            .await
            .map_err(reading("the bad input of a condition"))?;
            breaker = Some(BadInput { met: met.map(|(job, message)| (JobId(job), message)) });
        }
        let needs = sqlx::query_as(
            "SELECT experiment.name AS experiment, needed.id AS condition, needed.subject, needed.region,
                    coalesce(sum(counter.jobs) FILTER (WHERE state <> 'done'), 0) AS unfinished,
                    coalesce(sum(counter.jobs) FILTER (WHERE state IN ('failed', 'cancelled')), 0) AS stuck
             FROM need JOIN condition AS needed ON needed.id = need.needs_condition_id
                  JOIN experiment ON experiment.id = needed.experiment_id
                  LEFT JOIN (
                      SELECT condition_id, state, jobs, 0 AS by_seed FROM counter
                      UNION ALL
                      SELECT condition_id, state, 1, 1 FROM job WHERE seed = ?2) AS counter
                  ON counter.condition_id = needed.id AND counter.by_seed = need.by_seed
             WHERE need.condition_id = ?1 GROUP BY needed.id
             HAVING unfinished > 0 OR coalesce(sum(counter.jobs), 0) = 0 ORDER BY needed.id",
        )
        .bind(condition)
        .bind(job.seed.0.cast_signed())
        .fetch_all(&mut *self.tx)
        .await
        .map_err(reading("what a condition needs"))?;
        let workers = self.workers_for(experiment, condition).await?;
        Ok(Surroundings { paused, breaker, needs, workers, ahead, ahead_by_priority })
    }

    /// Which of the workers that claim jobs can take one of the experiment's condition.
    async fn workers_for(&mut self, experiment: i64, condition: i64) -> Result<Workers, ViewError> {
        let claiming: Vec<(String, Option<i64>, bool, bool, bool)> = sqlx::query_as(
            "SELECT device_name, deadline_at - ?2,
                    (SELECT kind FROM experiment WHERE id = ?1) IN (SELECT value FROM json_each(worker.kinds)),
                    (SELECT precision FROM condition WHERE id = ?3) IN (SELECT value FROM json_each(worker.precisions)),
                    EXISTS (SELECT 1 FROM quarantine WHERE quarantine.device_key = worker.device_key)
             FROM worker WHERE activity = 'working'",
        )
        .bind(experiment)
        .bind(self.now)
        .bind(condition)
        .fetch_all(&mut *self.tx)
        .await
        .map_err(reading("the workers that claim jobs"))?;
        let pace: Vec<(String, i64, i64)> = sqlx::query_as(
            "SELECT device_name, bucket, attempts FROM pace WHERE experiment_id = ? ORDER BY device_name, bucket",
        )
        .bind(experiment)
        .fetch_all(&mut *self.tx)
        .await
        .map_err(reading("how long jobs take"))?;
        let mut histograms: BTreeMap<String, Vec<(i64, i64)>> = BTreeMap::new();
        for (device, bucket, attempts) in pace {
            histograms.entry(device).or_default().push((bucket, attempts));
        }
        let mut workers = Workers::default();
        for (device, remaining, can, computes, quarantined) in claiming {
            let takes = histograms.get(&device).and_then(|histogram| pace::p95(histogram));
            let too_late = takes.zip(remaining).is_some_and(|(takes, remaining)| takes * 1000.0 > remaining as f64);
            let count = match (can, computes, quarantined, too_late) {
                (false, ..) => &mut workers.other_kind,
                (_, false, ..) => &mut workers.other_precision,
                (_, _, true, _) => &mut workers.quarantined,
                (_, _, _, true) => &mut workers.too_late,
                _ => &mut workers.able,
            };
            *count += 1;
        }
        Ok(workers)
    }
}

/// Says in a sentence where the job stands at `now`, and what to do if that needs somebody.
fn explain(detail: &JobDetail, around: &Surroundings, now: i64) -> String {
    let job = &detail.job;
    let last = detail.attempts.last();
    let worker = |attempt: Option<&Attempt>| attempt.map_or("a worker".to_owned(), |a| a.worker.clone());
    match job.state {
        State::Running => {
            let since = last.map_or(String::new(), |a| format!(" for {}", duration(now - a.started_at)));
            let step = if job.steps > 0 { format!(", step {} of {}", job.step, job.steps) } else { String::new() };
            let holder = job.worker.clone().unwrap_or_else(|| worker(last));
            match job.lease_until.map(|until| until - now) {
                Some(left) if left > 0 => {
                    format!("Runs on {holder}{since}{step}; its lease holds for another {}.", duration(left))
                }
                _ => format!(
                    "{holder} holds it{since}{step}, but its lease has run out: the worker is not heard of, and the job \
                     returns to the queue when the coordinator next looks."
                ),
            }
        }
        State::Done => match last.and_then(|a| a.ended_at.map(|end| (a, end))) {
            Some((attempt, end)) => {
                format!("Done on {} at {} UTC, in {}.", attempt.worker, utc(end), duration(end - attempt.started_at))
            }
            None => "Done.".to_owned(),
        },
        State::Failed => format!(
            "Failed for good after {} of {} attempts: {}. Mend the cause, then `coordinator retry {}`.",
            job.attempts,
            job.max_attempts,
            cause(last),
            job.id
        ),
        State::Cancelled => {
            format!("Cancelled at {} UTC. `coordinator retry {}` makes it ready again.", utc(job.updated_at), job.id)
        }
        State::Blocked => blocked(detail, around),
        State::Ready => ready(detail, around, now),
    }
}

fn blocked(detail: &JobDetail, around: &Surroundings) -> String {
    let id = detail.job.id;
    if let Some(breaker) = &around.breaker {
        let found = match &breaker.met {
            Some((job, message)) => format!("job {job} of its condition found {}", message.trim_end_matches('.')),
            None => "its condition cannot be read by this version".to_owned(),
        };
        return format!("Held back by bad input: {found}. Mend it, then `coordinator retry {id}`.");
    }
    let Some(first) = around.needs.first() else {
        return format!("Held back, and nothing says why: `coordinator retry {id}` makes it ready.");
    };
    let others = match around.needs.len() - 1 {
        0 => String::new(),
        1 => " and 1 other condition".to_owned(),
        n => format!(" and {n} other conditions"),
    };
    let (left, stuck) =
        around.needs.iter().fold((0, 0), |(left, stuck), need| (left + need.unfinished, stuck + need.stuck));
    let jobs = if left == 1 { "job there is" } else { "jobs there are" };
    let cell = [first.subject.as_str(), &first.region].into_iter().filter(|name| !name.is_empty()).collect::<Vec<_>>();
    let what = format!("condition {} of {} ({})", first.condition, first.experiment, cell.join(" "));
    let stuck = match around.needs.iter().find(|need| need.stuck > 0) {
        Some(need) => format!(
            "; {stuck} of them failed or were cancelled: see `coordinator jobs --condition {}` and retry them",
            need.condition
        ),
        None => String::new(),
    };
    format!("Waits for {what}{others}, which it needs: {left} {jobs} not done{stuck}.")
}

fn ready(detail: &JobDetail, around: &Surroundings, now: i64) -> String {
    let job = &detail.job;
    if around.paused {
        return format!("Waits because {0} is paused: `coordinator resume {0}` lets it go on.", job.experiment);
    }
    if job.not_before > now {
        return format!(
            "Waits {} more before attempt {} of {}, because the last one failed: {}.",
            duration(job.not_before - now),
            job.attempts + 1,
            job.max_attempts,
            cause(detail.attempts.last())
        );
    }
    let Workers { able, other_kind, other_precision, quarantined, too_late } = around.workers;
    if able == 0 {
        let reasons: Vec<String> = [
            (other_kind, "does other work"),
            (
                other_precision,
                "has no device for bfloat16, which takes compute capability 8.0 or higher and a worker built for it",
            ),
            (quarantined, "has a quarantined device, see `coordinator workers`"),
            (too_late, "must end before the job would be done"),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, reason)| format!("{reason} ({count})"))
        .collect();
        if reasons.is_empty() {
            return "Waits for a worker: none claims jobs now. Start one on a machine that sees the model folders: \
                    `worker`."
                .to_owned();
        }
        return format!(
            "Waits for a worker that can take it: every one that claims jobs now {}.",
            reasons.join(", or ")
        );
    }
    let own = match around.ahead {
        0 => "it is the next to be claimed".to_owned(),
        1 => "1 ready job stands before it".to_owned(),
        n if n >= Surroundings::MOST => format!("{n} ready jobs or more stand before it"),
        n => format!("{n} ready jobs stand before it"),
    };
    let first = match around.ahead_by_priority {
        0 => String::new(),
        n => format!(" in its experiment after {n} of experiments with a higher priority"),
    };
    let workers = if able == 1 { "worker claims" } else { "workers claim" };
    format!("Ready: {own}{first}, and {able} {workers} jobs now.")
}

/// How the last attempt failed, without a full stop.
fn cause(attempt: Option<&Attempt>) -> String {
    match attempt.and_then(|a| a.class.map(|class| (class, a.message.as_deref().unwrap_or("")))) {
        Some((class, "")) => class.to_string(),
        Some((class, message)) => format!("{class}: {}", message.trim_end_matches('.')),
        None => "no attempt says why".to_owned(),
    }
}
