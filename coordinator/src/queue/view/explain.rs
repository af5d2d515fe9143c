//! A sentence on where a job stands and, if it does not run, why.

use super::moment::{duration, utc};
use super::{Attempt, JobDetail, Snapshot, State, ViewError, reading};

/// What around a job decides when it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Surroundings {
    /// Workers that claim jobs.
    pub working: u64,
    /// Ready jobs of its experiment that are claimed before this one, counted up to [`Surroundings::MOST`].
    pub ahead: u64,
}

impl Surroundings {
    /// Counting stops here, so that asking costs the same for a million jobs.
    pub const MOST: u64 = 10_000;
}

impl Snapshot {
    /// What decides when the job runs.
    pub async fn surroundings(&mut self, detail: &JobDetail) -> Result<Surroundings, ViewError> {
        let (working, ahead) = sqlx::query_as(
            "SELECT (SELECT count(*) FROM worker WHERE activity = 'working'),
                    (SELECT count(*) FROM (
                        SELECT 1 FROM job INDEXED BY job_ready
                        WHERE experiment_id = ?1 AND state = 'ready' AND not_before > 0 AND not_before <= ?4 AND id <> ?2
                        UNION ALL
                        SELECT 1 FROM job INDEXED BY job_ready
                        WHERE experiment_id = ?1 AND state = 'ready' AND not_before = 0 AND id < ?2 LIMIT ?3))",
        )
        .bind(detail.job.experiment_id.0)
        .bind(detail.job.id.0)
        .bind(Surroundings::MOST as i64)
        .bind(self.now)
        .fetch_one(&mut *self.tx)
        .await
        .map_err(reading("what stands before a job"))?;
        Ok(Surroundings { working, ahead })
    }
}

/// Says in a sentence where the job stands at `now`, and what to do if that needs somebody.
pub fn explain(detail: &JobDetail, around: Surroundings, now: i64) -> String {
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
        State::Blocked => format!(
            "Held back, because an input of its condition was found missing or wrong: see its failed jobs with `coordinator \
             jobs --condition {} --state failed`. Mend it, then `coordinator retry {}`.",
            job.condition, job.id
        ),
        State::Ready if job.not_before > now => format!(
            "Waits {} more before attempt {} of {}, because the last one failed: {}.",
            duration(job.not_before - now),
            job.attempts + 1,
            job.max_attempts,
            cause(last)
        ),
        State::Ready if around.working == 0 => {
            "Waits for a worker: none claims jobs now. Start one on a machine that sees the model folders: `worker`."
                .to_owned()
        }
        State::Ready => {
            let ahead = match around.ahead {
                0 => "it is the next to be claimed".to_owned(),
                1 => "1 ready job stands before it".to_owned(),
                n if n >= Surroundings::MOST => format!("{n} ready jobs or more stand before it"),
                n => format!("{n} ready jobs stand before it"),
            };
            let workers = if around.working == 1 { "worker claims" } else { "workers claim" };
            format!("Ready: {ahead}, and {} {workers} jobs now.", around.working)
        }
    }
}

/// How the last attempt failed, without a full stop.
fn cause(attempt: Option<&Attempt>) -> String {
    match attempt.and_then(|a| a.class.map(|class| (class, a.message.as_deref().unwrap_or("")))) {
        Some((class, "")) => class.to_string(),
        Some((class, message)) => format!("{class}: {}", message.trim_end_matches('.')),
        None => "no attempt says why".to_owned(),
    }
}
