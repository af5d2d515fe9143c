//! The job table as `submit` sees it.

use crate::plan::Plan;
use crate::queue::access::Access;
pub use crate::queue::request::{Preview, Submitted};
use std::future::Future;

/// Where plans go.
pub trait JobTable {
    /// Adds what is new in `plan`.
    fn submit(&self, plan: &Plan) -> impl Future<Output = anyhow::Result<Submitted>>;
    /// What submitting `plan` would add.
    fn preview(&self, plan: &Plan) -> impl Future<Output = anyhow::Result<Preview>>;
    /// Lets go of the table.
    fn close(self) -> impl Future<Output = ()>;
}

impl JobTable for Access {
    async fn submit(&self, plan: &Plan) -> anyhow::Result<Submitted> {
        Ok(Access::submit(self, plan).await?)
    }

    async fn preview(&self, plan: &Plan) -> anyhow::Result<Preview> {
        Ok(Access::preview(self, plan).await?)
    }

    async fn close(self) {
        Access::close(self).await;
    }
}
