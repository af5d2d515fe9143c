//! The live feed: tells browsers that the job table changed, at most once a second.

use super::State;
use async_stream::stream;
use axum::extract;
use axum::response::IntoResponse;
use axum::response::sse::{Event, KeepAlive, Sse};
use std::convert::Infallible;
use std::time::Duration;

/// Changes within this time are told together.
const COALESCE: Duration = Duration::from_secs(1);

/// `GET /events`: the version at once, so that a page that slept can tell whether it is old, then every new one. Ends when
/// the coordinator stops.
pub async fn events(extract::State(state): extract::State<State>) -> impl IntoResponse {
    let mut changes = state.changes;
    let feed = stream! {
        loop {
            let version = *changes.borrow_and_update();
            yield Ok::<_, Infallible>(Event::default().event("version").data(version.to_string()));
            tokio::time::sleep(COALESCE).await;
            if changes.changed().await.is_err() {
                break;
            }
        }
    };
    Sse::new(feed).keep_alive(KeepAlive::default())
}
