//! The pages that people look at: server-rendered, self-contained, live.
//!
//! A page asks one snapshot of the job table and is rendered whole. When the table changes, [`live`] tells the browser, which
//! fetches the same page again and changes what differs.

mod asset;
mod bar;
mod condition;
mod experiment;
mod failures;
mod gallery;
mod grid;
mod home;
mod interval;
mod job;
mod layout;
mod live;
mod workers;

use crate::api::auth::{self, Tokens};
use crate::api::refusal::Refused;
use crate::queue::view::{Snapshot, ViewError};
use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use layout::Frame;
use maud::{Markup, html};
use sqlx::SqlitePool;
use tokio::sync::watch;

/// What the pages need.
#[derive(Debug, Clone)]
pub struct State {
    /// Read-only pool on the job table.
    pub reader: SqlitePool,
    /// Grows with every commit; pages are fetched again when it does. Dropping its sender ends the live connections.
    pub changes: watch::Receiver<u64>,
}

/// All pages, their assets and their live feed, open to everybody. Images come from `/api/v1/artifacts/{sha256}`, which the
/// API serves.
pub fn router(state: State) -> Router {
    pages(state).merge(assets())
}

/// As [`router`], but pages and feed need a token.
pub fn private(state: State, tokens: Tokens) -> Router {
    let guard = async |axum::extract::State(tokens): axum::extract::State<Tokens>, request: Request, next: Next| {
        auth::viewer(axum::extract::State(tokens), request, next).await.map_err(PageError::Refused)
    };
    pages(state).route_layer(middleware::from_fn_with_state(tokens, guard)).merge(assets())
}

fn pages(state: State) -> Router {
    Router::new()
        .route("/", get(home::page))
        .route("/experiments/{name}", get(experiment::page))
        .route("/conditions/{id}", get(condition::page))
        .route("/jobs/{id}", get(job::page))
        .route("/workers", get(workers::page))
        .route("/failures", get(failures::page))
        .route("/events", get(live::events))
        .with_state(state)
}

fn assets() -> Router {
    Router::new().route("/assets/{name}", get(asset::serve))
}

/// Why a page could not be shown.
#[derive(Debug, thiserror::Error)]
enum PageError {
    #[error(transparent)]
    View(#[from] ViewError),
    #[error("There is no {what} `{name}` in this job table.")]
    NotFound { what: &'static str, name: String },
    #[error("{}", .0.refusal.message)]
    Refused(Refused),
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::View(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NotFound { .. } => StatusCode::NOT_FOUND,
            Self::Refused(refused) => refused.status,
        };
        if let Self::View(error) = &self {
            tracing::error!(error = error as &dyn std::error::Error, "a page could not be read");
        }
        let body = html! {
            section.panel {
                h1 { (status.canonical_reason().unwrap_or("Error")) }
                p { (self) }
                p { a href="/" { "All experiments" } }
            }
        };
        (status, Frame::bare().render("Error", &body)).into_response()
    }
}

/// A rendered page with the headers that keep it to itself.
struct Page(Markup);

impl IntoResponse for Page {
    fn into_response(self) -> Response {
        const POLICY: &str = "default-src 'none'; img-src 'self' data:; style-src 'self'; style-src-attr 'unsafe-inline'; \
                              script-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
                              frame-ancestors 'none'";
        let headers = [
            (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
            (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        ];
        (headers, self.0).into_response()
    }
}

/// A snapshot, and the frame around the page that is made from it. The version is read first, so that a change in between
/// is told again rather than missed.
async fn open(state: &State) -> Result<(Snapshot, Frame), ViewError> {
    let version = *state.changes.borrow();
    let mut snapshot = Snapshot::take(&state.reader).await?;
    let frame = Frame { version, now: snapshot.now(), failed: snapshot.failed_jobs().await? };
    Ok((snapshot, frame))
}
