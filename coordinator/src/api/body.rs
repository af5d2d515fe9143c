//! Request bodies under guard: no larger than their route takes, no slower than an honest line.

use super::refusal::Refused;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;
use http_body::{Body as HttpBody, Frame, SizeHint};
use protocol::error::RefusalCode;
use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};

/// A body must bring this many bytes, or its end, before the coordinator has waited for them as long as [`Guard::stall`].
const STRIDE: u64 = 64 << 10;

/// What a body may cost.
#[derive(Debug, Clone, Copy)]
pub struct Guard {
    /// Largest body, bytes.
    pub limit: u64,
    /// How long to wait, all pauses taken together, for the next 64 KiB.
    pub stall: Duration,
}

/// A body that was given up.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the body is larger than {limit} bytes, the most that this request may carry")]
    TooLarge { limit: u64 },
    #[error("the body stalled: {arrived} bytes came in {} s of waiting, expected {STRIDE} or its end; send it again", stall.as_secs_f64())]
    TooSlow { arrived: u64, stall: Duration },
    #[error("the body broke off before the end that its header declares; send it again")]
    Truncated(#[source] axum::Error),
}

impl BodyError {
    /// The guard's word in an error that came out of reading a body.
    pub fn cause_of<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        std::iter::successors(Some(error), |&error| error.source()).find_map(|error| error.downcast_ref())
    }
}

impl From<&BodyError> for Refused {
    fn from(error: &BodyError) -> Self {
        let (status, code) = match error {
            BodyError::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, RefusalCode::TooLarge),
            BodyError::TooSlow { .. } => (StatusCode::REQUEST_TIMEOUT, RefusalCode::TooSlow),
            BodyError::Truncated(_) => (StatusCode::BAD_REQUEST, RefusalCode::Malformed),
        };
        Self::new(status, code, error.to_string())
    }
}

/// Puts a request's body under guard. One that is declared too large is refused before a byte of it is read.
pub async fn guard(State(guard): State<Guard>, request: Request, next: Next) -> Result<Response, Refused> {
    if request.body().size_hint().lower() > guard.limit {
        return Err((&BodyError::TooLarge { limit: guard.limit }).into());
    }
    Ok(next.run(request.map(|body| Body::new(Guarded::new(body, guard)))).await)
}

/// How fast a body must come: each stride within a time that is spent waiting for the sender. What is done with the bytes
/// meanwhile does not count.
#[derive(Debug)]
struct Pace {
    stall: Duration,
    /// Bytes since the last full stride.
    arrived: u64,
    /// Time left to wait for the stride to be full.
    patience: Duration,
}

impl Pace {
    fn new(stall: Duration) -> Self {
        Self { stall, arrived: 0, patience: stall }
    }

    /// `bytes` came after the sender was waited for.
    fn moved(&mut self, bytes: u64, waited: Duration) {
        self.arrived += bytes;
        self.patience = self.patience.saturating_sub(waited);
        if self.arrived >= STRIDE {
            *self = Self::new(self.stall);
        }
    }
}

/// A body that is counted and timed.
struct Guarded {
    inner: Body,
    limit: u64,
    total: u64,
    pace: Pace,
    timer: Pin<Box<Sleep>>,
    waiting_since: Option<Instant>,
}

impl Guarded {
    fn new(inner: Body, Guard { limit, stall }: Guard) -> Self {
        Self { inner, limit, total: 0, pace: Pace::new(stall), timer: Box::pin(sleep(stall)), waiting_since: None }
    }

    /// Counts what came.
    fn take(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, BodyError> {
        let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
        self.total += bytes;
        self.pace.moved(bytes, self.waiting_since.take().map_or(Duration::ZERO, |since| since.elapsed()));
        if self.total > self.limit {
            return Err(BodyError::TooLarge { limit: self.limit });
        }
        Ok(frame)
    }

    /// Waits with what patience is left.
    fn wait(&mut self, context: &mut Context<'_>) -> Poll<BodyError> {
        if self.waiting_since.is_none() {
            let now = Instant::now();
            self.waiting_since = Some(now);
            self.timer.as_mut().reset(now + self.pace.patience);
        }
        ready!(self.timer.as_mut().poll(context));
        Poll::Ready(BodyError::TooSlow { arrived: self.pace.arrived, stall: self.pace.stall })
    }
}

impl HttpBody for Guarded {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match Pin::new(&mut self.inner).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(self.take(frame))),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(BodyError::Truncated(error)))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => self.wait(context).map(|error| Some(Err(error))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    const STALL: Duration = Duration::from_secs(30);

    /// How many of `chunks`, each after a time of waiting, come before patience ends.
    fn taken(chunks: &[(Duration, u64)]) -> usize {
        let mut pace = Pace::new(STALL);
        let in_time = chunks.iter().take_while(|(waited, bytes)| {
            let in_time = *waited < pace.patience;
            pace.moved(*bytes, *waited);
            in_time
        });
        in_time.count()
    }

    #[test]
    fn a_body_that_moves_is_read_to_its_end_however_long_that_takes() {
        assert_eq!(taken(&[(STALL / 10, STRIDE / 8); 10_000]), 10_000);
    }

    #[test]
    fn a_body_that_stalls_or_trickles_is_given_up() {
        assert_eq!(taken(&[(STALL / 2, 100 * STRIDE), (STALL, STRIDE)]), 1, "what came fast earns no credit");
        assert_eq!(taken(&[(STALL / 10, 1); 100]), 9);
    }

    #[tokio::test]
    async fn a_body_without_declared_length_is_cut_at_the_limit() {
        for (chunks, whole) in [(10, true), (11, false)] {
            let stream = async_stream::stream! {
                for _ in 0..chunks {
                    yield Ok::<_, std::io::Error>(Bytes::from_static(&[0; 10]));
                }
            };
            let mut body = Guarded::new(Body::from_stream(stream), Guard { limit: 100, stall: STALL });
            let mut end = None;
            while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
                end = frame.err();
            }
            assert_eq!(end.is_none(), whole, "{end:?}");
            assert!(matches!(end, None | Some(BodyError::TooLarge { limit: 100 })), "{end:?}");
        }
    }
}
