//! The way in for commands: over HTTP to the coordinator that owns the database, or straight into the file if nobody does.

use crate::api::client::{Client, ClientError};
use crate::artifacts::Artifacts;
use crate::artifacts::gc::{self, CollectError};
use crate::plan::Plan;
use crate::queue::error::{OpenError, QueueError};
use crate::queue::owner;
pub use crate::queue::request::{Adjust, Cancel, Changed, Collect, Collected, Preview, Retry, Served, Submitted};
use crate::queue::writer::{Queue, Settings};
use std::path::Path;

/// A database that commands can change, wherever its writer is.
#[derive(Debug)]
pub enum Access {
    /// A running coordinator writes.
    Remote(Client),
    /// This process writes.
    Local(Queue),
}

/// A command on the job table failed.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error(transparent)]
    Collect(#[from] CollectError),
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl Access {
    /// Finds who writes the database at `db`; creates the file if it is not there.
    pub async fn open(db: &Path) -> Result<Self, AccessError> {
        Ok(match owner::living(db).await? {
            Some(owner) => Self::Remote(Client::of_owner(&owner)?),
            None => Self::Local(Queue::open(db, Settings::default()).await?),
        })
    }

    /// As [`Access::open`], but a database that is not there is an error.
    pub async fn open_existing(db: &Path) -> Result<Self, AccessError> {
        if !db.exists() {
            return Err(OpenError::Missing { path: db.to_owned() }.into());
        }
        Self::open(db).await
    }

    /// Adds what is new in `plan`.
    pub async fn submit(&self, plan: &Plan) -> Result<Submitted, AccessError> {
        Ok(match self {
            Self::Remote(client) => client.post("submit", plan).await?,
            Self::Local(queue) => queue.submit(plan.clone()).await?,
        })
    }

    /// What submitting `plan` would add.
    pub async fn preview(&self, plan: &Plan) -> Result<Preview, AccessError> {
        Ok(match self {
            Self::Remote(client) => client.post("preview", plan).await?,
            Self::Local(queue) => queue.preview(plan.clone()).await?,
        })
    }

    pub async fn cancel(&self, cancel: &Cancel) -> Result<Changed, AccessError> {
        Ok(match self {
            Self::Remote(client) => client.post("cancel", cancel).await?,
            Self::Local(queue) => queue.cancel(cancel.clone()).await?,
        })
    }

    pub async fn retry(&self, retry: &Retry) -> Result<Changed, AccessError> {
        Ok(match self {
            Self::Remote(client) => client.post("retry", retry).await?,
            Self::Local(queue) => queue.retry(retry.clone()).await?,
        })
    }

    /// What [`Access::cancel`] would change.
    pub async fn rehearse_cancel(&self, cancel: &Cancel) -> Result<Changed, AccessError> {
        Ok(match self {
            Self::Remote(client) => client.post("cancel/rehearsal", cancel).await?,
            Self::Local(queue) => queue.rehearse_cancel(cancel.clone()).await?,
        })
    }

    /// What [`Access::retry`] would change.
    pub async fn rehearse_retry(&self, retry: &Retry) -> Result<Changed, AccessError> {
        Ok(match self {
            Self::Remote(client) => client.post("retry/rehearsal", retry).await?,
            Self::Local(queue) => queue.rehearse_retry(retry.clone()).await?,
        })
    }

    /// Changes how an experiment is served.
    pub async fn adjust(&self, adjust: &Adjust) -> Result<Served, AccessError> {
        Ok(match self {
            Self::Remote(client) => client.post("adjust", adjust).await?,
            Self::Local(queue) => queue.adjust(adjust.clone()).await?,
        })
    }

    /// Lets a quarantined device have jobs again; gives the reason of its quarantine.
    pub async fn release_device(&self, key: &str) -> Result<String, AccessError> {
        Ok(match self {
            Self::Remote(client) => client.post("release-device", key).await?,
            Self::Local(queue) => queue.release_device(key.to_owned()).await?,
        })
    }

    /// Removes files that no result names; from `store` if nobody serves the database, else from the coordinator's own.
    pub async fn collect(&self, collect: &Collect, store: &Artifacts) -> Result<Collected, AccessError> {
        Ok(match self {
            Self::Remote(client) => client.post("collect", collect).await?,
            Self::Local(queue) => gc::collect(queue, store, collect).await?,
        })
    }

    /// Closes the file if this process had opened it.
    pub async fn close(self) {
        if let Self::Local(queue) = self {
            queue.close().await;
        }
    }
}
