//! Delivering what a job gave: to the spool first, then to the coordinator, the image before the result that names it, for as
//! long as it takes.

use super::backoff::Backoff;
use super::spool::{Ending, Kept, Spool, SpoolError};
use crate::chain::chain;
use crate::client::{Client, ClientError};
use protocol::error::RefusalCode;
use protocol::outcome::{Closed, Completed, Disposition, Failed, FailureClass};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Takes endings to the coordinator; cheap to clone.
#[derive(Debug, Clone)]
pub struct Courier {
    client: Client,
    spool: Option<Arc<Spool>>,
    /// The spool failed, and was said to.
    failing: Arc<AtomicBool>,
    undelivered: Arc<Undelivered>,
}

/// How many endings are on their way.
#[derive(Debug, Default)]
struct Undelivered {
    spooled: AtomicUsize,
    in_memory: AtomicUsize,
}

/// An ending on its way.
#[derive(Debug)]
pub struct Parcel {
    ending: Ending,
    held: Hold,
}

/// Where a parcel is until it is delivered.
#[derive(Debug)]
enum Hold {
    Spooled(Kept),
    /// With the image of a result.
    Memory(Option<Vec<u8>>),
}

/// Why an ending was not delivered.
#[derive(Debug, thiserror::Error)]
enum DeliveryError {
    #[error("delivering to the coordinator")]
    Client(#[from] ClientError),
    #[error("fetching the image to deliver")]
    Spool(#[from] SpoolError),
}

impl DeliveryError {
    fn is_final(&self) -> bool {
        match self {
            Self::Client(error) => error.is_final(),
            Self::Spool(_) => true,
        }
    }

    /// The failure to report instead of a result; `None` where the coordinator knows nothing of the attempt.
    fn failure(&self) -> Option<FailureClass> {
        match self {
            Self::Client(error) => match error.code() {
                Some(RefusalCode::UnknownWorker | RefusalCode::NotFound) => None,
                _ => Some(FailureClass::Bug),
            },
            Self::Spool(_) => Some(FailureClass::Io),
        }
    }
}

impl Courier {
    /// Without a spool, all is kept in memory.
    pub fn new(client: Client, spool: Option<Spool>) -> Self {
        Self { client, spool: spool.map(Arc::new), failing: Arc::default(), undelivered: Arc::default() }
    }

    /// Ends an attempt. Returns when the coordinator has closed it, or will never do so.
    pub async fn deliver(&self, ending: Ending, png: Option<Vec<u8>>) {
        let parcel = self.keep(ending, png).await;
        self.hand_over(parcel).await;
    }

    /// Delivers what a dead worker left.
    pub async fn deliver_left(&self, ending: Ending, kept: Kept) {
        self.hand_over(Parcel { ending, held: Hold::Spooled(kept) }).await;
    }

    /// What waits in the spool and in memory.
    pub fn undelivered(&self) -> (usize, usize) {
        let Undelivered { spooled, in_memory } = &*self.undelivered;
        (spooled.load(Ordering::Relaxed), in_memory.load(Ordering::Relaxed))
    }

    /// Where undelivered results lie, if there is a spool.
    pub fn spool(&self) -> Option<&Spool> {
        self.spool.as_deref()
    }

    async fn keep(&self, ending: Ending, png: Option<Vec<u8>>) -> Parcel {
        let Some(spool) = self.spool.clone() else { return Parcel { ending, held: Hold::Memory(png) } };
        let written = on_a_thread(move || {
            let kept = spool.keep(&ending, png.as_deref());
            (ending, png, kept)
        });
        match written.await {
            (ending, _, Ok(kept)) => {
                if self.failing.swap(false, Ordering::Relaxed) {
                    tracing::info!("the spool takes results again");
                }
                Parcel { ending, held: Hold::Spooled(kept) }
            }
            (ending, png, Err(error)) => {
                if !self.failing.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        "{}; going on from memory: results that wait are lost with this worker",
                        chain(&error)
                    );
                }
                Parcel { ending, held: Hold::Memory(png) }
            }
        }
    }

    async fn hand_over(&self, parcel: Parcel) {
        let waiting = match &parcel.held {
            Hold::Spooled(_) => &self.undelivered.spooled,
            Hold::Memory(_) => &self.undelivered.in_memory,
        };
        waiting.fetch_add(1, Ordering::Relaxed);
        let (worker, job, fence) = parcel.ending.attempt();
        match insist(|| self.send(&parcel), tokio::time::sleep).await {
            Ok(Closed { disposition }) => {
                match (disposition, &parcel.ending) {
                    (Disposition::Accepted, Ending::Completed(_)) => tracing::info!(%job, "done"),
                    (Disposition::Accepted, Ending::Failed(_)) => tracing::info!(%job, "failure reported"),
                    (Disposition::Duplicate, _) => tracing::info!(%job, "had been delivered before"),
                    (Disposition::Superseded, _) => tracing::warn!(%job, "came too late: it does not count"),
                }
                if let Hold::Spooled(kept) = parcel.held {
                    on_a_thread(move || kept.remove()).await;
                }
            }
            Err(error) => {
                let reason = chain(&error);
                tracing::error!(%job, "cannot be delivered, now or later: {reason}");
                if let Hold::Spooled(kept) = parcel.held {
                    let told = reason.clone();
                    match on_a_thread(move || kept.reject(&told)).await {
                        Ok(path) => tracing::error!(%job, "moved aside to {}", path.display()),
                        Err(error) => tracing::error!(%job, "stays in the spool: {}", chain(&error)),
                    }
                }
                if let (Ending::Completed(done), Some(class)) = (&parcel.ending, error.failure()) {
                    let message = format!("the result could not be delivered: {reason}");
                    let failed = Failed { worker, job, fence, class, message, seconds: *done.result.seconds() };
                    if let Err(error) = insist(|| self.client.fail(&failed), tokio::time::sleep).await {
                        tracing::error!(%job, "cannot report the failure: {}", chain(&error));
                    }
                }
            }
        }
        waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// One try: image and result together, so that an image that went missing between the two is sent again.
    async fn send(&self, parcel: &Parcel) -> Result<Closed, DeliveryError> {
        let done = match &parcel.ending {
            Ending::Failed(failed) => return Ok(self.client.fail(failed).await?),
            Ending::Completed(done) => done,
        };
        let started = Instant::now();
        if done.result.brings_image() {
            let digest = done.result.image();
            let png = match &parcel.held {
                Hold::Memory(png) => png.clone().unwrap_or_default(),
                Hold::Spooled(kept) => {
                    let (kept, digest) = (kept.clone(), digest.clone());
                    on_a_thread(move || kept.image(&digest)).await?
                }
            };
            self.client.upload(digest, png).await?;
        }
        let mut result = done.result.clone();
        result.seconds_mut().uploading = started.elapsed().as_secs_f64();
        Ok(self.client.result(&Completed { result, ..done.clone() }).await?)
    }
}

/// Runs `work`, which may wait for a disk, to its end, whatever becomes of this future.
async fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

/// Whether a call that failed would fail for ever.
trait Finality: std::error::Error {
    fn is_final(&self) -> bool;
}

impl Finality for DeliveryError {
    fn is_final(&self) -> bool {
        self.is_final()
    }
}

impl Finality for ClientError {
    fn is_final(&self) -> bool {
        self.is_final()
    }
}

/// Repeats a call until the coordinator has taken the message, or says that it never will. `sleep`: how to pass the time.
async fn insist<T, E: Finality, Call, Pause>(call: impl Fn() -> Call, sleep: impl Fn(Duration) -> Pause) -> Result<T, E>
where
    Call: Future<Output = Result<T, E>>,
    Pause: Future<Output = ()>,
{
    let mut backoff = Backoff::default();
    loop {
        match call().await {
            Err(error) if !error.is_final() => {
                backoff.report(&error, "keeping the result and trying again");
                sleep(backoff.step()).await;
            }
            answer => return answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::error::Refusal;
    use protocol::ids::{Fence, JobId, WorkerId};
    use protocol::outcome::PhaseSeconds;
    use std::cell::Cell;
    use std::future::ready;

    fn refused(code: RefusalCode) -> ClientError {
        ClientError::Refused(Refusal { code, message: String::new() })
    }

    /// Delivers to a coordinator that answers with `refusal` until `outage` has passed, on a clock that only sleeping moves.
    /// Gives the answer, when it came, and how often it was asked for.
    async fn deliver_after(outage: Duration, code: RefusalCode) -> (Result<(), ClientError>, Duration, u32) {
        let (now, calls) = (Cell::new(Duration::ZERO), Cell::new(0));
        let pass = |pause| {
            now.set(now.get() + pause);
            ready(())
        };
        let call = || {
            calls.set(calls.get() + 1);
            ready(if now.get() < outage { Err(refused(code)) } else { Ok(()) })
        };
        let answer = insist(call, pass).await;
        (answer, now.get(), calls.get())
    }

    #[tokio::test]
    async fn a_finished_result_is_delivered_after_an_outage_of_30_minutes_and_of_30_days() {
        for minutes in [30, 30 * 24 * 60] {
            let outage = Duration::from_secs(60 * minutes);
            let (answer, when, calls) = deliver_after(outage, RefusalCode::Stopping).await;
            assert!(answer.is_ok());
            assert!(when < outage + Duration::from_secs(30), "delivered {when:?} after the outage of {outage:?} began");
            assert!(calls < 10 + 4 * minutes as u32, "{calls} calls in {minutes} minutes");
        }
    }

    #[tokio::test]
    async fn a_delivery_that_is_refused_for_ever_is_tried_once() {
        let (answer, when, calls) = deliver_after(Duration::MAX, RefusalCode::UnknownWorker).await;
        assert!(answer.is_err());
        assert_eq!((when, calls), (Duration::ZERO, 1));
    }

    #[tokio::test]
    async fn what_the_spool_does_not_take_goes_on_from_memory() {
        let root = tempfile::tempdir().unwrap();
        let (spool, _) = Spool::open(root.path(), "node-1", super::super::spool::campaign("token")).unwrap();
        let folder = spool.path().to_owned();
        let courier = Courier::new(Client::new("http://127.0.0.1:1", None, "token").unwrap(), Some(spool));
        let ending = |job| {
            let (class, message, seconds) = (FailureClass::Io, "gone".to_owned(), PhaseSeconds::default());
            Ending::Failed(Failed { worker: WorkerId(7), job: JobId(job), fence: Fence(1), class, message, seconds })
        };
        assert!(matches!(courier.keep(ending(1), None).await.held, Hold::Spooled(_)));
        // Where the second should go stands a folder.
        std::fs::create_dir_all(folder.join("7-2-1.json/in the way")).unwrap();
        let parcel = courier.keep(ending(2), Some(b"an image".to_vec())).await;
        assert!(matches!(parcel.held, Hold::Memory(Some(png)) if png == b"an image"));
        assert!(matches!(courier.keep(ending(3), None).await.held, Hold::Spooled(_)));
    }
}
