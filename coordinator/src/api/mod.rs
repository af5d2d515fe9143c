//! The worker API and what the command line asks of a running coordinator, under `/api/v1`.
//!
//! Everything but images needs the bearer token. Every refusal is a `protocol::error::Refusal`.

pub mod auth;
pub mod client;
mod operator;
mod refusal;
mod worker;

use crate::artifacts::Artifacts;
use crate::queue::Queue;
use auth::Token;
use axum::Router;
use axum::extract::{DefaultBodyLimit, OriginalUri, Request};
use axum::http::{Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post, put};
use protocol::error::RefusalCode;
use refusal::Refused;
use std::time::Duration;

/// What the handlers work on.
#[derive(Debug, Clone)]
pub struct ApiState {
    pub queue: Queue,
    pub artifacts: Artifacts,
    pub token: Token,
}

/// Largest JSON body of a worker, bytes.
const MAX_MESSAGE: usize = 8 << 20;
/// Largest plan, bytes: thousands of conditions with their voxels.
const MAX_PLAN: usize = 512 << 20;
/// A worker's message takes milliseconds; a claim waits for up to a minute.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(90);
/// An upload over a slow line, a million jobs.
const LONG_TIMEOUT: Duration = Duration::from_secs(600);

/// The API's routes, with their own answer to what is not there: can be merged with the dashboard's.
pub fn router(state: ApiState) -> Router {
    let messages = Router::new()
        .route("/register", post(worker::register))
        .route("/claim", post(worker::claim))
        .route("/heartbeat", post(worker::heartbeat))
        .route("/result", post(worker::result))
        .route("/fail", post(worker::fail))
        .route("/release", post(worker::release))
        .layer(DefaultBodyLimit::max(MAX_MESSAGE))
        .layer(middleware::from_fn(|request: Request, next: Next| within(MESSAGE_TIMEOUT, request, next)));
    let long = Router::new()
        .route("/artifacts/{sha256}", put(worker::upload))
        .merge(operator::routes())
        .layer(DefaultBodyLimit::max(MAX_PLAN))
        .layer(middleware::from_fn(|request: Request, next: Next| within(LONG_TIMEOUT, request, next)));
    let api = messages
        .merge(long)
        .route_layer(middleware::from_fn_with_state(state.token.clone(), auth::require))
        .route("/artifacts/{sha256}", get(worker::image))
        .fallback(no_such_route)
        .method_not_allowed_fallback(wrong_method)
        .with_state(state);
    Router::new().nest("/api/v1", api)
}

async fn within(limit: Duration, request: Request, next: Next) -> Result<Response, Refused> {
    tokio::time::timeout(limit, next.run(request)).await.map_err(|_| {
        let message = format!("the request took longer than {} s; send it again", limit.as_secs());
        Refused::new(StatusCode::REQUEST_TIMEOUT, RefusalCode::Internal, message)
    })
}

async fn no_such_route(method: Method, OriginalUri(uri): OriginalUri) -> Refused {
    let message = format!("{method} {uri} is not part of this API; are both sides of one release?");
    Refused::new(StatusCode::NOT_FOUND, RefusalCode::NotFound, message)
}

async fn wrong_method(method: Method, OriginalUri(uri): OriginalUri) -> Refused {
    let message = format!("{uri} does not take {method}");
    Refused::new(StatusCode::METHOD_NOT_ALLOWED, RefusalCode::Malformed, message)
}
