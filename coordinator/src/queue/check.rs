//! What must hold of every job table at every moment: a list of checks, each a query that must give no rows.
//!
//! Whatever the triggers and the writer keep as they go is counted again from the rows that it sums up.

use super::view::{Snapshot, ViewError, reading};
use serde::Serialize;
use sqlx::Row;

/// Findings of one check that are told; the rest is counted.
const TOLD: usize = 20;

/// Something that must hold.
#[derive(Debug, Clone, Copy)]
pub struct Check {
    pub name: &'static str,
    /// What holds if the query gives no rows, as a sentence without its full stop.
    pub promise: &'static str,
    /// Gives a sentence for everything of which it does not hold.
    query: &'static str,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome {
    pub check: &'static str,
    pub promise: &'static str,
    /// How often the promise is broken.
    pub broken: u64,
    /// A sentence each, the first of them.
    pub findings: Vec<String>,
    /// What to do, if there are findings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Outcome {
    /// Nothing found so far.
    pub fn new(check: &'static str, promise: &'static str) -> Self {
        Self { check, promise, broken: 0, findings: Vec::new(), advice: None }
    }

    pub fn add(&mut self, finding: String) {
        self.broken += 1;
        if self.findings.len() < TOLD {
            self.findings.push(finding);
        }
    }

    /// Says what to do about the findings, if there are any.
    pub fn advise(mut self, advice: &str) -> Self {
        self.advice = (self.broken > 0).then(|| advice.to_owned());
        self
    }

    pub fn holds(&self) -> bool {
        self.broken == 0
    }
}

/// The checks on rows.
pub const CHECKS: [Check; 14] = [
    Check {
        name: "results",
        promise: "every done job has exactly one result that counts, and no other job has one",
        query: "SELECT format('job %d is %s and has %d results that count', job.id, job.state, count(result.id))
                FROM job LEFT JOIN result ON result.job_id = job.id AND result.counted = 1
                GROUP BY job.id HAVING count(result.id) <> (job.state = 'done')",
    },
    Check {
        name: "fences",
        promise: "a result that counts came with the last fence of its job, from the attempt that is done",
        query: "SELECT format('the result of job %d came with fence %d of worker %d; the job''s fence is %d, and that attempt is %s',
                              job_id, result.fence, result.worker_id, job.fence, coalesce(attempt.outcome, 'not there'))
                FROM result JOIN job ON job.id = job_id
                     LEFT JOIN attempt USING (job_id, fence, worker_id)
                WHERE result.counted = 1 AND (result.fence <> job.fence OR attempt.outcome IS NOT 'done')",
    },
    Check {
        name: "done attempts",
        promise: "every attempt that is done gave the result that counts",
        query: "SELECT format('attempt %d of job %d is done, and no result of its fence %d counts', attempt.id, job_id, fence)
                FROM attempt LEFT JOIN result USING (job_id, fence)
                WHERE attempt.outcome = 'done' AND result.counted IS NOT 1",
    },
    Check {
        name: "running jobs",
        promise: "every running job has exactly one running attempt, by the worker that holds it",
        query: "SELECT format('job %d runs with fence %d on worker %d without a running attempt of theirs', job.id, job.fence, job.worker_id)
                FROM job WHERE state = 'running' AND NOT EXISTS (
                    SELECT 1 FROM attempt WHERE job_id = job.id AND attempt.fence = job.fence
                                            AND attempt.worker_id = job.worker_id AND outcome = 'running')",
    },
    Check {
        name: "running attempts",
        promise: "every running attempt is the last of a running job",
        query: "SELECT format('attempt %d of job %d runs with fence %d; the job is %s with fence %d',
                              attempt.id, job_id, attempt.fence, job.state, job.fence)
                FROM attempt JOIN job ON job.id = job_id
                WHERE outcome = 'running' AND (job.state <> 'running' OR job.fence <> attempt.fence)",
    },
    Check {
        name: "attempts",
        promise: "every job has used as many attempts as were counted against it",
        query: "SELECT format('job %d has used %d attempts; %d of its attempts count', job.id, job.attempts, count(attempt.id))
                FROM job LEFT JOIN attempt ON attempt.job_id = job.id AND attempt.counted = 1 AND attempt.outcome <> 'running'
                GROUP BY job.id HAVING count(attempt.id) <> job.attempts",
    },
    Check {
        name: "blocked jobs",
        promise: "every blocked job waits for something",
        query: "SELECT format('job %d is blocked, though nothing is wrong with its condition %d and all that it needs is done', job.id, condition.id)
                FROM condition JOIN job ON job.condition_id = condition.id AND job.state = 'blocked'
                WHERE breaker = 'closed' AND NOT EXISTS (
                    SELECT 1 FROM need WHERE need.condition_id = condition.id AND (
                        SELECT count(*) = 0 OR sum(state <> 'done') > 0 FROM job AS needed
                        WHERE needed.condition_id = need.needs_condition_id AND (NOT by_seed OR needed.seed = job.seed)))",
    },
    Check {
        name: "experiments",
        promise: "every job belongs to the experiment of its condition",
        query: "SELECT format('job %d belongs to experiment %d, its condition %d to %d',
                              job.id, job.experiment_id, condition.id, condition.experiment_id)
                FROM job JOIN condition ON condition.id = condition_id WHERE job.experiment_id <> condition.experiment_id",
    },
    Check {
        name: "counters",
        promise: "the counters of jobs by condition and state equal a recount",
        query: "SELECT format('condition %d has %d %s jobs, its counter says %d',
                              condition_id, coalesce(recount.jobs, 0), state, coalesce(counter.jobs, 0))
                FROM (SELECT condition_id, state, count(*) AS jobs FROM job GROUP BY condition_id, state) AS recount
                     FULL JOIN counter USING (condition_id, state)
                WHERE coalesce(recount.jobs, 0) <> coalesce(counter.jobs, 0)",
    },
    Check {
        name: "scores",
        promise: "the sums of images and activation by probe class equal a recount",
        query: "SELECT format('condition %d has %d images of class %s with activations of %.6f in all, its score says %d and %.6f',
                              condition_id, coalesce(recount.images, 0), probe_class, coalesce(recount.total, 0),
                              coalesce(score.images, 0), coalesce(activation_sum, 0))
                FROM (SELECT condition_id, probe_class, count(*) AS images, sum(activation) AS total, sum(abs(activation)) AS size
                      FROM result WHERE counted = 1 AND probe_class IS NOT NULL GROUP BY condition_id, probe_class) AS recount
                     FULL JOIN score USING (condition_id, probe_class)
                WHERE recount.images IS NOT score.images OR abs(total - activation_sum) > 1e-9 * (1 + size)",
    },
    Check {
        name: "device time",
        promise: "the device time spent by condition and outcome equals the sum over the closed attempts",
        query: "SELECT format('condition %d has %d %s attempts of %.3f s in all, its ledger says %d of %.3f s',
                              condition_id, coalesce(recount.attempts, 0), outcome, coalesce(recount.seconds, 0),
                              coalesce(spent.attempts, 0), coalesce(gpu_seconds, 0))
                FROM (SELECT condition_id, outcome, count(*) AS attempts, sum(device_s) AS seconds
                      FROM attempt JOIN job ON job.id = job_id WHERE outcome <> 'running' GROUP BY condition_id, outcome) AS recount
                     FULL JOIN spent USING (condition_id, outcome)
                WHERE recount.attempts IS NOT spent.attempts OR abs(seconds - gpu_seconds) > 1e-6 * (1 + seconds)",
    },
    Check {
        name: "failures",
        promise: "the failed attempts by condition, class and message equal a recount",
        query: "SELECT format('condition %d has %d attempts that failed with %s: %s; its ledger says %d',
                              condition_id, coalesce(recount.attempts, 0), class, message, coalesce(failure.attempts, 0))
                FROM (SELECT condition_id, class, coalesce(message, '') AS message, count(*) AS attempts
                      FROM attempt JOIN job ON job.id = job_id WHERE outcome = 'failed' GROUP BY 1, 2, 3) AS recount
                     FULL JOIN failure USING (condition_id, class, message)
                WHERE recount.attempts IS NOT failure.attempts",
    },
    Check {
        name: "workers' time",
        promise: "the useful and wasted time of every worker equal the sums over its closed attempts",
        query: "SELECT format('worker %d (%s) was useful for %.3f s and wasted %.3f s, its ledger says %.3f s and %.3f s',
                              worker.id, name, useful, wasted, useful_s, wasted_s)
                FROM (SELECT worker.id, name, useful_s, wasted_s,
                             total(iif(outcome = 'done', device_s, 0)) AS useful,
                             total(iif(outcome IN ('failed', 'cancelled'), device_s, 0)) AS wasted
                      FROM worker LEFT JOIN attempt ON attempt.worker_id = worker.id GROUP BY worker.id) AS worker
                WHERE abs(useful - useful_s) > 1e-6 * (1 + useful) OR abs(wasted - wasted_s) > 1e-6 * (1 + wasted)",
    },
    Check {
        name: "time up",
        promise: "no worker was useful or wasteful for longer than it was up",
        query: "SELECT format('worker %d (%s) was up for %.1f s, and charged for %.1f s',
                              id, name, (heartbeat_at - registered_at) / 1000.0, useful_s + wasted_s)
                FROM worker WHERE useful_s + wasted_s > (heartbeat_at - registered_at) / 1000.0 + 1",
    },
];

/// What people do about a broken promise of the rows.
const ADVICE: &str =
    "this should never happen: keep a copy of the database (`coordinator backup FILE`) and report it with this text";
/// What people do about a damaged file.
const DAMAGED: &str = "the file itself is damaged: stop the coordinator, keep the file, and go on from the last backup";

impl Snapshot {
    /// Runs every check of rows; `checked` hears of each outcome as it comes.
    pub async fn check_rows(&mut self, mut checked: impl FnMut(&Outcome)) -> Result<Vec<Outcome>, ViewError> {
        let mut outcomes = Vec::with_capacity(CHECKS.len() + 2);
        for outcome in [self.integrity().await?, self.foreign_keys().await?] {
            checked(&outcome);
            outcomes.push(outcome);
        }
        for check in &CHECKS {
            let mut outcome = Outcome::new(check.name, check.promise);
            let found: Vec<String> =
                sqlx::query_scalar(check.query).fetch_all(&mut *self.tx).await.map_err(reading(check.name))?;
            found.into_iter().for_each(|finding| outcome.add(finding));
            let outcome = outcome.advise(ADVICE);
            checked(&outcome);
            outcomes.push(outcome);
        }
        Ok(outcomes)
    }

    /// SQLite's own look at the file: pages, indexes, constraints.
    async fn integrity(&mut self) -> Result<Outcome, ViewError> {
        let mut outcome = Outcome::new("integrity", "the database file is whole");
        let told: Vec<String> = sqlx::query_scalar("PRAGMA integrity_check")
            .fetch_all(&mut *self.tx)
            .await
            .map_err(reading("the database's integrity"))?;
        told.into_iter().filter(|line| line != "ok").for_each(|line| outcome.add(line));
        Ok(outcome.advise(DAMAGED))
    }

    async fn foreign_keys(&mut self) -> Result<Outcome, ViewError> {
        let mut outcome = Outcome::new("references", "every row that a row refers to is there");
        let rows = sqlx::query("PRAGMA foreign_key_check")
            .fetch_all(&mut *self.tx)
            .await
            .map_err(reading("the references between rows"))?;
        for row in rows {
            let failed = reading("the references between rows");
            let broken = || -> Result<String, sqlx::Error> {
                let (table, number): (String, Option<i64>) = (row.try_get(0)?, row.try_get(1)?);
                let parent: String = row.try_get(2)?;
                let number = number.map_or_else(String::new, |number| format!(" {number}"));
                Ok(format!("row{number} of {table} refers to a row of {parent} that is not there"))
            };
            outcome.add(broken().map_err(failed)?);
        }
        Ok(outcome.advise(ADVICE))
    }

    /// Every stored file that a row names, with its bytes: (sha256, bytes).
    pub async fn artifacts(&mut self) -> Result<Vec<(String, i64)>, ViewError> {
        sqlx::query_as("SELECT sha256, bytes FROM artifact")
            .fetch_all(&mut *self.tx)
            .await
            .map_err(reading("the stored files"))
    }
}
