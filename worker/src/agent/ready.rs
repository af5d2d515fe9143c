//! Where claimed batches wait for a slot, and slots for a batch. Whoever claims sees here what is wanted.

use crate::tasks::Work;
use std::collections::VecDeque;
use tokio::sync::watch;

/// Jobs that are computed together.
pub type Batch = Vec<Work>;

/// The queue between the claims and the slots.
#[derive(Debug)]
pub struct Ready(watch::Sender<State>);

#[derive(Debug)]
struct State {
    slots: usize,
    busy: usize,
    batches: VecDeque<Batch>,
    closed: bool,
}

impl State {
    /// Batches to claim: one for each idle slot that finds none here; ahead, one more if no slot is idle.
    fn wanted(&self, ahead: bool) -> usize {
        let idle = self.slots - self.busy;
        match ahead {
            false => idle.saturating_sub(self.batches.len()),
            true => usize::from(idle == 0 && self.batches.is_empty()),
        }
    }
}

impl Ready {
    /// For that many slots, all idle.
    pub fn new(slots: usize) -> Self {
        Self(watch::Sender::new(State { slots, busy: 0, batches: VecDeque::new(), closed: false }))
    }

    /// Waits for a batch, and makes a slot busy with it; `None` once closed.
    pub async fn next(&self) -> Option<Batch> {
        let mut watched = self.0.subscribe();
        loop {
            let mut taken = None;
            let mut closed = false;
            self.0.send_if_modified(|state| {
                closed = state.closed;
                taken = state.batches.pop_front();
                state.busy += usize::from(taken.is_some());
                taken.is_some()
            });
            if taken.is_some() || closed {
                return taken;
            }
            // The sender is `self`.
            let _ = watched.changed().await;
        }
    }

    /// A slot is done with its batch.
    pub fn free(&self) {
        self.0.send_modify(|state| state.busy -= 1);
    }

    /// Waits until batches are wanted, and says how many; `None` once closed.
    pub async fn wanted(&self, ahead: bool) -> Option<usize> {
        let mut watched = self.0.subscribe();
        let state = watched.wait_for(|state| state.closed || state.wanted(ahead) > 0).await.ok()?;
        (!state.closed).then(|| state.wanted(ahead))
    }

    /// Adds claimed batches; gives them back if it is closed.
    pub fn push(&self, batches: Vec<Batch>) -> Result<(), Vec<Batch>> {
        let mut batches = Some(batches);
        self.0.send_if_modified(|state| {
            if state.closed {
                return false;
            }
            state.batches.extend(batches.take().into_iter().flatten());
            true
        });
        batches.map_or(Ok(()), Err)
    }

    /// Hands out and takes in nothing more; returns what no slot has begun.
    pub fn close(&self) -> Vec<Batch> {
        let mut left = Vec::new();
        self.0.send_modify(|state| {
            state.closed = true;
            left = state.batches.drain(..).collect();
        });
        left
    }

    /// Returns when it is closed.
    pub async fn closed(&self) {
        let _ = self.0.subscribe().wait_for(|state| state.closed).await;
    }

    /// Returns when it is closed and no slot computes any more.
    pub async fn at_rest(&self) {
        let _ = self.0.subscribe().wait_for(|state| state.closed && state.busy == 0).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::task::yield_now;

    /// What is wanted now.
    fn wants(ready: &Ready) -> (usize, usize) {
        let state = ready.0.borrow();
        (state.wanted(false), state.wanted(true))
    }

    #[tokio::test]
    async fn one_batch_is_wanted_ahead_when_all_slots_are_busy_and_none_when_one_is_idle() {
        let ready = Ready::new(2);
        assert_eq!(wants(&ready), (2, 0), "at the start both slots are idle");
        assert!(ready.push(vec![vec![]]).is_ok());
        assert_eq!(wants(&ready), (1, 0), "one of them has something to begin with");
        assert!(ready.next().await.is_some());
        assert_eq!(wants(&ready), (1, 0));
        assert!(ready.push(vec![vec![], vec![]]).is_ok());
        assert!(ready.next().await.is_some());
        assert_eq!(wants(&ready), (0, 0), "one batch waits already");
        ready.free();
        assert_eq!(wants(&ready), (0, 0), "it is for the slot that became free");
        assert!(ready.next().await.is_some());
        assert_eq!(wants(&ready), (0, 1));
        ready.free();
        assert_eq!(wants(&ready), (1, 0), "nothing is here: the idle slot comes first");
    }

    #[tokio::test]
    async fn closing_ends_every_wait_and_returns_what_nobody_began() {
        let ready = std::sync::Arc::new(Ready::new(1));
        assert!(ready.push(vec![vec![], vec![]]).is_ok());
        assert!(ready.next().await.is_some());
        let claim = tokio::spawn({
            let ready = ready.clone();
            async move { ready.wanted(true).await }
        });
        yield_now().await;
        assert_eq!(ready.close().len(), 1);
        assert_eq!(claim.await.ok(), Some(None));
        assert!(ready.next().await.is_none());
        assert_eq!(ready.push(vec![vec![]]).map_err(|batches| batches.len()), Err(1));
        ready.free();
        ready.at_rest().await;
    }
}
