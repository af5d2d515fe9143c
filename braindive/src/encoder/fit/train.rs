//! From features and betas to a head, epoch by epoch or in closed form.

use super::adamw::{Epoch, Training};
use super::features::Pass;
use super::progress::Progress;
use super::resume::State;
use super::settings::{Features, Method, Settings};
use super::{BATCH, FitError, LinearMap, Open, Report, betas, pytorch, ridge};
use crate::error::{Error, Result};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use subject::folder::FileRecord;

/// A save is followed by this many times its own time of work: it costs a fit 2 %, and a crash the work of that time.
const WORK_PER_SAVE: u32 = 50;

const TRAINING: &str = ".training";

/// A head, and what is to be said about how it was found.
#[derive(Debug, Default)]
pub struct Found {
    pub width: usize,
    /// [voxels, K]
    pub weight: Vec<f32>,
    /// [voxels]
    pub bias: Vec<f32>,
    /// A line each: epoch, learning rate, loss.
    pub metrics: Vec<serde_json::Value>,
    pub summary: BTreeMap<String, f64>,
    /// Beside data and backbone.
    pub inputs: Vec<FileRecord>,
    /// Ids of the images that it was fitted without, if they are known.
    pub held_out: Option<Vec<i64>>,
    /// Of the job's progress.
    pub done: u64,
    pub total: u64,
}

impl Found {
    pub fn map(&self) -> LinearMap<'_> {
        LinearMap { width: self.width, weight: &self.weight, bias: &self.bias }
    }
}

/// A fit under way.
struct Fit<'a> {
    open: &'a Open<'a>,
    settings: &'a Settings,
    /// Where its state lies.
    draft: &'a Path,
    /// Numbers of the images that the head is fitted to, and their betas.
    images: Vec<usize>,
    betas: Vec<f32>,
}

pub fn find(open: &Open<'_>, settings: &Settings, draft: &Path, report: Report<'_>) -> Result<Found> {
    let images = open.data.train();
    let betas = betas(&open.data, &images)?;
    let (seen, test) = (images.len() as u64, open.data.test().len() as u64);
    let rounds = match settings.head {
        Method::Adamw => settings.passes() + settings.epochs,
        Method::Ridge => 1 + settings.folds,
    };
    let mut progress = Progress { done: 0, total: rounds as u64 * seen + test, report };
    let fit = Fit { open, settings, draft, images, betas };
    let found = match settings.head {
        Method::Adamw => fit.adamw(&mut progress),
        Method::Ridge => fit.ridge(&mut progress),
    }?;
    let held_out = Some(open.data.held_out());
    Ok(Found { held_out, done: progress.done, total: progress.total, ..found })
}

impl Fit<'_> {
    fn adamw(&self, progress: &mut Progress<'_>) -> Result<Found> {
        let (width, voxels) = (self.open.tower.config.features, self.open.data.voxels());
        let Settings { seed, init_scale, .. } = *self.settings;
        let path = self.draft.join(TRAINING);
        let mut state = match State::read(&path, voxels, width)? {
            Some(state) => state,
            None => {
                let [weight, bias] = pytorch::linear(width, voxels, seed as u32, init_scale as f32);
                State { training: Training::new(width, weight, bias), losses: Vec::new() }
            }
        };
        let ended = self.epochs(&mut state, progress);
        if matches!(ended, Ok(()) | Err(Error::Fit(FitError::Stopped { .. }))) {
            self.save(&state)?;
        }
        ended?;
        let metric = |(epoch, loss): (usize, &f64)| {
            let learning_rate = self.settings.learning_rate_of(epoch);
            serde_json::json!({ "epoch": epoch, "learning_rate": learning_rate, "loss": loss })
        };
        let mut summary = self.images_summary();
        summary.insert("epochs".to_owned(), state.losses.len() as f64);
        summary.extend(state.losses.last().map(|&loss| ("last_loss".to_owned(), loss)));
        Ok(Found {
            width,
            metrics: (1..).zip(&state.losses).map(metric).collect(),
            weight: state.training.weight.value,
            bias: state.training.bias.value,
            summary,
            ..Found::default()
        })
    }

    /// Trains from where `state` stands to the last epoch.
    fn epochs(&self, state: &mut State, progress: &mut Progress<'_>) -> Result<()> {
        let (settings, count) = (self.settings, self.images.len());
        let first = state.losses.len() + 1;
        let exact = settings.features == Features::Exact;
        progress.add((first - 1) * count * if exact { 2 } else { 1 })?;
        let mut copies: HashMap<usize, Arc<Vec<f32>>> = HashMap::new();
        let (mut saved, mut saving) = (Instant::now(), Duration::ZERO);
        for epoch in first..=settings.epochs {
            let pass = settings.pass_of(epoch);
            let copy = match copies.get(&pass) {
                Some(copy) => Arc::clone(copy),
                None => Arc::new(self.pass(pass, progress)?),
            };
            let order = self.order(epoch);
            let loss = state.training.epoch(&Epoch {
                features: &reordered(&copy, &self.order(pass), &order),
                betas: &self.betas,
                order: &order,
                batch: settings.batch,
                learning_rate: settings.learning_rate_of(epoch),
                weight_decay: settings.weight_decay,
            });
            if !loss.is_finite() {
                return Err(FitError::Diverged { epoch, loss }.into());
            }
            state.losses.push(loss);
            if !exact {
                copies.insert(pass, copy);
            }
            progress.add(count)?;
            if saved.elapsed() >= WORK_PER_SAVE * saving {
                let begun = Instant::now();
                self.save(state)?;
                (saved, saving) = (Instant::now(), begun.elapsed());
            }
        }
        Ok(())
    }

    /// The order of the images in epoch or pass `number`, from 1.
    fn order(&self, number: usize) -> Vec<usize> {
        pytorch::shuffled(self.images.len(), (self.settings.seed + number as u64) as u32)
    }

    /// Features of pass `number`, from 1, in its own order: shuffled as the epoch of this number, so that an exact epoch sees the batches
    /// that were shifted together.
    fn pass(&self, number: usize, progress: &mut Progress<'_>) -> Result<Vec<f32>> {
        let images: Vec<usize> = self.order(number).into_iter().map(|row| self.images[row]).collect();
        let pass = Pass {
            data: &self.open.data,
            backbone: self.open.backbone(),
            images: &images,
            batch: self.settings.batch,
            augmented: Some((self.settings, number)),
        };
        pass.features(&self.features_path(number), progress)
    }

    fn features_path(&self, pass: usize) -> std::path::PathBuf {
        self.draft.join(format!(".features-{pass}"))
    }

    /// Keeps what has been trained, and lets go of features that no later epoch sees.
    fn save(&self, state: &State) -> Result<()> {
        state.write(&self.draft.join(TRAINING))?;
        if self.settings.features == Features::Exact {
            for path in (1..=state.losses.len()).map(|pass| self.features_path(pass)).filter(|path| path.exists()) {
                std::fs::remove_file(&path).map_err(|source| Error::Write { path, source })?;
            }
        }
        Ok(())
    }

    fn ridge(&self, progress: &mut Progress<'_>) -> Result<Found> {
        let (count, settings) = (self.images.len(), self.settings);
        if count <= settings.folds {
            let (data, held_out) = (self.open.data.folder().to_owned(), self.open.data.test().len());
            return Err(FitError::TooFewImages { data, images: count, held_out, least: settings.folds + 1 }.into());
        }
        let pass = Pass {
            data: &self.open.data,
            backbone: self.open.backbone(),
            images: &self.images,
            batch: BATCH,
            augmented: None,
        };
        let features = pass.features(&self.draft.join(".features-0"), progress)?;
        let width = self.open.tower.config.features;
        let found = ridge::ridge(&features, width, &self.betas, settings, || progress.add(count))?;
        let mut summary = self.images_summary();
        let mut lambda = found.lambda;
        lambda.sort_unstable_by(f64::total_cmp);
        summary.extend(lambda.get(lambda.len() / 2).map(|&median| ("median_lambda".to_owned(), median)));
        Ok(Found { width, weight: found.weight, bias: found.bias, summary, ..Found::default() })
    }

    fn images_summary(&self) -> BTreeMap<String, f64> {
        BTreeMap::from([("train_images".to_owned(), self.images.len() as f64)])
    }
}

/// Rows of `features`, which lie in the order `from`, in the order `to`.
fn reordered(features: &[f32], from: &[usize], to: &[usize]) -> Vec<f32> {
    let width = features.len() / from.len();
    let mut place = vec![0; from.len()];
    from.iter().enumerate().for_each(|(at, &row)| place[row] = at);
    to.iter().flat_map(|&row| &features[place[row] * width..][..width]).copied().collect()
}
