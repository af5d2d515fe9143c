//! The models that a worker holds in memory: verified against the job's digests, loaded once, shared by all slots.

use super::objective::unchanged;
use super::start::image_latents;
use braindive::encoder::Encoder;
use braindive::models::text::TextEncoder;
use braindive::models::tokenizer::{Dialect, Tokenizer};
use braindive::probe::{Probe, PromptClass};
use braindive::sampler::Diffusion;
use braindive::{DType, Device, Tensor};
use protocol::ids::Digest;
use protocol::job::{ModelFolder, Models, SampleCondition};
use protocol::probe::ProbeClass;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

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
    #[error(transparent)]
    Load(#[from] braindive::Error),
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

/// One place per role: a worker serves one set of models at a time, and memory stays fixed.
#[derive(Debug, Default)]
struct Places {
    diffusion: Option<(Digest, Arc<Diffusion>)>,
    prompt: Option<(Digest, String, PromptEmbeds)>,
    image: Option<([Digest; 2], Tensor)>,
    encoder: Option<([Digest; 2], Arc<Encoder>)>,
    probe: Option<([Digest; 2], Vec<ProbeClass>, Arc<Probe>)>,
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

    /// Whether everything that the condition needs is in memory. Never waits: while models are being loaded, nothing is.
    pub fn holds(&self, models: &Models) -> bool {
        let Ok(places) = self.places.try_lock() else { return false };
        let diffusion = places.diffusion.as_ref().is_some_and(|(digest, _)| *digest == models.diffusion.digest);
        let encoder = places.encoder.as_ref().is_some_and(|(digests, _)| *digests == encoder_key(models));
        let probe = places.probe.as_ref().is_some_and(|(digests, ..)| *digests == probe_key(models));
        diffusion && encoder && probe
    }

    /// The condition's models, from memory or from disk. Slots that ask at the same time wait for one load.
    pub fn get(&self, condition: &SampleCondition) -> Result<Loaded, ShelfError> {
        let models = &condition.models;
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);

        let diffusion = match &places.diffusion {
            Some((digest, diffusion)) if *digest == models.diffusion.digest => diffusion.clone(),
            _ => {
                places.diffusion = None;
                verify(&models.diffusion)?;
                let diffusion = Arc::new(Diffusion::load(&models.diffusion.path, DType::F32, &self.device)?);
                places.diffusion = Some((models.diffusion.digest.clone(), diffusion.clone()));
                diffusion
            }
        };
        let text = &condition.sampling.prompt;
        let prompt = match &places.prompt {
            Some((digest, known, embeds)) if *digest == models.diffusion.digest && known == text => embeds.clone(),
            _ => {
                let embeds = PromptEmbeds::load(&models.diffusion.path, text, &self.device)?;
                places.prompt = Some((models.diffusion.digest.clone(), text.clone(), embeds.clone()));
                embeds
            }
        };
        let image_latents = self.image_latents(condition, &mut places.image)?;
        let encoder = match &places.encoder {
            Some((digests, encoder)) if *digests == encoder_key(models) => encoder.clone(),
            _ => {
                places.encoder = None;
                verify(&models.backbone)?;
                verify(&models.encoder)?;
                let encoder = Encoder::load(&models.backbone.path, &models.encoder.path, DType::F32, &self.device)?;
                let encoder = Arc::new(encoder);
                places.encoder = Some((encoder_key(models), encoder.clone()));
                encoder
            }
        };
        let probe = match &places.probe {
            Some((digests, classes, probe)) if *digests == probe_key(models) && *classes == condition.probes => {
                probe.clone()
            }
            _ => {
                places.probe = None;
                verify(&models.probe)?;
                let probe = load_probe(&models.probe.path, &models.diffusion.path, &condition.probes, &self.device)?;
                let probe = Arc::new(probe);
                places.probe = Some((probe_key(models), condition.probes.clone(), probe.clone()));
                probe
            }
        };
        Ok(Loaded { diffusion, prompt, image_latents, encoder, probe })
    }

    /// The latents of the image that the condition starts from, if it does.
    fn image_latents(
        &self,
        condition: &SampleCondition,
        place: &mut Option<([Digest; 2], Tensor)>,
    ) -> Result<Option<Tensor>, ShelfError> {
        let (Some(start), Some(path)) = (&condition.sampling.start, &condition.init_image) else { return Ok(None) };
        let diffusion = &condition.models.diffusion;
        let key = [diffusion.digest.clone(), start.image.clone()];
        if let Some((known, latents)) = place
            && *known == key
        {
            return Ok(Some(latents.clone()));
        }
        unchanged(path, &start.image)?;
        let latents = image_latents(path, &diffusion.path, &self.device)?;
        *place = Some((key, latents.clone()));
        Ok(Some(latents))
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

fn encoder_key(models: &Models) -> [Digest; 2] {
    [models.backbone.digest.clone(), models.encoder.digest.clone()]
}

fn probe_key(models: &Models) -> [Digest; 2] {
    [models.probe.digest.clone(), models.diffusion.digest.clone()]
}

/// Checks every file of a folder against the digest that the experiment was submitted with.
fn verify(folder: &ModelFolder) -> Result<(), ShelfError> {
    for file in &folder.files {
        let path = folder.path.join(&file.name);
        let found = sha256(&path)?;
        if found != file.sha256 {
            return Err(ShelfError::Changed { path, found, expected: file.sha256.clone() });
        }
    }
    Ok(())
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
    use protocol::job::ModelFile;

    fn folder(path: &Path, sha256: Digest) -> ModelFolder {
        let files = vec![ModelFile { name: "weights".into(), bytes: 3, sha256: sha256.clone() }];
        ModelFolder { path: path.to_owned(), digest: sha256, files }
    }

    #[test]
    fn a_file_that_changed_or_vanished_since_the_submit_is_named() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("weights");
        std::fs::write(&path, "abc").unwrap();
        let submitted = folder(place.path(), sha256(&path).unwrap());
        assert!(verify(&submitted).is_ok());
        std::fs::write(&path, "abd").unwrap();
        assert!(matches!(verify(&submitted), Err(ShelfError::Changed { path: named, .. }) if named == path));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(verify(&submitted), Err(ShelfError::Missing { path: named }) if named == path));
    }
}
