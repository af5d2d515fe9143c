//! What people's commands ask while the coordinator runs: submit, preview, cancel, retry.

use super::ApiState;
use super::refusal::{Body, Refused};
use crate::plan::Plan;
use crate::queue::request::{Cancel, Changed, Preview, Retry, Submitted};
use axum::Json;
use axum::extract::State;

type Answer<T> = Result<Json<T>, Refused>;

pub async fn submit(State(api): State<ApiState>, Body(plan): Body<Plan>) -> Answer<Submitted> {
    Ok(Json(api.queue.submit(plan).await?))
}

pub async fn preview(State(api): State<ApiState>, Body(plan): Body<Plan>) -> Answer<Preview> {
    Ok(Json(api.queue.preview(plan).await?))
}

pub async fn cancel(State(api): State<ApiState>, Body(cancel): Body<Cancel>) -> Answer<Changed> {
    Ok(Json(api.queue.cancel(cancel).await?))
}

pub async fn retry(State(api): State<ApiState>, Body(retry): Body<Retry>) -> Answer<Changed> {
    Ok(Json(api.queue.retry(retry).await?))
}
