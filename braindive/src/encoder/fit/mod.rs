//! Fitting a subject's voxel head to its prepared data (Luo et al. 2023, section 3.2), and taking over one that was fitted elsewhere.

mod adamw;
mod augment;
mod error;
mod features;
mod output;
mod progress;
mod pytorch;
mod resume;
mod ridge;
mod settings;
mod train;

pub use adamw::{Epoch, Learned, Training};
pub use error::{FitError, Judged};
pub use features::{Backbone, Pass};
pub use output::{HEAD, METRICS, PICTURE};
pub use progress::Progress;
pub use ridge::{Ridge, ridge};
pub use settings::{Features, Method, Settings};

use super::Head;
use super::evaluate::{ALL, Evaluation, VoxelScores, evaluate};
use crate::error::{Error, Result};
use crate::models::vit::VisionTransformer;
use candle_core::{DType, Device};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::Path;
use subject::dataset::Dataset;
use subject::folder::{Draft, FileRecord, Manifest, Opened, Provenance};
use train::Found;

/// What made a folder.
pub const SOFTWARE: &str = concat!("braindive ", env!("CARGO_PKG_VERSION"));

/// Images that go through the backbone together where no setting says so.
const BATCH: usize = 64;

/// Where a job reads and writes.
#[derive(Debug, Clone, Copy)]
pub struct Job<'a> {
    /// The subject's prepared data.
    pub data: &'a Path,
    /// Folder of the frozen image tower.
    pub backbone: &'a Path,
    /// The folder that is made.
    pub out: &'a Path,
    /// What decides its content; a try at the same identity goes on where the last one ended.
    pub identity: &'a str,
    pub device: &'a Device,
}

/// A linear map from features to voxels.
#[derive(Debug, Clone, Copy)]
pub struct LinearMap<'a> {
    /// Features, K.
    pub width: usize,
    /// [voxels, K]
    pub weight: &'a [f32],
    /// [voxels]
    pub bias: &'a [f32],
}

/// Called with the images that are done and all of them; the job ends where it says so, and the next try goes on there.
pub type Report<'a> = &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>;

/// Fits a head and evaluates it on the held-out images: makes the encoder's folder.
///
/// # Errors
/// Data or backbone are missing or broken or have changed since they were made, a setting makes no fit, the loss diverges, the disk
/// fails, or [`FitError::Stopped`].
pub fn fit(job: &Job<'_>, settings: &Settings, report: Report<'_>) -> Result<Manifest> {
    settings.check()?;
    let draft = match Draft::open(job.out, job.identity)? {
        Opened::Done(manifest) => return Ok(manifest),
        Opened::Draft(draft) => draft,
    };
    let opened = job.open()?;
    let found = train::find(&opened, settings, draft.path(), report)?;
    let settings_json = to_json(settings, job.out)?;
    opened.publish(draft, "fit", settings_json, found, report)
}

/// Takes over a head that was fitted elsewhere: `head` is a file or folder that [`Head::load`] reads, such as a checkpoint of the
/// authors' trainer. Its rows have to be the voxels of `job.data`, in that order. Makes the same folder as [`fit`].
///
/// # Errors
/// As [`fit`]; or the head is of other voxels.
pub fn import(job: &Job<'_>, head: &Path, report: Report<'_>) -> Result<Manifest> {
    let draft = match Draft::open(job.out, job.identity)? {
        Opened::Done(manifest) => return Ok(manifest),
        Opened::Draft(draft) => draft,
    };
    let opened = job.open()?;
    let (found, record) = opened.head(head)?;
    let settings = serde_json::json!({ "import": record.name });
    let found = Found { inputs: vec![record], total: opened.data.test().len() as u64, ..found };
    opened.publish(draft, "fit", settings, found, report)
}

/// Evaluates the encoder `head` on the held-out images of `job.data`: makes a folder with the scores alone.
///
/// # Errors
/// As [`import`].
pub fn evaluate_head(job: &Job<'_>, head: &Path, report: Report<'_>) -> Result<Manifest> {
    let draft = match Draft::open(job.out, job.identity)? {
        Opened::Done(manifest) => return Ok(manifest),
        Opened::Draft(draft) => draft,
    };
    let opened = job.open()?;
    let (found, record) = opened.head(head)?;
    let mut progress = Progress { done: 0, total: opened.data.test().len() as u64, report };
    let (evaluation, scores) = opened.evaluate(draft.path(), found.map(), &record.sha256, &mut progress)?;
    output::write_scores(draft.path(), &opened.data, &evaluation, &scores)?;
    let settings = serde_json::json!({ "encoder": record.name });
    let found = Found { inputs: vec![record], ..found };
    let provenance = opened.provenance("evaluate", settings, &found, summary(&evaluation));
    Ok(draft.publish(provenance)?)
}

/// The identity of a job by hand: sha256 of what it is asked to do and of the files that it reads.
///
/// # Errors
/// A file can't be read.
pub fn identity(data: &Path, backbone: &Path, asked: &serde_json::Value) -> Result<String> {
    let data = Manifest::read(data)?;
    let mut hash = Sha256::new();
    hash.update(asked.to_string());
    for file in data.files.iter().chain(&backbone_files(backbone)?) {
        hash.update(format!("{}  {}\n", file.sha256, file.name));
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Betas of some images, [images, voxels].
///
/// # Errors
/// One of them is not finite.
pub fn betas(data: &Dataset, images: &[usize]) -> Result<Vec<f32>, FitError> {
    let voxels = data.voxels();
    let mut betas = vec![0.0; images.len() * voxels];
    for (betas, &image) in betas.chunks_mut(voxels).zip(images) {
        data.betas(image, betas);
        if let Some(voxel) = betas.iter().position(|beta| !beta.is_finite()) {
            let (image, found) = (data.image_ids()[image], betas[voxel]);
            return Err(FitError::NonFiniteBeta { data: data.folder().to_owned(), image, voxel, found });
        }
    }
    Ok(betas)
}

/// What a job reads, opened and verified.
struct Open<'a> {
    job: Job<'a>,
    data: Dataset,
    tower: VisionTransformer,
    /// Of the data and of the backbone.
    inputs: Vec<FileRecord>,
    /// The backbone's weights.
    backbone: Vec<FileRecord>,
}

impl<'a> Job<'a> {
    fn open(&self) -> Result<Open<'a>> {
        let data = Dataset::open(self.data)?;
        data.manifest().verify(self.data)?;
        let (images, held_out) = (data.train().len(), data.test().len());
        if images == 0 || held_out < 2 {
            return Err(FitError::TooFewImages { data: self.data.to_owned(), images, held_out, least: 1 }.into());
        }
        let tower = VisionTransformer::load(self.backbone, DType::F32, self.device)?;
        let backbone = backbone_files(self.backbone)?;
        let below =
            |folder: &str, file: &FileRecord| FileRecord { name: format!("{folder}/{}", file.name), ..file.clone() };
        let inputs = data.manifest().files.iter().map(|file| below("data", file));
        let inputs = inputs.chain(backbone.iter().map(|file| below("backbone", file))).collect();
        Ok(Open { job: *self, data, tower, inputs, backbone })
    }
}

impl Open<'_> {
    fn backbone(&self) -> Backbone<'_> {
        Backbone { tower: &self.tower, folder: self.job.backbone, device: self.job.device }
    }

    /// A head that is there already, if it is one of the data's voxels.
    fn head(&self, path: &Path) -> Result<(Found, FileRecord)> {
        let head = Head::load(path, DType::F32, &Device::Cpu)?;
        let other = |found: String, expected: String| FitError::OtherVoxels {
            head: head.path().to_owned(),
            data: self.job.data.to_owned(),
            found,
            expected,
        };
        if head.voxels() != self.data.voxels() {
            let [found, expected] = [head.voxels(), self.data.voxels()].map(|voxels| format!("{voxels} voxels"));
            return Err(other(found, expected).into());
        }
        if let Some(places) = head.voxel_ijk() {
            let expected = self.data.voxel_ijk();
            let differs = |row: &usize| places[*row].map(|index| index as i64) != expected[*row];
            if let Some(row) = (0..places.len()).find(differs) {
                let found = format!("voxel {:?} in row {row}", places[row]);
                return Err(other(found, format!("voxel {:?} there", expected[row])).into());
            }
        }
        head.check_fits(&self.tower.config, self.job.backbone)?;
        self.check_unseen(&head)?;
        let name = head.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let record = FileRecord::of(head.path(), &name)?;
        let weight = head.weight().flatten_all()?.to_vec1()?;
        let bias = head.bias().to_vec1()?;
        let held_out = head.held_out().map(<[i64]>::to_vec);
        Ok((Found { width: head.features(), weight, bias, held_out, ..Found::default() }, record))
    }

    /// A head that says what it was fitted without is judged on such images alone.
    fn check_unseen(&self, head: &Head) -> Result<(), FitError> {
        let Some(held_out) = head.held_out() else { return Ok(()) };
        let held_out: BTreeSet<i64> = held_out.iter().copied().collect();
        let judged = self.data.held_out();
        let unknown: Vec<i64> = judged.iter().copied().filter(|id| !held_out.contains(id)).collect();
        match unknown.first() {
            None => Ok(()),
            Some(&example) => Err(FitError::FittedTo {
                head: head.path().to_owned(),
                data: self.job.data.to_owned(),
                held_out: judged.len(),
                unknown: unknown.len(),
                example,
            }),
        }
    }

    fn evaluate(
        &self,
        draft: &Path,
        map: LinearMap<'_>,
        encoder_sha256: &str,
        progress: &mut Progress<'_>,
    ) -> Result<(Evaluation, VoxelScores)> {
        let cache = draft.join(".features-test");
        evaluate(&self.data, self.backbone(), map, encoder_sha256, &cache, BATCH, progress)
    }

    /// Writes a head with all that belongs to it, evaluates it, and makes the folder.
    fn publish(
        &self,
        draft: Draft,
        kind: &str,
        settings: serde_json::Value,
        mut found: Found,
        report: Report<'_>,
    ) -> Result<Manifest> {
        output::write_head(draft.path(), &self.data, &self.tower.config, &found, &self.backbone)?;
        let sha256 = FileRecord::of(&draft.path().join(HEAD), HEAD)?.sha256;
        let mut progress = Progress { done: found.done, total: found.total, report };
        let (evaluation, scores) = self.evaluate(draft.path(), found.map(), &sha256, &mut progress)?;
        output::write_scores(draft.path(), &self.data, &evaluation, &scores)?;
        let mut numbers = summary(&evaluation);
        numbers.append(&mut found.summary);
        Ok(draft.publish(self.provenance(kind, settings, &found, numbers))?)
    }

    fn provenance(
        &self,
        kind: &str,
        settings: serde_json::Value,
        found: &Found,
        summary: BTreeMap<String, f64>,
    ) -> Provenance {
        Provenance {
            kind: kind.to_owned(),
            subject: self.data.manifest().subject.clone(),
            settings,
            inputs: self.inputs.iter().chain(&found.inputs).cloned().collect(),
            summary,
            software: SOFTWARE.to_owned(),
        }
    }
}

/// Numbers for people.
fn summary(evaluation: &Evaluation) -> BTreeMap<String, f64> {
    let mut numbers = BTreeMap::from([("test_images".to_owned(), evaluation.images as f64)]);
    let Some(all) = evaluation.regions.get(ALL) else { return numbers };
    numbers.insert("voxels".to_owned(), all.voxels as f64);
    for (name, summary) in [("r2", &all.r2), ("r", &all.r), ("normalised_r2", &all.normalised_r2)] {
        if let Some(summary) = summary {
            numbers.insert(format!("mean_{name}"), summary.mean);
            numbers.insert(format!("median_{name}"), summary.median);
        }
    }
    numbers
}

/// Configuration and weights of the image tower in `folder`.
fn backbone_files(folder: &Path) -> Result<Vec<FileRecord>> {
    let backbone = checkpoint::Backbone::find(folder)?;
    let weights = backbone.layout.names().open(folder)?;
    let record = |path: &Path| FileRecord::of(path, &path.file_name().unwrap_or_default().to_string_lossy());
    let files = [backbone.config.as_path()].into_iter().chain(weights.files());
    Ok(files.map(record).collect::<Result<_, _>>()?)
}

fn to_json(settings: &Settings, path: &Path) -> Result<serde_json::Value> {
    serde_json::to_value(settings).map_err(|source| Error::Config { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
