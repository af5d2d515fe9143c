//! The heartbeat: the first thing to start after registering, the last to stop.

use super::held::HeldJobs;
use crate::chain::chain;
use crate::client::Client;
use protocol::heartbeat::{Activity, Heartbeat, Held};
use protocol::ids::WorkerId;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A running heartbeat.
pub struct Heart {
    activity: watch::Sender<Activity>,
    answered: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Heart {
    /// Beats every `period`, and at once whenever the activity changes.
    pub fn start(client: Client, worker: WorkerId, period: Duration, held: HeldJobs) -> Self {
        let (activity, watched) = watch::channel(Activity::Working);
        let answered = Arc::new(AtomicBool::new(true));
        let task = tokio::spawn(beat(client, worker, period, held, watched, answered.clone()));
        Self { activity, answered, task }
    }

    /// Whether the coordinator answered the last heartbeat.
    pub fn is_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    pub fn set(&self, activity: Activity) {
        self.activity.send_replace(activity);
    }

    /// Says goodbye and ends.
    pub async fn stop(self) {
        self.set(Activity::Gone);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the heartbeat ended badly");
        }
    }
}

async fn beat(
    client: Client,
    worker: WorkerId,
    period: Duration,
    held: HeldJobs,
    mut activity: watch::Receiver<Activity>,
    answered: Arc<AtomicBool>,
) {
    loop {
        let now = *activity.borrow_and_update();
        let beat = Heartbeat { worker, activity: now, held: held.list() };
        match client.heartbeat(&beat).await {
            Ok(reply) => {
                if !answered.swap(true, Ordering::Relaxed) {
                    tracing::info!("the coordinator answers again");
                }
                // Only under the fence that was sent: the job may have come back meanwhile.
                for Held { job, fence, .. } in beat.held {
                    if reply.cancelled.contains(&job) && held.stop(job, fence) {
                        tracing::info!(%job, "cancelled");
                    } else if reply.lost.contains(&job) && held.stop(job, fence) {
                        tracing::warn!(%job, "its lease had run out: somebody else will do it");
                    }
                }
            }
            Err(error) => {
                if answered.swap(false, Ordering::Relaxed) {
                    tracing::warn!("no heartbeat; going on with what is claimed: {}", chain(&error));
                }
            }
        }
        if now == Activity::Gone {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(period) => {}
            changed = activity.changed() => if changed.is_err() { return },
        }
    }
}
