//! What people ask: cancel, retry, pause, release, collect.

use super::need::{met, met_by_seed};
use super::{Result, Store, fragments, json_list};
use crate::queue::error::QueueError;
use crate::queue::filter::{self, Filter};
use crate::queue::request::{Adjust, Cancel, Changed, Retry, Served};
use crate::queue::share;
use crate::queue::state::{EventKind, State, sources};
use protocol::ids::{Digest, ExperimentId, JobId};
use sqlx::QueryBuilder;
use std::collections::HashSet;

/// Which jobs a statement moves: a condition on the table `job` over the JSON list `?1`.
#[derive(Debug)]
struct Selection {
    clause: &'static str,
    list: String,
}

impl Selection {
    fn jobs<'a>(ids: impl IntoIterator<Item = &'a JobId>) -> Result<Self> {
        Ok(Self { clause: "job.id IN (SELECT value FROM json_each(?1))", list: json_list(ids)? })
    }

    fn conditions(ids: Vec<i64>) -> Result<Self> {
        Ok(Self { clause: "job.condition_id IN (SELECT value FROM json_each(?1))", list: json_list(ids)? })
    }
}

impl Store {
    pub async fn cancel(&mut self, cancel: &Cancel) -> Result<Changed> {
        let (selection, unchanged) = match cancel {
            Cancel::Jobs(ids) => (Selection::jobs(ids)?, self.outside(ids, EventKind::Cancel).await?),
            Cancel::Where(filter) => {
                let fitting = self.fitting(filter, sources(EventKind::Cancel)).await?;
                (Selection::jobs(&fitting)?, Vec::new())
            }
        };
        self.close_running_as_cancelled(&selection).await?;
        let states = json_list(sources(EventKind::Cancel))?;
        let moved = sqlx::query(fragments(format!(
            "UPDATE job SET state = ?2, worker_id = NULL, lease_until = NULL, not_before = 0, step = 0, steps = 0, computing_ms = 0, updated_at = ?3
             WHERE {} AND state IN (SELECT value FROM json_each(?4))",
            selection.clause
        )))
        .bind(&selection.list)
        .bind(State::Cancelled.as_str())
        .bind(self.clock.now())
        .bind(states)
        .execute(&mut self.connection)
        .await?;
        Ok(Changed { jobs: moved.rows_affected(), unchanged })
    }

    /// Gives jobs their attempts anew. Choosing a job also unblocks the others of its condition; jobs whose needs are not met stay
    /// blocked.
    pub async fn retry(&mut self, retry: &Retry) -> Result<Changed> {
        let (ids, unchanged) = match retry {
            Retry::Jobs(ids) => (ids.clone(), self.outside(ids, EventKind::Retry).await?),
            Retry::Where(filter) => {
                // What a person cancelled stays so unless it is asked for.
                let wanted = |state: &State| *state != State::Cancelled || filter.names_state();
                (self.fitting(filter, sources(EventKind::Retry).filter(wanted)).await?, Vec::new())
            }
        };
        let conditions = self.conditions_to_unblock(&ids, &unchanged).await?;
        self.close_breakers(&conditions).await?;
        let chosen = self.move_to_ready(&Selection::jobs(&ids)?, sources(EventKind::Retry)).await?;
        let blocked = sources(EventKind::Retry).filter(|state| *state == State::Blocked);
        let unblocked = self.move_to_ready(&Selection::conditions(conditions)?, blocked).await?;
        Ok(Changed { jobs: chosen + unblocked, unchanged })
    }

    /// What [`Store::cancel`] would change; changes nothing.
    pub async fn rehearse_cancel(&mut self, cancel: &Cancel) -> Result<Changed> {
        self.execute("SAVEPOINT rehearsal").await?;
        let changed = self.cancel(cancel).await;
        self.end_rehearsal().await?;
        changed
    }

    /// What [`Store::retry`] would change; changes nothing.
    pub async fn rehearse_retry(&mut self, retry: &Retry) -> Result<Changed> {
        self.execute("SAVEPOINT rehearsal").await?;
        let changed = self.retry(retry).await;
        self.end_rehearsal().await?;
        changed
    }

    async fn end_rehearsal(&mut self) -> Result<()> {
        self.execute("ROLLBACK TO rehearsal").await?;
        self.execute("RELEASE rehearsal").await
    }

    /// The jobs in one of `states` that fit. An experiment that the filter asks for must exist.
    async fn fitting(&mut self, filter: &Filter, states: impl Iterator<Item = State>) -> Result<Vec<JobId>> {
        for name in filter.experiments() {
            self.require_experiment(name).await?;
        }
        let mut statement = QueryBuilder::new("SELECT job.id ");
        statement.push(filter::FROM).push("WHERE counter.state IN (SELECT value FROM json_each(");
        statement.push_bind(json_list(states)?).push("))");
        filter.push(&mut statement);
        let ids: Vec<i64> = statement.build_query_scalar().fetch_all(&mut self.connection).await?;
        Ok(ids.into_iter().map(JobId).collect())
    }

    /// Changes how an experiment is served. One that was paused, or comes to another priority, starts where the others there stand.
    pub async fn adjust(&mut self, adjust: &Adjust) -> Result<Served> {
        if let Some(share) = adjust.share.filter(|share| !(share.is_finite() && *share > 0.0)) {
            return Err(QueueError::NoShare(share));
        }
        let id = self.require_experiment(&adjust.experiment).await?;
        let (paused, priority): (bool, i32) = sqlx::query_as("SELECT paused, priority FROM experiment WHERE id = ?")
            .bind(id.0)
            .fetch_one(&mut self.connection)
            .await?;
        let stays_paused = adjust.paused.unwrap_or(paused);
        let moves = adjust.priority.is_some_and(|new| new != priority);
        // It is paused on its way, so that it wakes up where it arrives.
        sqlx::query(
            "UPDATE experiment SET paused = ?2, priority = coalesce(?3, priority), share = coalesce(?4, share) WHERE id = ?1",
        )
        .bind(id.0)
        .bind(stays_paused || paused || moves)
        .bind(adjust.priority)
        .bind(adjust.share)
        .execute(&mut self.connection)
        .await?;
        if !stays_paused && (paused || moves) {
            self.wake(id).await?;
        }
        let (paused, priority, share) =
            sqlx::query_as("UPDATE experiment SET paused = ?2 WHERE id = ?1 RETURNING paused, priority, share")
                .bind(id.0)
                .bind(stays_paused)
                .fetch_one(&mut self.connection)
                .await?;
        self.readied |= !stays_paused;
        Ok(Served { experiment: adjust.experiment.clone(), paused, priority, share })
    }

    /// Lets a quarantined device have jobs again; gives the reason of its quarantine.
    pub async fn release_device(&mut self, key: &str) -> Result<String> {
        let reason = sqlx::query_scalar("DELETE FROM quarantine WHERE device_key = ? RETURNING reason")
            .bind(key)
            .fetch_optional(&mut self.connection)
            .await?;
        self.readied |= reason.is_some();
        match reason {
            Some(reason) => Ok(reason),
            None => {
                let known = sqlx::query_scalar("SELECT device_key FROM quarantine ORDER BY device_key");
                let known = known.fetch_all(&mut self.connection).await?;
                Err(QueueError::NotQuarantined { key: key.to_owned(), known })
            }
        }
    }

    /// The files that no result names; their rows go, except in a dry run.
    pub async fn forget_artifacts(&mut self, digests: &[Digest], dry_run: bool) -> Result<Vec<Digest>> {
        let mut unnamed = Vec::new();
        for digest in digests {
            let named = sqlx::query("SELECT 1 FROM result WHERE image_sha256 = ? LIMIT 1").bind(digest.as_str());
            if named.fetch_optional(&mut self.connection).await?.is_some() {
                continue;
            }
            if !dry_run {
                let row = sqlx::query("DELETE FROM artifact WHERE sha256 = ?").bind(digest.as_str());
                row.execute(&mut self.connection).await?;
            }
            unnamed.push(digest.clone());
        }
        Ok(unnamed)
    }

    /// Those of the files that no row names.
    pub async fn without_row(&mut self, digests: Vec<Digest>) -> Result<Vec<Digest>> {
        let mut without = Vec::new();
        for digest in digests {
            let row = sqlx::query("SELECT 1 FROM artifact WHERE sha256 = ?").bind(digest.as_str());
            if row.fetch_optional(&mut self.connection).await?.is_none() {
                without.push(digest);
            }
        }
        Ok(without)
    }

    async fn close_breakers(&mut self, conditions: &[i64]) -> Result<()> {
        sqlx::query(
            "UPDATE condition SET breaker = 'closed' WHERE breaker = 'open' AND id IN (SELECT value FROM json_each(?))",
        )
        .bind(json_list(conditions)?)
        .execute(&mut self.connection)
        .await?;
        Ok(())
    }

    async fn move_to_ready(&mut self, selection: &Selection, from: impl Iterator<Item = State>) -> Result<u64> {
        let from = json_list(from)?;
        let asleep: Vec<i64> = sqlx::query_scalar(fragments(format!(
            "SELECT DISTINCT experiment_id FROM job WHERE {} AND state IN (SELECT value FROM json_each(?2))",
            selection.clause
        )))
        .bind(&selection.list)
        .bind(&from)
        .fetch_all(&mut self.connection)
        .await?;
        for experiment in asleep {
            self.wake(ExperimentId(experiment)).await?;
        }
        let moved = sqlx::query(fragments(format!(
            "UPDATE job SET state = ?2, not_before = 0, updated_at = ?3, losses = 0, retried_at = fence, max_attempts = attempts + (
                 SELECT experiment.max_attempts FROM experiment WHERE experiment.id = job.experiment_id)
             WHERE {} AND state IN (SELECT value FROM json_each(?4)) AND (state <> 'blocked' OR ({} AND {}))",
            selection.clause,
            met!("job.condition_id"),
            met_by_seed!("job.condition_id", "job.seed")
        )))
        .bind(&selection.list)
        .bind(State::Ready.as_str())
        .bind(self.clock.now())
        .bind(from)
        .execute(&mut self.connection)
        .await?
        .rows_affected();
        self.readied |= moved > 0;
        Ok(moved)
    }

    /// Before an experiment gets ready jobs: if it had none, it goes on where the others of its priority stand.
    pub(super) async fn wake(&mut self, experiment: ExperimentId) -> Result<()> {
        let (virtual_time, others, asleep): (f64, Option<f64>, bool) = sqlx::query_as(
            "SELECT mine.virtual_time,
                    (SELECT min(other.virtual_time) FROM experiment AS other
                     WHERE other.id <> mine.id AND other.priority = mine.priority AND other.paused = 0
                       AND EXISTS (SELECT 1 FROM job WHERE job.experiment_id = other.id AND job.state = 'ready')),
                    mine.paused OR NOT EXISTS (SELECT 1 FROM job WHERE job.experiment_id = mine.id AND job.state = 'ready')
             FROM experiment AS mine WHERE mine.id = ?",
        )
        .bind(experiment.0)
        .fetch_one(&mut self.connection)
        .await?;
        if asleep {
            sqlx::query("UPDATE experiment SET virtual_time = ? WHERE id = ?")
                .bind(share::wake(virtual_time, others))
                .bind(experiment.0)
                .execute(&mut self.connection)
                .await?;
        }
        Ok(())
    }

    /// What the last heartbeats told is what the attempts took.
    async fn close_running_as_cancelled(&mut self, selection: &Selection) -> Result<()> {
        sqlx::query(fragments(format!(
            "UPDATE attempt SET outcome = 'cancelled', ended_at = max(started_at, ?2), counted = 0,
                    device_s = (SELECT computing_ms / 1000.0 FROM job WHERE id = job_id) / (SELECT slots FROM worker WHERE id = worker_id)
             WHERE (job_id, fence) IN (SELECT job.id, job.fence FROM job WHERE {} AND state = 'running')",
            selection.clause
        )))
        .bind(&selection.list)
        .bind(self.clock.now())
        .execute(&mut self.connection)
        .await?;
        sqlx::query(fragments(format!(
            "UPDATE experiment SET virtual_time = virtual_time + surprise / share
             FROM (SELECT job.experiment_id, sum(attempt.device_s - attempt.expected_s) AS surprise
                   FROM job JOIN attempt ON attempt.job_id = job.id AND attempt.fence = job.fence
                   WHERE {} AND job.state = 'running' GROUP BY job.experiment_id) AS cancelled
             WHERE experiment.id = cancelled.experiment_id",
            selection.clause
        )))
        .bind(&selection.list)
        .execute(&mut self.connection)
        .await?;
        Ok(())
    }

    /// The named jobs whose state `event` cannot leave. A job that does not exist refuses the whole request.
    async fn outside(&mut self, ids: &[JobId], event: EventKind) -> Result<Vec<(JobId, State)>> {
        let mut outside = Vec::new();
        for &id in ids {
            let state = self.job(id).await?.state;
            if !sources(event).any(|from| from == state) {
                outside.push((id, state));
            }
        }
        Ok(outside)
    }

    async fn conditions_to_unblock(&mut self, ids: &[JobId], unchanged: &[(JobId, State)]) -> Result<Vec<i64>> {
        let unchanged: HashSet<JobId> = unchanged.iter().map(|(left, _)| *left).collect();
        let moved = ids.iter().filter(|id| !unchanged.contains(id));
        Ok(sqlx::query_scalar("SELECT DISTINCT condition_id FROM job WHERE id IN (SELECT value FROM json_each(?))")
            .bind(json_list(moved)?)
            .fetch_all(&mut self.connection)
            .await?)
    }

    pub(super) async fn require_experiment(&mut self, name: &str) -> Result<ExperimentId> {
        if let Some(id) = self.experiment_id(name).await? {
            return Ok(id);
        }
        let names: Vec<String> =
            sqlx::query_scalar("SELECT name FROM experiment").fetch_all(&mut self.connection).await?;
        let nearest = names
            .into_iter()
            .map(|known| (strsim::jaro_winkler(name, &known), known))
            .filter(|(similarity, _)| *similarity > 0.8)
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, known)| known);
        Err(QueueError::NoSuchExperiment { name: name.to_owned(), nearest })
    }
}
