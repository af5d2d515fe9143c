//! What workers ask: register, claim, heartbeat, upload, result, fail, release.

use super::ApiState;
use super::body::BodyError;
use super::refusal::{Body, Part, Refused};
use axum::Json;
use axum::body::{Body as Stream, HttpBody};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use protocol::claim::{Claim, Claimed, Register, Registered};
use protocol::error::RefusalCode;
use protocol::heartbeat::{Heartbeat, HeartbeatReply, Release};
use protocol::ids::{Digest, JobId};
use protocol::outcome::{Closed, Completed, Failed};
use protocol::version::API_VERSION;
use serde_json::Value;
use std::pin::Pin;
use tokio_util::io::ReaderStream;

type Answer<T> = Result<Json<T>, Refused>;

/// A worker of another release introduces itself in other words: its version is looked at before the rest is read.
pub async fn register(State(api): State<ApiState>, Body(words): Body<Value>) -> Answer<Registered> {
    let word = |name: &str| words[name].as_str().unwrap_or("unknown").to_owned();
    let version = words["api_version"].as_u64();
    if let Some(version) = version.filter(|version| *version != u64::from(API_VERSION)) {
        let message = format!(
            "worker {} ({}) speaks version {version} of the API, this coordinator version {API_VERSION}; install the same release on both",
            word("name"),
            word("software"),
        );
        return Err(Refused::new(StatusCode::CONFLICT, RefusalCode::WrongVersion, message));
    }
    let worker: Register = serde_json::from_value(words).map_err(|error| {
        let message = format!("reading a worker's introduction: {error}");
        Refused::new(StatusCode::UNPROCESSABLE_ENTITY, RefusalCode::Malformed, message)
    })?;
    tracing::info!(name = worker.name, device = worker.device_name, "a worker registers");
    Ok(Json(api.queue.register(worker).await?))
}

pub async fn claim(State(api): State<ApiState>, Body(claim): Body<Claim>) -> Answer<Claimed> {
    Ok(Json(api.queue.claim(claim).await?))
}

pub async fn heartbeat(State(api): State<ApiState>, Body(beat): Body<Heartbeat>) -> Answer<HeartbeatReply> {
    Ok(Json(api.queue.heartbeat(beat).await?))
}

pub async fn result(State(api): State<ApiState>, Body(done): Body<Completed>) -> Answer<Closed> {
    Ok(Json(api.queue.complete(done).await?))
}

pub async fn fail(State(api): State<ApiState>, Body(failed): Body<Failed>) -> Answer<Closed> {
    Ok(Json(api.queue.fail(failed).await?))
}

pub async fn release(State(api): State<ApiState>, Body(release): Body<Release>) -> Answer<Vec<JobId>> {
    Ok(Json(api.queue.release(release).await?))
}

/// Stores the body under its digest: on disk first, then in the table. Sending it again is harmless.
pub async fn upload(
    State(api): State<ApiState>,
    Part(digest): Part<Digest>,
    mut body: Stream,
) -> Result<StatusCode, Refused> {
    let mut upload = api.artifacts.upload(digest.clone())?;
    while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let frame = frame.map_err(|error| match BodyError::cause_of(&error) {
            Some(error) => error.into(),
            None => Refused::new(StatusCode::BAD_REQUEST, RefusalCode::Malformed, error.to_string()),
        });
        let Ok(chunk) = frame?.into_data() else { continue };
        upload.write(&chunk).await?;
    }
    let bytes = upload.finish().await?;
    api.queue.record_artifact(digest, bytes).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// An image for people's browsers; its content never changes.
pub async fn image(State(api): State<ApiState>, Part(digest): Part<Digest>) -> Result<Response, Refused> {
    let path = api.artifacts.path(&digest);
    let file = tokio::fs::File::open(&path).await.map_err(|error| {
        let message = format!("there is no artifact {digest} in the store: {error}");
        Refused::new(StatusCode::NOT_FOUND, RefusalCode::NotFound, message)
    })?;
    let headers = [
        (header::CONTENT_TYPE, "image/png"),
        (header::CACHE_CONTROL, "private, max-age=31536000, immutable"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Ok((headers, Stream::from_stream(ReaderStream::new(file))).into_response())
}
