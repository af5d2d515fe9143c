//! Delivering what a job gave: the image first, then the result that names it, for as long as it takes.

use super::backoff::Backoff;
use crate::chain::chain;
use crate::client::{Client, ClientError};
use crate::control::Control;
use crate::tasks::{Product, TaskError};
use protocol::claim::ClaimedJob;
use protocol::ids::WorkerId;
use protocol::outcome::{Closed, Completed, Disposition, Failed, FailureClass, PhaseSeconds};
use std::time::Instant;

/// Ends an attempt. Returns when the coordinator has closed it, or when there is nobody left to tell.
pub async fn deliver(
    client: &Client,
    worker: WorkerId,
    job: &ClaimedJob,
    outcome: Result<Product, TaskError>,
    control: &Control,
) {
    let ending = async {
        match outcome {
            Ok(product) => complete(client, worker, job, product).await,
            Err(TaskError::Stopped) => tracing::info!(job = %job.job, "dropped"),
            Err(TaskError::Failed { class, message, seconds }) => {
                fail(client, worker, job, class, message, seconds).await;
            }
        }
    };
    tokio::select! {
        () = ending => {}
        // Cancelled, or lost to another worker: nobody waits for this any more.
        () = control.until_stopped() => tracing::info!(job = %job.job, "no longer ours; not delivered"),
    }
}

async fn complete(client: &Client, worker: WorkerId, job: &ClaimedJob, product: Product) {
    let started = Instant::now();
    let Product { png, result } = product;
    let digest = result.image().clone();
    let seconds = *result.seconds();
    // Together, so that an image that went missing between the two is sent again.
    let deliver = || async {
        client.upload(&digest, png.clone()).await?;
        let mut result = result.clone();
        result.seconds_mut().uploading = started.elapsed().as_secs_f64();
        client.result(&Completed { worker, job: job.job, fence: job.fence, result }).await
    };
    match insist(deliver).await {
        Ok(closed) => log(job, closed),
        Err(error) => {
            let message = format!("the coordinator took no result: {}", chain(&error));
            fail(client, worker, job, FailureClass::Bug, message, seconds).await;
        }
    }
}

async fn fail(
    client: &Client,
    worker: WorkerId,
    job: &ClaimedJob,
    class: FailureClass,
    message: String,
    seconds: PhaseSeconds,
) {
    tracing::warn!(job = %job.job, %class, "failed: {message}");
    let body = Failed { worker, job: job.job, fence: job.fence, class, message, seconds };
    match insist(|| client.fail(&body)).await {
        Ok(closed) => log(job, closed),
        Err(error) => tracing::error!(job = %job.job, "cannot report the failure: {}", chain(&error)),
    }
}

/// Repeats a call until the coordinator has taken the message, or says that it never will.
async fn insist<T, F: Future<Output = Result<T, ClientError>>>(call: impl Fn() -> F) -> Result<T, ClientError> {
    let mut backoff = Backoff::default();
    loop {
        match call().await {
            Err(error) if !error.is_final() => {
                backoff.report(&error, "keeping the result and trying again");
                backoff.pause().await;
            }
            answer => return answer,
        }
    }
}

fn log(job: &ClaimedJob, closed: Closed) {
    match closed.disposition {
        Disposition::Accepted => tracing::info!(job = %job.job, "done"),
        Disposition::Duplicate => tracing::info!(job = %job.job, "had been delivered before"),
        Disposition::Superseded => tracing::warn!(job = %job.job, "came too late: another attempt counts"),
    }
}
