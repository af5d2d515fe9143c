//! Fetching what jobs work on from the coordinator: the images that are scored.

use super::{Agent, Backoff};
use crate::chain::chain;
use crate::client::ClientError;
use crate::tasks::{TaskError, Work};
use protocol::claim::ImageToScore;
use protocol::ids::Digest;
use protocol::outcome::{FailureClass, PhaseSeconds};
use sha2::{Digest as _, Sha256};

/// An image cannot be had, however long one waits.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("fetching the image {0} to score")]
    Client(Digest, #[source] ClientError),
    #[error(
        "the image {expected} to score came with sha256 {found}: the coordinator's store is damaged; see `coordinator check`"
    )]
    Changed { expected: Digest, found: Digest },
}

impl Agent {
    /// Fetches the images that the jobs of a batch score.
    pub(super) async fn fetch(&self, batch: &mut [Work]) -> Result<(), TaskError> {
        for work in batch {
            let Some(ImageToScore { sha256, .. }) = &work.job.image else { continue };
            let mut backoff = Backoff::default();
            let image = loop {
                if work.control.is_stopped() {
                    return Err(TaskError::Stopped);
                }
                match self.client.download(sha256).await {
                    Err(error) if error.is_passing() => {
                        backoff.report(&error, "waiting for the image to score");
                        backoff.pause().await;
                    }
                    answer => break answer,
                }
            };
            let image = image.map_err(|error| FetchError::Client(sha256.clone(), error)).and_then(|image| {
                let found = Digest::from_bytes(&Sha256::digest(&image).into());
                match found == *sha256 {
                    true => Ok(image),
                    false => Err(FetchError::Changed { expected: sha256.clone(), found }),
                }
            });
            let failed = |error: FetchError| TaskError::Failed {
                class: FailureClass::Io,
                message: chain(&error),
                seconds: PhaseSeconds::default(),
            };
            work.image = Some(image.map_err(failed)?.into());
        }
        Ok(())
    }
}
