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

/// A body that is counted and timed. Only the time that is spent waiting for the sender counts, not what is done with what came.
struct Guarded {
    inner: Body,
    guard: Guard,
    /// Bytes so far, and how many of them since the last full stride.
    total: u64,
    stride: u64,
    /// Time left to wait for the stride to be full.
    patience: Duration,
    timer: Pin<Box<Sleep>>,
    waiting_since: Option<Instant>,
}

impl Guarded {
    fn new(inner: Body, guard: Guard) -> Self {
        let timer = Box::pin(sleep(guard.stall));
        Self { inner, guard, total: 0, stride: 0, patience: guard.stall, timer, waiting_since: None }
    }

    /// Counts what came.
    fn take(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, BodyError> {
        let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
        self.total += bytes;
        self.stride += bytes;
        if let Some(since) = self.waiting_since.take() {
            self.patience = self.patience.saturating_sub(since.elapsed());
        }
        if self.stride >= STRIDE {
            (self.stride, self.patience) = (0, self.guard.stall);
        }
        if self.total > self.guard.limit {
            return Err(BodyError::TooLarge { limit: self.guard.limit });
        }
        Ok(frame)
    }

    /// Waits with what patience is left.
    fn wait(&mut self, context: &mut Context<'_>) -> Poll<BodyError> {
        if self.waiting_since.is_none() {
            let now = Instant::now();
            self.waiting_since = Some(now);
            self.timer.as_mut().reset(now + self.patience);
        }
        ready!(self.timer.as_mut().poll(context));
        Poll::Ready(BodyError::TooSlow { arrived: self.stride, stall: self.guard.stall })
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

    /// A body of `chunks`, each after a pause.
    fn paced(chunks: Vec<(Duration, usize)>, limit: u64) -> Guarded {
        let stream = async_stream::stream! {
            for (pause, bytes) in chunks {
                sleep(pause).await;
                yield Ok::<_, std::io::Error>(Bytes::from(vec![0; bytes]));
            }
        };
        Guarded::new(Body::from_stream(stream), Guard { limit, stall: STALL })
    }

    async fn read(mut body: Guarded) -> Result<u64, BodyError> {
        while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            frame?;
        }
        Ok(body.total)
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_moves_is_read_to_its_end_however_long_that_takes() {
        let chunks = vec![(STALL / 10, STRIDE as usize / 8); 8 * 100];
        assert_eq!(read(paced(chunks, u64::MAX)).await.ok(), Some(100 * STRIDE));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stalls_or_trickles_is_given_up() {
        let stalls = vec![(STALL / 2, 4 * STRIDE as usize), (STALL * 2, 1)];
        let trickles = vec![(STALL / 10, 1); 100];
        for (chunks, bytes) in [(stalls, 0), (trickles, 9)] {
            let error = read(paced(chunks, u64::MAX)).await.expect_err("it is too slow");
            assert!(matches!(error, BodyError::TooSlow { arrived, .. } if arrived == bytes), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn time_spent_on_what_came_is_not_held_against_the_sender() {
        let mut body = paced(vec![(Duration::ZERO, 1), (STALL / 2, 1)], u64::MAX);
        let next = async |body: &mut Guarded| poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await;
        assert!(matches!(next(&mut body).await, Some(Ok(_))));
        sleep(STALL * 10).await;
        assert!(matches!(next(&mut body).await, Some(Ok(_))));
        assert!(next(&mut body).await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_without_declared_length_is_cut_at_the_limit() {
        assert_eq!(read(paced(vec![(Duration::ZERO, 10); 10], 100)).await.ok(), Some(100));
        let error = read(paced(vec![(Duration::ZERO, 10); 11], 100)).await.expect_err("it is too large");
        assert!(matches!(error, BodyError::TooLarge { limit: 100 }), "{error}");
    }
}
