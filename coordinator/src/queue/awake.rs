//! Waiting awake for answers that come in microseconds.
//!
//! A transaction is a dozen short conversations with SQLite's thread. On an idle machine going to sleep between question and answer, and being
//! woken, takes longer than the answer: most of all on a virtual machine, where an idle core has to be resumed.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread::yield_now;
use std::time::{Duration, Instant};

/// How long to stay awake; an fsync that takes longer is waited for asleep.
const PATIENCE: Duration = Duration::from_micros(300);

/// A future that stays awake while its work goes on by short answers. The core is offered to others all the while.
#[derive(Debug)]
pub struct Awake<F>(Pin<Box<F>>);

impl<F: Future> Awake<F> {
    pub fn new(work: F) -> Self {
        Self(Box::pin(work))
    }
}

impl<F: Future> Future for Awake<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let start = Instant::now();
        loop {
            match self.0.as_mut().poll(context) {
                Poll::Pending if start.elapsed() < PATIENCE => yield_now(),
                polled => return polled,
            }
        }
    }
}
