//! How passes through the networks fit into memory: so many images at a time, so much kept for the gradient. Counted before the first pass
//! on networks and an image size, and kept as long as the worker lives; where memory runs out all the same, the next passes are smaller.

use super::TaskError;
use super::models::{Loaded, Shelf};
use braindive::Error;
use braindive::device;
use braindive::sampler::{Footprint, Memory};
use protocol::ids::Digest;
use protocol::job::{Precision, SampleCondition};
use protocol::outcome::{FailureClass, PhaseSeconds};
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

/// How many jobs a batch takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchSize {
    Jobs(usize),
    /// As many as memory holds.
    Auto,
}

/// A text that names no size of a batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no size of a batch: expected a number from 1 to {most}, or `auto`", most = MOST)]
pub struct NoBatchSize(String);

/// Nothing says how much `auto` may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "`--batch auto` fills a card's memory, and this device has none of its own: say with `--memory-limit` how much to fill, for example 12GiB"
)]
pub struct NothingToFill;

/// Jobs of a batch at most; a device gains nothing from more.
const MOST: usize = 64;

impl BatchSize {
    /// What a batch takes as long as nothing has been counted: of `auto` one job, which tells.
    pub fn uncounted(self) -> usize {
        match self {
            Self::Jobs(jobs) => jobs,
            Self::Auto => 1,
        }
    }

    /// The largest pass that stays within `limit` bytes.
    ///
    /// Blocks that run again cost a third of a step, more than a larger batch gains: `auto` makes no room that way, unless a single
    /// image needs it.
    fn within(self, limit: u64, footprint: &Footprint, latent_pixels: usize) -> Result<Pass, Error> {
        let fit = |images| Ok(Pass { images, memory: footprint.fit(limit, images, latent_pixels)? });
        let mut most = (2..=self.most()).rev().filter_map(|images| fit(images).ok());
        let found = match self {
            Self::Jobs(_) => most.next(),
            Self::Auto => most.find(|pass| pass.memory == Memory::default()),
        };
        found.map_or_else(|| fit(1), Ok)
    }

    fn most(self) -> usize {
        match self {
            Self::Jobs(jobs) => jobs,
            Self::Auto => MOST,
        }
    }
}

impl FromStr for BatchSize {
    type Err = NoBatchSize;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(jobs) if (1..=MOST).contains(&jobs) => Ok(Self::Jobs(jobs)),
            Err(_) if text == "auto" => Ok(Self::Auto),
            _ => Err(NoBatchSize(text.to_owned())),
        }
    }
}

/// One way through the networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass {
    /// At a time, at most.
    pub images: usize,
    /// What is kept for the gradient.
    pub memory: Memory,
}

impl Pass {
    /// What to try where this one ran out of memory: half the images, and at one image the next choice that keeps less.
    fn smaller(self) -> Option<Self> {
        if self.images > 1 {
            return Some(Self { images: self.images / 2, ..self });
        }
        let mut less = Memory::CHOICES.into_iter().skip_while(|choice| *choice != self.memory).skip(1);
        less.next().map(|memory| Self { memory, ..self })
    }
}

impl fmt::Display for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let again = match Memory::CHOICES.iter().position(|choice| *choice == self.memory) {
            Some(0) => "",
            Some(1) => ", computing the UNet's blocks again",
            _ => ", computing the blocks of UNet and decoder again",
        };
        write!(f, "{} image(s) at a time{again}", self.images)
    }
}

/// Networks, their precision, and the images' size.
type Key = (Digest, Digest, Precision, [u32; 2]);

fn key(condition: &SampleCondition) -> Key {
    let (models, sampling) = (&condition.models, &condition.sampling);
    (models.diffusion.digest.clone(), models.backbone.digest.clone(), sampling.precision, sampling.size)
}

/// What the worker knows of passes.
#[derive(Debug)]
pub struct Passes {
    batch: BatchSize,
    /// Bytes that a pass may take, weights included.
    memory_limit: Option<u64>,
    /// How many passes run at a time.
    slots: u32,
    known: Mutex<Vec<(Key, Pass)>>,
}

impl Passes {
    pub fn new(batch: BatchSize, memory_limit: Option<u64>, slots: u32) -> Self {
        Self { batch, memory_limit, slots, known: Mutex::default() }
    }

    pub fn batch(&self) -> BatchSize {
        self.batch
    }

    /// The pass that serves jobs of the condition, if it has been found.
    pub fn known(&self, condition: &SampleCondition) -> Option<Pass> {
        let (key, known) = (key(condition), self.known.lock().unwrap_or_else(PoisonError::into_inner));
        known.iter().find(|(known, _)| *known == key).map(|(_, pass)| *pass)
    }

    /// Serves the condition's jobs by `pass` from now on.
    pub fn keep(&self, condition: &SampleCondition, pass: Pass) {
        let (key, mut known) = (key(condition), self.known.lock().unwrap_or_else(PoisonError::into_inner));
        known.retain(|(known, _)| *known != key);
        known.push((key, pass));
    }

    /// The pass that serves jobs of the condition, whose models are loaded; found now if it is not known.
    pub fn find(&self, shelf: &Shelf, condition: &SampleCondition, models: &Loaded) -> Result<Pass, Error> {
        if let Some(pass) = self.known(condition) {
            return Ok(pass);
        }
        let pass = match self.limit(shelf, condition, models)? {
            None => Pass { images: self.batch.uncounted(), memory: Memory::default() },
            Some(limit) => {
                let footprint = shelf.footprint(condition, models)?;
                self.batch.within(limit, &footprint, latent_pixels(condition, models)?)?
            }
        };
        let [width, height] = condition.sampling.size;
        tracing::info!("sampling {width} x {height} pixels: {pass}");
        self.keep(condition, pass);
        Ok(pass)
    }

    /// Bytes that a pass can have, if anything is known of that: what it is allowed, or its slot's part of what the card has left beside
    /// the weights.
    fn limit(&self, shelf: &Shelf, condition: &SampleCondition, models: &Loaded) -> Result<Option<u64>, Error> {
        let free = match device::memory(shelf.device())? {
            Some(memory) => {
                // Kernels' workspaces and what is lost between allocations are not counted.
                let free = memory.free / 20 * 19;
                Some(shelf.footprint(condition, models)?.weights + free / u64::from(self.slots))
            }
            None => None,
        };
        Ok([self.memory_limit, free].into_iter().flatten().min())
    }

    /// An error of a job of the condition; with the numbers, if it found no memory.
    pub fn explain(&self, error: TaskError, shelf: &Shelf, condition: &SampleCondition, models: &Loaded) -> TaskError {
        let TaskError::Failed { class: FailureClass::OutOfMemory, message, seconds } = error else { return error };
        let [width, height] = condition.sampling.size;
        let numbers = || -> Result<_, Error> {
            let (footprint, pixels) = (shelf.footprint(condition, models)?, latent_pixels(condition, models)?);
            let needed =
                Memory::CHOICES.map(|memory| footprint.peak(memory, 1, pixels)).into_iter().min().unwrap_or_default();
            let limit = self.limit(shelf, condition, models)?;
            let limit = limit.map_or(String::new(), |limit| format!(", {limit} can be had"));
            Ok(format!(" takes {needed} bytes at least{limit}"))
        };
        let numbers = numbers().unwrap_or_default();
        let message = format!("{message}; 1 image of {width} x {height} pixels{numbers}");
        TaskError::Failed { class: FailureClass::OutOfMemory, message, seconds }
    }
}

fn latent_pixels(condition: &SampleCondition, models: &Loaded) -> Result<usize, Error> {
    let [width, height] = condition.sampling.size.map(|side| side as usize);
    let [_, _, rows, columns] = models.diffusion.latent_shape(width, height)?;
    Ok(rows * columns)
}

/// Runs `jobs`, as many at a time as `pass` says; one outcome per job, in order. A pass that runs out of memory is run again as a smaller
/// one, and all that follow are as small. One that fails otherwise is run again in halves, for the sake of the jobs that are not to blame.
pub fn run<J, T>(
    pass: &mut Pass,
    jobs: &mut [J],
    through: &mut impl FnMut(&mut [J], Memory) -> Result<Vec<Result<T, TaskError>>, TaskError>,
) -> Vec<Result<T, TaskError>> {
    let mut outcomes = Vec::with_capacity(jobs.len());
    while outcomes.len() < jobs.len() {
        let rest = &mut jobs[outcomes.len()..];
        let count = rest.len().min(pass.images);
        let (error, message) = match through(&mut rest[..count], pass.memory) {
            Ok(done) => {
                outcomes.extend(done);
                continue;
            }
            Err(TaskError::Stopped) => {
                outcomes.extend((0..count).map(|_| Err(TaskError::Stopped)));
                continue;
            }
            Err(TaskError::Failed { class, message, .. }) => (class, message),
        };
        let failed = || TaskError::Failed { class: error, message: message.clone(), seconds: PhaseSeconds::default() };
        let tried = Pass { images: count, ..*pass };
        match (error, tried.smaller()) {
            (FailureClass::OutOfMemory, Some(smaller)) => {
                tracing::warn!("out of memory with {tried}; going on with {smaller}: {message}");
                *pass = smaller;
            }
            // Nothing that follows could be computed.
            (FailureClass::DeviceFault, _) => outcomes.extend(rest.iter().map(|_| Err(failed()))),
            _ if count == 1 => outcomes.push(Err(failed())),
            _ => {
                tracing::warn!(jobs = count, "a batch failed and is run again in halves: {message}");
                let (first, second) = rest[..count].split_at_mut(count / 2);
                for half in [first, second] {
                    outcomes.extend(run(pass, half, through));
                }
            }
        }
    }
    outcomes
}

#[cfg(test)]
#[path = "pass/tests.rs"]
mod tests;
