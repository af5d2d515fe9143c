//! Attempts end: with a result, with a failure, or given back.

use super::{Ending, Result, Store, corrupt, job_from};
use crate::queue::error::QueueError;
use crate::queue::state::{Event, EventKind, Job, Refused, State, apply, sources};
use protocol::heartbeat::Release;
use protocol::ids::{ConditionId, Digest, Fence, JobId, WorkerId};
use protocol::outcome::{Closed, Completed, Disposition, Failed, FailureClass, JobResult, PhaseSeconds, SampleResult};
use sqlx::Row;

impl Store {
    /// Commits a result by compare-and-set on (job, fence, running). One with an old fence is kept and not counted.
    pub async fn complete(&mut self, done: &Completed) -> Result<Closed> {
        require_finite(done.job, &done.result)?;
        let (from, stored) = self.attempted(done.worker, done.job, done.fence, Some(done.result.image())).await?;
        let require_image = || match stored {
            true => Ok(()),
            false => Err(QueueError::MissingArtifact { job: done.job, digest: done.result.image().clone() }),
        };
        let disposition = match apply(from, Event::Complete { fence: done.fence }) {
            Ok(step) => {
                require_image()?;
                let ending = Ending::Done { seconds: done.result.seconds() };
                self.close_attempt(done.job, done.fence, ending, step.counts()).await?;
                self.write(done.job, &from, &step, None).await?;
                if self.insert_result(done, true).await? {
                    self.unblock_dependents_of(done.job).await?;
                }
                Disposition::Accepted
            }
            Err(Refused::Duplicate) => Disposition::Duplicate,
            Err(Refused::Superseded | Refused::NotAllowed) => {
                require_image()?;
                self.insert_result(done, false).await?;
                self.recharge(done.job, done.fence, done.result.seconds()).await?;
                Disposition::Superseded
            }
        };
        Ok(Closed { disposition })
    }

    /// Ends an attempt with a failure; the policy of its class decides what becomes of the job.
    pub async fn fail(&mut self, failed: &Failed) -> Result<Closed> {
        let Failed { worker, job, fence, class, message, seconds } = failed;
        let (from, _) = self.attempted(*worker, *job, *fence, None).await?;
        let seconds = finite(seconds);
        let repeated =
            self.last_counted_failure(*job).await?.is_some_and(|last| last == (class.to_string(), message.clone()));
        let event = Event::Fail { fence: *fence, class: *class, repeated, jitter: rand::random() };
        let Ok(step) = apply(from, event) else {
            if self.was_closed_as(*job, *fence, *class, message).await? {
                return Ok(Closed { disposition: Disposition::Duplicate });
            }
            self.recharge(*job, *fence, &seconds).await?;
            return Ok(Closed { disposition: Disposition::Superseded });
        };
        let ending = Ending::Failed { class: *class, message, seconds: &seconds };
        self.close_attempt(*job, *fence, ending, step.counts()).await?;
        self.write(*job, &from, &step, None).await?;
        if step.blocks_condition {
            self.block_condition_of(*job).await?;
        }
        if step.quarantines_device {
            self.quarantine_device_of(*worker, message).await?;
        }
        Ok(Closed { disposition: Disposition::Accepted })
    }

    /// Gives jobs back untouched. Those that the worker no longer holds are passed over: they are somebody else's now.
    pub async fn release(&mut self, release: &Release) -> Result<Vec<JobId>> {
        self.require_worker(release.worker).await?;
        let mut released = Vec::new();
        for &(job, fence) in &release.jobs {
            let closed = self
                .fail(&Failed {
                    worker: release.worker,
                    job,
                    fence,
                    class: FailureClass::Drained,
                    message: "given back by a worker that was asked to stop".to_owned(),
                    seconds: PhaseSeconds::default(),
                })
                .await?;
            if closed.disposition == Disposition::Accepted {
                released.push(job);
            }
        }
        Ok(released)
    }

    /// Notes that a file is stored, after it is safely on disk.
    pub async fn record_artifact(&mut self, digest: &Digest, bytes: u64) -> Result<()> {
        sqlx::query(
            "INSERT INTO artifact (sha256, bytes, created_at) VALUES (?, ?, ?) ON CONFLICT (sha256) DO NOTHING",
        )
        .bind(digest.as_str())
        .bind(bytes.cast_signed())
        .bind(self.clock.now())
        .execute(&mut self.connection)
        .await?;
        Ok(())
    }

    /// The job of an attempt that the worker was given, and whether `image` is stored.
    async fn attempted(
        &mut self,
        worker: WorkerId,
        job: JobId,
        fence: Fence,
        image: Option<&Digest>,
    ) -> Result<(Job, bool)> {
        let row = sqlx::query(
            "SELECT job.state, job.fence, job.attempts, job.max_attempts, job.losses, experiment.max_losses,
                    EXISTS (SELECT 1 FROM worker WHERE id = ?2) AS registered,
                    EXISTS (SELECT 1 FROM attempt WHERE job_id = ?1 AND fence = ?3 AND worker_id = ?2) AS claimed,
                    EXISTS (SELECT 1 FROM artifact WHERE sha256 = ?4) AS stored
             FROM job JOIN experiment ON experiment.id = job.experiment_id WHERE job.id = ?1",
        )
        .bind(job.0)
        .bind(worker.0)
        .bind(fence.0)
        .bind(image.map(Digest::as_str))
        .fetch_optional(&mut self.connection)
        .await?
        .ok_or(QueueError::NoSuchJob(job))?;
        if !row.try_get::<bool, _>("registered")? {
            return Err(QueueError::UnknownWorker(worker));
        }
        if !row.try_get::<bool, _>("claimed")? {
            return Err(QueueError::NeverClaimed { job, fence, worker });
        }
        Ok((job_from(job, &row)?, row.try_get("stored")?))
    }

    /// A worker whose attempt was closed without it tells what the attempt took: the ledger follows.
    async fn recharge(&mut self, job: JobId, fence: Fence, seconds: &PhaseSeconds) -> Result<()> {
        sqlx::query(
            "UPDATE attempt SET device_s = max(device_s, ?3 / (SELECT slots FROM worker WHERE id = worker_id))
             WHERE job_id = ?1 AND fence = ?2 AND outcome <> 'running';
             UPDATE worker SET heartbeat_at = max(heartbeat_at, ?4)
             WHERE id = (SELECT worker_id FROM attempt WHERE job_id = ?1 AND fence = ?2)",
        )
        .bind(job.0)
        .bind(fence.0)
        .bind(seconds.computing())
        .bind(self.clock.now())
        .execute(&mut self.connection)
        .await?;
        Ok(())
    }

    /// Whether other conditions need the job's.
    async fn insert_result(&mut self, done: &Completed, counted: bool) -> Result<bool> {
        let body = serde_json::to_string(&done.result).map_err(|error| corrupt("a result", error))?;
        let scores = done.result.scores();
        let needed: Option<bool> = sqlx::query_scalar(
            "INSERT INTO result (job_id, condition_id, fence, counted, worker_id, image_sha256, activation, effective_gamma,
                                 probe_class, body, created_at)
             SELECT id, condition_id, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10 FROM job WHERE id = ?1
             ON CONFLICT (job_id, fence) DO NOTHING
             RETURNING EXISTS (SELECT 1 FROM need WHERE needs_condition_id = result.condition_id)",
        )
        .bind(done.job.0)
        .bind(done.fence.0)
        .bind(counted)
        .bind(done.worker.0)
        .bind(done.result.image().as_str())
        .bind(scores.map(|scores| scores.activation))
        .bind(scores.map(|scores| scores.effective_gamma))
        .bind(scores.map(|scores| &scores.probe.class))
        .bind(body)
        .bind(self.clock.now())
        .fetch_optional(&mut self.connection)
        .await?;
        Ok(needed.unwrap_or(true))
    }

    /// Class and message of the last one since the job was retried by hand.
    async fn last_counted_failure(&mut self, job: JobId) -> Result<Option<(String, String)>> {
        let row = sqlx::query(
            "SELECT class, coalesce(message, '') AS message FROM attempt
             WHERE job_id = ?1 AND outcome = 'failed' AND counted = 1 AND fence > (SELECT retried_at FROM job WHERE id = ?1)
             ORDER BY fence DESC LIMIT 1",
        )
        .bind(job.0)
        .fetch_optional(&mut self.connection)
        .await?;
        row.map(|row| Ok((row.try_get("class")?, row.try_get("message")?))).transpose()
    }

    async fn was_closed_as(&mut self, job: JobId, fence: Fence, class: FailureClass, message: &str) -> Result<bool> {
        let row = sqlx::query("SELECT 1 FROM attempt WHERE job_id = ? AND fence = ? AND class = ? AND message = ?")
            .bind(job.0)
            .bind(fence.0)
            .bind(class.as_str())
            .bind(message)
            .fetch_optional(&mut self.connection)
            .await?;
        Ok(row.is_some())
    }

    /// One missing file must not burn every seed of a condition.
    async fn block_condition_of(&mut self, job: JobId) -> Result<()> {
        let condition: i64 = sqlx::query_scalar("SELECT condition_id FROM job WHERE id = ?")
            .bind(job.0)
            .fetch_one(&mut self.connection)
            .await?;
        self.open_breaker(ConditionId(condition)).await
    }

    /// Jobs of the condition that wait are blocked, and so are those that are added, until somebody retries one.
    pub(super) async fn open_breaker(&mut self, condition: ConditionId) -> Result<()> {
        sqlx::query("UPDATE condition SET breaker = 'open' WHERE id = ?")
            .bind(condition.0)
            .execute(&mut self.connection)
            .await?;
        for from in sources(EventKind::Block) {
            sqlx::query(
                "UPDATE job SET state = ?1, not_before = 0, updated_at = ?2 WHERE condition_id = ?3 AND state = ?4",
            )
            .bind(State::Blocked.as_str())
            .bind(self.clock.now())
            .bind(condition.0)
            .bind(from.as_str())
            .execute(&mut self.connection)
            .await?;
        }
        Ok(())
    }

    async fn quarantine_device_of(&mut self, worker: WorkerId, reason: &str) -> Result<()> {
        let device: Option<String> = sqlx::query_scalar(
            "INSERT INTO quarantine (device_key, reason, worker_id, since) SELECT device_key, ?2, id, ?3 FROM worker WHERE id = ?1
             ON CONFLICT (device_key) DO NOTHING RETURNING device_key",
        )
        .bind(worker.0)
        .bind(reason)
        .bind(self.clock.now())
        .fetch_optional(&mut self.connection)
        .await?;
        if let Some(device) = device {
            tracing::warn!(device, reason, "a device is quarantined: it gets no more jobs until it is released");
        }
        Ok(())
    }
}

/// Infinity and NaN would spoil every mean that they get into.
fn require_finite(job: JobId, result: &JobResult) -> Result<()> {
    let finite = |values: &[f64]| values.iter().all(|value| value.is_finite());
    let PhaseSeconds { waiting, loading, sampling, scoring, uploading } = *result.seconds();
    let mut fields = vec![("phase in seconds", finite(&[waiting, loading, sampling, scoring, uploading]))];
    if let Some(result) = result.scores() {
        fields.extend(finite_scores(result, finite));
    }
    if let Some(folder) = result.folder() {
        fields.push(("summary", folder.summary.values().all(|value| value.is_finite())));
    }
    match fields.into_iter().find(|(_, finite)| !finite) {
        Some((field, _)) => Err(QueueError::NonFinite { job, field }),
        None => Ok(()),
    }
}

fn finite_scores(result: &SampleResult, finite: impl Fn(&[f64]) -> bool) -> [(&'static str, bool); 4] {
    [
        ("activation", finite(&[result.activation])),
        ("effective_gamma", finite(&[result.effective_gamma])),
        ("roi_activation", result.roi_activation.values().all(|value| value.is_finite())),
        ("probe similarity", finite(&result.probe.class_similarity) && finite(&result.probe.similarity)),
    ]
}

/// A failure is never refused for its timing.
fn finite(seconds: &PhaseSeconds) -> PhaseSeconds {
    let keep = |value: f64| if value.is_finite() { value } else { 0.0 };
    PhaseSeconds {
        waiting: keep(seconds.waiting),
        loading: keep(seconds.loading),
        sampling: keep(seconds.sampling),
        scoring: keep(seconds.scoring),
        uploading: keep(seconds.uploading),
    }
}
