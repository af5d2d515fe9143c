//! How far a fit is, in images: those that went through the backbone and those that the head has seen.

use super::FitError;
use std::ops::ControlFlow;

/// Counts images, and asks whether to go on.
pub struct Progress<'a> {
    pub done: u64,
    pub total: u64,
    pub report: &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>,
}

impl Progress<'_> {
    /// `images` more are done.
    ///
    /// # Errors
    /// Told to stop.
    pub fn add(&mut self, images: usize) -> Result<(), FitError> {
        self.done += images as u64;
        match (self.report)(self.done, self.total) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(FitError::Stopped { done: self.done, total: self.total }),
        }
    }
}

impl std::fmt::Debug for Progress<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Progress").field("done", &self.done).field("total", &self.total).finish_non_exhaustive()
    }
}
