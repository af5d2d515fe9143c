//! The worker API and what the command line asks of a running coordinator, under `/api/v1`.
//!
//! Everything needs the worker's token, but for images, which open to the viewer's too. Every refusal is a
//! `protocol::error::Refusal`.

pub mod auth;
mod body;
pub mod client;
pub mod listener;
mod operator;
pub mod refusal;
pub mod secret;
mod worker;

use crate::artifacts::Artifacts;
use crate::queue::Queue;
use auth::Tokens;
use axum::Router;
use axum::extract::{DefaultBodyLimit, OriginalUri};
use axum::http::{Method, StatusCode};
use axum::middleware;
use axum::routing::{get, post, put};
use body::Guard;
use protocol::error::RefusalCode;
use refusal::Refused;
use std::time::Duration;

/// What the handlers work on.
#[derive(Debug, Clone)]
pub struct ApiState {
    pub queue: Queue,
    pub artifacts: Artifacts,
    pub tokens: Tokens,
    /// How long to wait for the next 64 KiB of a body.
    pub stall: Duration,
}

/// Largest JSON body of a worker, bytes.
const MAX_MESSAGE: u64 = 8 << 20;
/// Largest artifact, bytes.
const MAX_ARTIFACT: u64 = 256 << 20;
/// Largest plan, bytes: thousands of conditions with their voxels.
const MAX_PLAN: u64 = 512 << 20;

/// The API's routes, with their own answer to what is not there: can be merged with the dashboard's.
pub fn router(state: ApiState) -> Router {
    let up_to = |limit| middleware::from_fn_with_state(Guard { limit, stall: state.stall }, body::guard);
    let messages = Router::new()
        .route("/register", post(worker::register))
        .route("/claim", post(worker::claim))
        .route("/heartbeat", post(worker::heartbeat))
        .route("/result", post(worker::result))
        .route("/fail", post(worker::fail))
        .route("/release", post(worker::release))
        .layer(up_to(MAX_MESSAGE));
    let uploads = Router::new().route("/artifacts/{sha256}", put(worker::upload)).layer(up_to(MAX_ARTIFACT));
    let plans = operator::routes().layer(up_to(MAX_PLAN));
    let images = Router::new()
        .route("/artifacts/{sha256}", get(worker::image))
        .route_layer(middleware::from_fn_with_state(state.tokens.clone(), auth::viewer));
    let api = messages
        .merge(uploads)
        .merge(plans)
        .route_layer(middleware::from_fn_with_state(state.tokens.clone(), auth::worker))
        .merge(images)
        .layer(DefaultBodyLimit::disable())
        .fallback(no_such_route)
        .method_not_allowed_fallback(wrong_method)
        .with_state(state);
    Router::new().nest("/api/v1", api)
}

async fn no_such_route(method: Method, OriginalUri(uri): OriginalUri) -> Refused {
    let message = format!("{method} {uri} is not part of this API; are both sides of one release?");
    Refused::new(StatusCode::NOT_FOUND, RefusalCode::NotFound, message)
}

async fn wrong_method(method: Method, OriginalUri(uri): OriginalUri) -> Refused {
    let message = format!("{uri} does not take {method}");
    Refused::new(StatusCode::METHOD_NOT_ALLOWED, RefusalCode::Malformed, message)
}
