//! What a worker can do with a job, one file per kind. No network here: a job in, a product or a typed failure out.

mod batch;
pub mod by_hand;
mod deviations;
mod facts;
mod folder;
mod input;
pub mod models;
mod objective;
pub mod pass;
pub mod request;
mod request_objective;
mod sample;
mod score;
mod scores;
mod simulate;
mod start;

use crate::control::Control;
use models::Shelf;
use pass::Passes;
use protocol::claim::ClaimedJob;
use protocol::ids::Digest;
use protocol::job::{Condition, SampleCondition, SimulateCondition};
use protocol::outcome::{FailureClass, JobResult, PhaseSeconds};
use std::fmt;
use std::sync::Arc;

/// What a finished job gave.
#[derive(Debug)]
pub struct Product {
    /// The image that the result names, if the job made it.
    pub png: Option<Vec<u8>>,
    /// Complete but for the seconds spent on uploading.
    pub result: JobResult,
}

/// A job whose work on the device is done. What is left, encoding and digests, is for the host alone and runs beside the next batch.
pub struct Computed {
    /// Complete but for the seconds spent on uploading.
    pub seconds: PhaseSeconds,
    finish: Box<dyn FnOnce() -> Result<Product, TaskError> + Send>,
}

impl fmt::Debug for Computed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Computed").field("seconds", &self.seconds).finish_non_exhaustive()
    }
}

impl Computed {
    pub fn new(seconds: PhaseSeconds, finish: impl FnOnce() -> Result<Product, TaskError> + Send + 'static) -> Self {
        Self { seconds, finish: Box::new(finish) }
    }

    /// Does what is left.
    pub fn finish(self) -> Result<Product, TaskError> {
        (self.finish)()
    }
}

/// How a job ends without a product.
#[derive(Debug, Clone)]
pub enum TaskError {
    /// It was told to stop; nobody wants to hear of it.
    Stopped,
    Failed {
        class: FailureClass,
        message: String,
        seconds: PhaseSeconds,
    },
}

impl TaskError {
    /// What happened to the device, if that is why.
    pub fn device_fault(&self) -> Option<&str> {
        match self {
            Self::Failed { class: FailureClass::DeviceFault, message, .. } => Some(message),
            _ => None,
        }
    }

    /// The same, after so many seconds.
    fn after(mut self, spent: PhaseSeconds) -> Self {
        if let Self::Failed { seconds, .. } = &mut self {
            *seconds = spent;
        }
        self
    }

    /// A job's thread panicked: a bug, reported as one, and the worker lives on.
    pub fn from_panic(error: tokio::task::JoinError) -> Self {
        let what = match error.try_into_panic() {
            Ok(payload) => payload
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                .unwrap_or_else(|| "a panic without a message".to_owned()),
            Err(error) => error.to_string(),
        };
        Self::Failed {
            class: FailureClass::Bug,
            message: format!("the task panicked: {what}"),
            seconds: PhaseSeconds::default(),
        }
    }
}

/// A claimed job with all that a task needs.
#[derive(Debug, Clone)]
pub struct Work {
    pub job: ClaimedJob,
    /// Key of the condition.
    pub key: Digest,
    pub condition: Arc<Condition>,
    /// The file of the image to score, once it is fetched.
    pub image: Option<Arc<[u8]>>,
    pub control: Arc<Control>,
}

/// Something that runs jobs.
pub trait Runner: Send + Sync + 'static {
    /// Runs jobs that [`into_batches`] put together until they need the device no more, on the calling thread; one outcome per job, in
    /// order. Looks at their controls often, and reports progress to them.
    fn run(&self, batch: &[Work]) -> Vec<Result<Computed, TaskError>>;

    /// Whether the condition's models are in memory.
    fn is_loaded(&self, condition: &Condition) -> bool;

    /// How many jobs like the condition's go into a batch.
    fn batch(&self, condition: &Condition) -> usize;
}

/// Whether one pass through the networks can serve jobs of both.
pub fn share_a_pass(one: &Condition, other: &Condition) -> bool {
    match (one, other) {
        (Condition::Sample(one), Condition::Sample(other)) => batch::share_a_pass(one, other),
        (Condition::Simulate(_), Condition::Simulate(_)) => true,
        _ => false,
    }
}

/// Puts jobs together that share a pass, as many as go into a batch; what was claimed first comes first.
pub fn into_batches(jobs: Vec<Work>, runner: &dyn Runner) -> Vec<Vec<Work>> {
    let mut batches: Vec<Vec<Work>> = Vec::new();
    for work in jobs {
        let most = runner.batch(&work.condition);
        let open = batches
            .iter_mut()
            .find(|batch: &&mut Vec<Work>| batch.len() < most && share_a_pass(&batch[0].condition, &work.condition));
        match open {
            Some(batch) => batch.push(work),
            None => batches.push(vec![work]),
        }
    }
    batches
}

/// Runs every kind of job on one device, with models that stay loaded from job to job.
#[derive(Debug)]
pub struct DeviceRunner {
    shelf: Shelf,
    device: String,
    passes: Passes,
}

impl DeviceRunner {
    /// `name`: as results name the device, `cpu` or `cuda:N`.
    pub fn new(device: braindive::Device, name: String, passes: Passes) -> Self {
        Self { shelf: Shelf::new(device), device: name, passes }
    }
}

impl Runner for DeviceRunner {
    fn run(&self, batch: &[Work]) -> Vec<Result<Computed, TaskError>> {
        let mut outcomes = Vec::with_capacity(batch.len());
        let mut sampled: Vec<(&Work, &SampleCondition)> = Vec::new();
        let mut simulated: Vec<(&Work, &SimulateCondition)> = Vec::new();
        for work in batch {
            match &*work.condition {
                Condition::Sample(condition) => sampled.push((work, condition)),
                Condition::Simulate(condition) => simulated.push((work, condition)),
                Condition::Score(condition) => {
                    outcomes.push(score::run(&self.shelf, &self.device, work, condition));
                }
                Condition::Prepare(_) | Condition::Fit(_) | Condition::Cluster(_) => {
                    outcomes.push(folder::run(self.shelf.device(), &self.device, work));
                }
            }
        }
        // A batch holds one kind, so that all but one are empty.
        outcomes.extend(simulate::run(&self.device, &simulated));
        outcomes.extend(batch::run(&self.shelf, &self.passes, &self.device, &sampled));
        outcomes
    }

    fn is_loaded(&self, condition: &Condition) -> bool {
        match condition {
            Condition::Sample(condition) => self.shelf.holds(condition),
            Condition::Score(condition) => self.shelf.holds_judges(&condition.scored),
            Condition::Prepare(_) | Condition::Fit(_) | Condition::Cluster(_) => false,
            Condition::Simulate(_) => true,
        }
    }

    fn batch(&self, condition: &Condition) -> usize {
        let known = match condition {
            Condition::Sample(condition) => self.passes.known(condition),
            _ => None,
        };
        known.map_or(self.passes.batch().uncounted(), |pass| pass.images)
    }
}

/// The failure class of an error of the science core.
fn class_of(error: &braindive::Error) -> FailureClass {
    use braindive::ErrorKind;
    match error.kind() {
        ErrorKind::BadInput => FailureClass::BadInput,
        ErrorKind::Io => FailureClass::Io,
        ErrorKind::OutOfMemory => FailureClass::OutOfMemory,
        ErrorKind::DeviceFault => FailureClass::DeviceFault,
        ErrorKind::NonFinite => FailureClass::NonFinite,
        ErrorKind::Stopped | ErrorKind::Bug => FailureClass::Bug,
    }
}
