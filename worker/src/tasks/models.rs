//! The models that a worker holds in memory: verified against the job's digests, loaded once, shared by all slots.

use super::input::{self, unchanged, verify, verify_where};
use super::start::image_latents;
use super::{TaskError, class_of};
use crate::chain::chain;
use braindive::ErrorKind;
use braindive::encoder::{Encoder, Head};
use braindive::models::text::TextEncoder;
use braindive::models::tokenizer::{Dialect, Tokenizer};
use braindive::models::vit::VisionTransformer;
use braindive::probe::{Probe, PromptClass};
use braindive::sampler::{Diffusion, Footprint};
use braindive::{DType, Device, Error, Tensor};
use protocol::ids::{Digest, NotADigest};
use protocol::job::{Kind, Models, Precision, SampleCondition};
use protocol::outcome::{FailureClass, PhaseSeconds};
use protocol::probe::ProbeClass;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use subject::folder::FolderError;

/// Why a condition's models cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ShelfError {
    #[error("{path} is not there")]
    Missing { path: PathBuf },
    #[error(
        "{path} has changed since the experiment was submitted: its sha256 is {found}, expected {expected}; restore the file, or submit again"
    )]
    Changed { path: PathBuf, found: Digest, expected: Digest },
    #[error("cannot read {path}: {source}")]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{} is not there, though the job that makes it ({origin}) is done; was it moved or removed? Put it back, or make it again", path.display())]
    NotMade { path: PathBuf, origin: String },
    #[error(
        "{} was made by another job than was expected: its manifest says {found}, the experiment was submitted for {expected}; restore that \
         folder, or submit again",
        path.display()
    )]
    Origin { path: PathBuf, found: String, expected: String },
    #[error(
        "{} is made, but without a picture, which a job's result shows: the head of its encoder lacks `voxel_ijk`, or `voxels.nii.gz` does not lie \
         beside it; `worker fit --import HEAD` makes an encoder of the head that has both",
        path.display()
    )]
    NoPicture { path: PathBuf },
    #[error("the settings of the job are not those of this version")]
    Settings(#[source] serde_json::Error),
    #[error("this worker does no jobs of kind {0}")]
    Unable(Kind),
    #[error("a manifest names a file's sha256")]
    Digest(#[from] NotADigest),
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(transparent)]
    Load(#[from] braindive::Error),
}

impl ShelfError {
    /// How a job ends that meets it, after so many seconds.
    pub fn end(self, seconds: PhaseSeconds) -> TaskError {
        let class = match &self {
            Self::Load(error) if error.kind() == ErrorKind::Stopped => return TaskError::Stopped,
            Self::Changed { .. }
            | Self::Missing { .. }
            | Self::NotMade { .. }
            | Self::Origin { .. }
            | Self::NoPicture { .. } => FailureClass::BadInput,
            Self::Unreadable { .. } => FailureClass::Io,
            Self::Folder(error) if error.is_io() => FailureClass::Io,
            Self::Folder(_) | Self::Digest(_) => FailureClass::BadInput,
            Self::Settings(_) | Self::Unable(_) => FailureClass::Bug,
            Self::Load(error) => class_of(error),
        };
        TaskError::Failed { class, message: chain(&self), seconds }
    }
}

/// Everything that a condition computes with.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub diffusion: Arc<Diffusion>,
    pub prompt: PromptEmbeds,
    /// Latents of the image to start from, if there is one: `[1, 4, h, w]`.
    pub image_latents: Option<Tensor>,
    pub encoder: Arc<Encoder>,
    pub probe: Arc<Probe>,
}

/// The text encoder's last hidden states, each `[1, tokens, width]`.
#[derive(Debug, Clone)]
pub struct PromptEmbeds {
    pub prompt: Tensor,
    /// Of the empty prompt.
    pub null: Tensor,
}

impl PromptEmbeds {
    /// The text encoder is as large as the UNet is small: it is loaded for a prompt and dropped again.
    pub fn load(diffusion: &Path, prompt: &str, device: &Device) -> braindive::Result<Self> {
        let encoder = TextEncoder::load(diffusion, DType::F32, device)?;
        let null = encoder.prompt_embeds("")?;
        let prompt = if prompt.is_empty() { null.clone() } else { encoder.prompt_embeds(prompt)? };
        Ok(Self { prompt, null })
    }
}

/// One place for every large model: a worker serves one set at a time, and memory stays fixed. Of what is small, a batch's worth.
#[derive(Debug, Default)]
struct Places {
    diffusion: Place<(Digest, Precision), Arc<Diffusion>>,
    backbone: Place<Digest, Arc<VisionTransformer>>,
    probe: Place<(Digest, Digest, Vec<ProbeClass>), Arc<Probe>>,
    encoders: Recent<(Digest, String), Arc<Encoder>>,
    prompts: Recent<(Digest, String), PromptEmbeds>,
    images: Recent<[Digest; 2], Tensor>,
    footprints: Recent<(Digest, Precision, Digest), Footprint>,
}

impl Places {
    fn encoder(&mut self, models: &Models, device: &Device) -> Result<Arc<Encoder>, ShelfError> {
        let folder = &models.backbone.path;
        if self.backbone.as_ref().is_some_and(|(digest, _)| *digest != models.backbone.digest) {
            // They hold the backbone that is about to go.
            self.encoders = Recent::default();
        }
        let backbone = only(&mut self.backbone, models.backbone.digest.clone(), || {
            verify(&models.backbone)?;
            Ok::<_, ShelfError>(Arc::new(VisionTransformer::load(folder, DType::F32, device)?))
        })?;
        self.encoders.get(encoder_key(models), || {
            input::check(&models.encoder)?;
            let head = Head::load(models.encoder.path(), DType::F32, device)?;
            Ok(Arc::new(Encoder::new(backbone, folder, head)?))
        })
    }

    /// `check`: whether the tokenizer is as it was submitted, where nobody has looked yet.
    fn probe(
        &mut self,
        condition: &SampleCondition,
        device: &Device,
        check: impl FnOnce() -> Result<(), ShelfError>,
    ) -> Result<Arc<Probe>, ShelfError> {
        let models = &condition.models;
        only(&mut self.probe, probe_key(condition), || {
            check()?;
            verify(&models.probe)?;
            let probe = load_probe(&models.probe.path, &models.diffusion.path, &condition.probes, device)?;
            Ok(Arc::new(probe))
        })
    }
}

/// Room for one value and its key.
type Place<K, V> = Option<(K, V)>;

/// The values that were used last, by key.
#[derive(Debug)]
struct Recent<K, V>(Vec<(K, V)>);

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: PartialEq, V: Clone> Recent<K, V> {
    /// As many subjects, prompts or images as batches usually mix.
    const REMEMBERED: usize = 8;

    /// The value of `key`, or what `make` makes.
    fn get<E>(&mut self, key: K, make: impl FnOnce() -> Result<V, E>) -> Result<V, E> {
        let entry = match self.0.iter().position(|(known, _)| *known == key) {
            Some(i) => self.0.remove(i),
            None => (key, make()?),
        };
        let value = entry.1.clone();
        self.0.truncate(Self::REMEMBERED - 1);
        self.0.insert(0, entry);
        Ok(value)
    }

    fn holds(&self, key: &K) -> bool {
        self.0.iter().any(|(known, _)| known == key)
    }
}

/// The value in a place that has room for one; another one is dropped before `make` makes this one.
fn only<K: PartialEq, V: Clone, E>(
    place: &mut Place<K, V>,
    key: K,
    make: impl FnOnce() -> Result<V, E>,
) -> Result<V, E> {
    match place {
        Some((known, value)) if *known == key => Ok(value.clone()),
        _ => {
            *place = None;
            let value = make()?;
            *place = Some((key, value.clone()));
            Ok(value)
        }
    }
}

/// The precision that UNet and decoder compute in; everything between them is in f32.
pub fn dtype(precision: Precision) -> DType {
    match precision {
        Precision::Single => DType::F32,
        Precision::Half => DType::F16,
        Precision::Bfloat16 => DType::BF16,
    }
}

/// The models in memory.
#[derive(Debug)]
pub struct Shelf {
    device: Device,
    places: Mutex<Places>,
}

impl Shelf {
    pub fn new(device: Device) -> Self {
        Self { device, places: Mutex::default() }
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Whether the large models that the condition needs are in memory. Never waits: while models are being loaded, nothing is.
    pub fn holds(&self, condition: &SampleCondition) -> bool {
        let Ok(places) = self.places.try_lock() else { return false };
        let models = &condition.models;
        let diffusion = places.diffusion.as_ref().is_some_and(|(key, _)| *key == diffusion_key(condition));
        let probe = places.probe.as_ref().is_some_and(|(key, _)| *key == probe_key(condition));
        diffusion && probe && places.encoders.holds(&encoder_key(models))
    }

    /// Whether the models that score a condition's images are in memory.
    pub fn holds_judges(&self, condition: &SampleCondition) -> bool {
        let Ok(places) = self.places.try_lock() else { return false };
        places.probe.as_ref().is_some_and(|(key, _)| *key == probe_key(condition))
            && places.encoders.holds(&encoder_key(&condition.models))
    }

    /// The models that score a condition's images: no networks that make any.
    pub fn judges(&self, condition: &SampleCondition) -> Result<(Arc<Encoder>, Arc<Probe>), ShelfError> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let encoder = places.encoder(&condition.models, &self.device)?;
        let probe = places.probe(condition, &self.device, || {
            verify_where(&condition.models.diffusion, |name| name.starts_with("tokenizer/"))
        })?;
        Ok((encoder, probe))
    }

    /// The condition's models, from memory or from disk. Slots that ask at the same time wait for one load.
    pub fn get(&self, condition: &SampleCondition) -> Result<Loaded, ShelfError> {
        let (models, device) = (&condition.models, &self.device);
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let places = &mut *places;

        let diffusion = only(&mut places.diffusion, diffusion_key(condition), || {
            verify(&models.diffusion)?;
            let dtype = dtype(condition.sampling.precision);
            Ok::<_, ShelfError>(Arc::new(Diffusion::load(&models.diffusion.path, dtype, device)?))
        })?;
        let text = &condition.sampling.prompt;
        let prompt = places.prompts.get((models.diffusion.digest.clone(), text.clone()), || {
            PromptEmbeds::load(&models.diffusion.path, text, device)
        })?;
        let image_latents = match (&condition.sampling.start, &condition.init_image) {
            (Some(start), Some(path)) => {
                let key = [models.diffusion.digest.clone(), start.image.clone()];
                Some(places.images.get(key, || {
                    unchanged(path, &start.image)?;
                    Ok::<_, ShelfError>(image_latents(path, &models.diffusion.path, device)?)
                })?)
            }
            _ => None,
        };
        let encoder = places.encoder(models, device)?;
        let probe = places.probe(condition, device, || Ok(()))?;
        Ok(Loaded { diffusion, prompt, image_latents, encoder, probe })
    }

    /// What guidance with these models, which [`Shelf::get`] gave for the condition, takes in memory.
    pub fn footprint(&self, condition: &SampleCondition, models: &Loaded) -> Result<Footprint, Error> {
        let (diffusion, precision) = diffusion_key(condition);
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (diffusion, precision, condition.models.backbone.digest.clone());
        places.footprints.get(key, || Footprint::count(&models.diffusion, &models.encoder.backbone))
    }
}

/// Loads a probe with the text features of `classes`. CoCa's tokenizer is the diffusion model's.
pub fn load_probe(
    folder: &Path,
    diffusion: &Path,
    classes: &[ProbeClass],
    device: &Device,
) -> braindive::Result<Probe> {
    let classes: Vec<_> =
        classes.iter().map(|class| PromptClass { name: class.name.clone(), prompts: class.prompts.clone() }).collect();
    let tokenizer = Tokenizer::load(&diffusion.join("tokenizer"), Dialect::OpenClip)?;
    Probe::load(folder, &tokenizer, &classes, device)
}

fn diffusion_key(condition: &SampleCondition) -> (Digest, Precision) {
    (condition.models.diffusion.digest.clone(), condition.sampling.precision)
}

fn encoder_key(models: &Models) -> (Digest, String) {
    (models.backbone.digest.clone(), models.encoder.identity())
}

fn probe_key(condition: &SampleCondition) -> (Digest, Digest, Vec<ProbeClass>) {
    let models = &condition.models;
    (models.probe.digest.clone(), models.diffusion.digest.clone(), condition.probes.clone())
}

/// What results say of the models, by role.
pub fn digests(models: &Models) -> Result<BTreeMap<&'static str, Digest>, ShelfError> {
    Ok(BTreeMap::from([
        ("diffusion", models.diffusion.digest.clone()),
        ("backbone", models.backbone.digest.clone()),
        ("encoder", input::digest(&models.encoder)?),
        ("probe", models.probe.digest.clone()),
    ]))
}

/// sha256 of a file, read in pieces.
pub fn sha256(path: &Path) -> Result<Digest, ShelfError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => ShelfError::Missing { path: path.to_owned() },
        _ => ShelfError::Unreadable { path: path.to_owned(), source },
    };
    let mut file = File::open(path).map_err(failed)?;
    let mut hasher = Sha256::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        let length = file.read(&mut piece).map_err(failed)?;
        if length == 0 {
            return Ok(Digest::from_bytes(&hasher.finalize().into()));
        }
        hasher.update(&piece[..length]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_last_is_remembered_and_the_rest_forgotten() {
        let mut recent = Recent::<usize, usize>::default();
        let mut made = Vec::new();
        for key in [0, 1, 0, 2, 3, 4, 5, 6, 7, 8, 0, 1] {
            let value = recent.get(key, || {
                made.push(key);
                Ok::<_, ()>(10 * key)
            });
            assert_eq!(value, Ok(10 * key));
        }
        assert_eq!(made, [0, 1, 2, 3, 4, 5, 6, 7, 8, 1], "the ninth pushes the one out that was used longest ago");
        assert!(recent.holds(&8) && !recent.holds(&2));
        assert_eq!(recent.get(99, || Err("broken")), Err("broken"));
        assert!(recent.holds(&8) && !recent.holds(&99));
    }
}
