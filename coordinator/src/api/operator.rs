//! What people's commands ask while the coordinator runs.

use super::ApiState;
use super::refusal::{Body, Refused};
use crate::artifacts::gc;
use crate::plan::Plan;
use crate::queue::request::{Adjust, Cancel, Changed, Collect, Collected, Preview, Retry, Served, Submitted};
use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};

type Answer<T> = Result<Json<T>, Refused>;

/// Their routes.
pub fn routes() -> Router<ApiState> {
    Router::new()
        .route("/submit", post(submit))
        .route("/preview", post(preview))
        .route("/cancel", post(cancel))
        .route("/cancel/rehearsal", post(rehearse_cancel))
        .route("/retry", post(retry))
        .route("/retry/rehearsal", post(rehearse_retry))
        .route("/adjust", post(adjust))
        .route("/release-device", post(release_device))
        .route("/collect", post(collect))
}

async fn submit(State(api): State<ApiState>, Body(plan): Body<Plan>) -> Answer<Submitted> {
    Ok(Json(api.queue.submit(plan).await?))
}

async fn preview(State(api): State<ApiState>, Body(plan): Body<Plan>) -> Answer<Preview> {
    Ok(Json(api.queue.preview(plan).await?))
}

async fn cancel(State(api): State<ApiState>, Body(cancel): Body<Cancel>) -> Answer<Changed> {
    Ok(Json(api.queue.cancel(cancel).await?))
}

async fn retry(State(api): State<ApiState>, Body(retry): Body<Retry>) -> Answer<Changed> {
    Ok(Json(api.queue.retry(retry).await?))
}

async fn rehearse_cancel(State(api): State<ApiState>, Body(cancel): Body<Cancel>) -> Answer<Changed> {
    Ok(Json(api.queue.rehearse_cancel(cancel).await?))
}

async fn rehearse_retry(State(api): State<ApiState>, Body(retry): Body<Retry>) -> Answer<Changed> {
    Ok(Json(api.queue.rehearse_retry(retry).await?))
}

async fn adjust(State(api): State<ApiState>, Body(adjust): Body<Adjust>) -> Answer<Served> {
    Ok(Json(api.queue.adjust(adjust).await?))
}

async fn release_device(State(api): State<ApiState>, Body(key): Body<String>) -> Answer<String> {
    Ok(Json(api.queue.release_device(key).await?))
}

async fn collect(State(api): State<ApiState>, Body(request): Body<Collect>) -> Answer<Collected> {
    Ok(Json(gc::collect(&api.queue, &api.artifacts, &request).await?))
}
