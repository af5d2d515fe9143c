//! Jobs that make folders: what they read is compared with what was expected, the science core makes the folder or goes on making it, and
//! the result names all that went in and came out.

use super::input::{check, content, digest, origin, unchanged, verify};
use super::models::ShelfError;
use super::sample::timed;
use super::{Computed, Product, TaskError, Work};
use crate::control::Control;
use braindive::cluster::{self, Region};
use braindive::encoder::fit;
use braindive::{Device, Error};
use protocol::ids::{Digest, NotADigest};
use protocol::job::{ClusterCondition, Condition, FitCondition, ModelFile, Origin, PrepareCondition};
use protocol::outcome::{FolderResult, JobResult, PhaseSeconds};
use protocol::version::SOFTWARE;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;
use subject::folder::Manifest;
use subject::nsd::{Subject, prepare};

/// How often to look whether a folder that another process makes is there.
const LOOK: Duration = Duration::from_secs(1);

/// sha256 of what was read, by role.
type Inputs = BTreeMap<String, Digest>;

/// Runs one job; `name`: as results name the device.
pub fn run(device: &Device, name: &str, work: &Work) -> Result<Computed, TaskError> {
    let mut seconds = PhaseSeconds::default();
    let Some(out) = work.condition.out(work.job.seed) else {
        return Err(ShelfError::Unable(work.condition.kind()).end(seconds));
    };
    let checked = timed(&mut seconds.loading, || inputs(&work.condition));
    let inputs = checked.map_err(|error| error.end(seconds))?;
    let made = timed(&mut seconds.sampling, || {
        alone(&work.control, &out, || match &*work.condition {
            Condition::Prepare(condition) => prepare(condition, work, &out),
            Condition::Fit(condition) => fit(condition, work, &out, device),
            Condition::Cluster(condition) => cluster(condition, work, &out),
            _ => Err(ShelfError::Unable(work.condition.kind())),
        })
    });
    let manifest = made.map_err(|error| error.end(seconds))?;
    let (condition, name) = (work.condition.clone(), name.to_owned());
    let finish = move || product(&condition, out, manifest, inputs, &name, seconds).map_err(|error| error.end(seconds));
    Ok(Computed::new(seconds, finish))
}

/// What the condition reads, which must be what was expected.
fn inputs(condition: &Condition) -> Result<Inputs, ShelfError> {
    let mut inputs = Inputs::new();
    match condition {
        Condition::Prepare(condition) => {
            let PrepareCondition { settings, files, .. } = &**condition;
            for (setting, digest) in files {
                let path = if setting == "split" { Some(Path::new(&settings.split)) } else { settings.food.as_deref() };
                unchanged(path.unwrap_or(Path::new("")), digest)?;
                inputs.insert(setting.clone(), digest.clone());
            }
        }
        Condition::Fit(condition) => {
            // Its files are compared with its manifest when they are read.
            origin(&condition.data)?;
            verify(&condition.backbone)?;
            inputs.insert("data".to_owned(), digest(&condition.data)?);
            inputs.insert("backbone".to_owned(), condition.backbone.digest.clone());
        }
        Condition::Cluster(condition) => {
            check(&condition.encoder)?;
            inputs.insert("encoder".to_owned(), digest(&condition.encoder)?);
        }
        _ => {}
    }
    Ok(inputs)
}

fn prepare(condition: &PrepareCondition, work: &Work, out: &Path) -> Result<Manifest, ShelfError> {
    let settings: prepare::Settings = settings(&condition.settings, None)?;
    let subject: Subject = condition.subject.parse().map_err(Error::from)?;
    let progress = &mut |done, total| report(&work.control, done, total);
    Ok(prepare::run(subject, &settings, out, &identity(work), SOFTWARE, progress).map_err(Error::from)?)
}

fn fit(condition: &FitCondition, work: &Work, out: &Path, device: &Device) -> Result<Manifest, ShelfError> {
    let settings: fit::Settings = settings(&condition.settings, Some(work.job.seed.0))?;
    let identity = identity(work);
    let job =
        fit::Job { data: condition.data.path(), backbone: &condition.backbone.path, out, identity: &identity, device };
    Ok(fit::fit(&job, &settings, &mut |done, total| report(&work.control, done, total))?)
}

fn cluster(condition: &ClusterCondition, work: &Work, out: &Path) -> Result<Manifest, ShelfError> {
    let settings: cluster::Settings = settings(&condition.settings, Some(work.job.seed.0))?;
    let (region, identity) = (Region::from(condition.region.clone()), identity(work));
    let job = cluster::Job { encoder: condition.encoder.path(), region: &region, out, identity: &identity };
    Ok(cluster::run(&job, &settings, &mut |done, total| report(&work.control, done, total))?.manifest)
}

/// What the folder is known by.
fn identity(work: &Work) -> String {
    Origin { condition: work.key.clone(), seed: work.job.seed }.to_string()
}

/// Settings as the science core has them, which are those of the protocol by name; there the seed is one of them.
fn settings<T: DeserializeOwned>(settings: &impl Serialize, seed: Option<u64>) -> Result<T, ShelfError> {
    let mut written = serde_json::to_value(settings).map_err(ShelfError::Settings)?;
    if let Some(seed) = seed {
        written["seed"] = seed.into();
    }
    serde_json::from_value(written).map_err(ShelfError::Settings)
}

/// Tells how far the work is, as steps; breaks when it should end.
fn report(control: &Control, done: u64, total: u64) -> ControlFlow<()> {
    let excess = u64::BITS - total.leading_zeros();
    let shift = excess.saturating_sub(u32::BITS);
    control.report((done >> shift) as u32, (total >> shift) as u32);
    if control.is_stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// Waits while another process makes the folder: a worker that lost the job and does not know yet, or a command by hand. What it leaves
/// is found, finished or not.
fn alone(
    control: &Control,
    out: &Path,
    mut make: impl FnMut() -> Result<Manifest, ShelfError>,
) -> Result<Manifest, ShelfError> {
    let mut told = false;
    loop {
        match make() {
            Err(error) if in_use(&error) && !control.is_stopped() => {
                if !told {
                    tracing::warn!("{} is being made by another process; waiting for it", out.display());
                    told = true;
                }
                std::thread::sleep(LOOK);
            }
            made => return made,
        }
    }
}

fn in_use(error: &ShelfError) -> bool {
    matches!(error, ShelfError::Load(Error::Subject(error)) if error.is_in_use())
}

fn product(
    condition: &Condition,
    out: PathBuf,
    manifest: Manifest,
    inputs: Inputs,
    device: &str,
    seconds: PhaseSeconds,
) -> Result<Product, ShelfError> {
    let png = picture(&manifest, &out)?;
    tracing::info!(digest = %content(&manifest), "{} of {} is in {}", manifest.kind, manifest.subject, out.display());
    let file = |file: subject::folder::FileRecord| -> Result<ModelFile, NotADigest> {
        Ok(ModelFile { name: file.name, bytes: file.bytes, sha256: file.sha256.parse()? })
    };
    let result = Box::new(FolderResult {
        image_sha256: Digest::from_bytes(&Sha256::digest(&png).into()),
        files: manifest.files.into_iter().map(file).collect::<Result<_, _>>()?,
        out,
        inputs,
        summary: manifest.summary,
        seconds,
        device: device.to_owned(),
        software: SOFTWARE.to_owned(),
    });
    let result = match condition {
        Condition::Prepare(_) => JobResult::Prepare(result),
        Condition::Fit(_) => JobResult::Fit(result),
        _ => JobResult::Cluster(result),
    };
    Ok(Product { png: Some(png), result })
}

/// The picture of a folder that was made.
fn picture(manifest: &Manifest, out: &Path) -> Result<Vec<u8>, ShelfError> {
    let picture = manifest.files.iter().find(|file| file.name.ends_with(".png"));
    let path = out.join(&picture.ok_or_else(|| ShelfError::NoPicture { path: out.to_owned() })?.name);
    std::fs::read(&path).map_err(|source| ShelfError::Unreadable { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::job::{ClusterSettings, FitSettings, PrepareSettings};
    use subject::folder::{Draft, Opened, Provenance};

    #[test]
    fn settings_and_their_defaults_are_those_of_the_science_core() {
        let fit: fit::Settings = settings(&FitSettings::default(), Some(0)).unwrap();
        assert_eq!(fit, fit::Settings::default());
        let fit: fit::Settings =
            settings(&FitSettings { epochs: 7, ..FitSettings::default() }, Some(u64::MAX)).unwrap();
        assert_eq!((fit.epochs, fit.seed), (7, u64::MAX));
        let prepare: prepare::Settings = settings(&PrepareSettings::default(), None).unwrap();
        assert_eq!(prepare, prepare::Settings::default());
        let cluster: cluster::Settings = settings(&ClusterSettings::default(), Some(0)).unwrap();
        assert_eq!(cluster, cluster::Settings::default());
    }

    #[test]
    fn a_folder_without_a_picture_says_what_its_encoder_lacks() {
        let place = tempfile::tempdir().unwrap();
        let made = |files: &[&str]| {
            let out = place.path().join(files.join("+"));
            let Ok(Opened::Draft(draft)) = Draft::open(&out, "a") else { panic!("nothing is there") };
            files.iter().for_each(|file| std::fs::write(draft.path().join(file), file).unwrap());
            let provenance = Provenance {
                kind: "cluster".to_owned(),
                subject: "subj01".to_owned(),
                settings: serde_json::json!({}),
                inputs: Vec::new(),
                summary: BTreeMap::new(),
                software: SOFTWARE.to_owned(),
            };
            picture(&draft.publish(provenance).unwrap(), &out)
        };
        assert_eq!(made(&["clusters.json", "clusters.png"]).unwrap(), b"clusters.png");
        let TaskError::Failed { class, message, .. } =
            made(&["clusters.json"]).unwrap_err().end(PhaseSeconds::default())
        else {
            panic!("nobody stopped it")
        };
        assert_eq!(class, protocol::outcome::FailureClass::BadInput);
        assert!(message.contains("clusters.json is made, but without a picture"), "{message}");
        assert!(message.contains("`voxel_ijk`") && message.contains("voxels.nii.gz"), "{message}");
    }

    #[test]
    fn work_of_any_size_is_reported_in_steps_and_ends_when_it_is_told_to() {
        let control = Control::default();
        assert!(report(&control, 21_000_000_000, 42_000_000_000).is_continue());
        let progress = control.progress();
        assert!(progress.steps > 1 << 31 && progress.step == progress.steps / 2, "{progress:?}");
        assert!(report(&control, 3, 4).is_continue());
        assert_eq!((control.progress().step, control.progress().steps), (3, 4));
        control.stop();
        assert!(report(&control, 3, 4).is_break());
    }

    #[test]
    fn a_folder_that_another_process_makes_is_waited_for() {
        let place = tempfile::tempdir().unwrap();
        let out = place.path().join("out");
        let open = || Draft::open(&out, "a");
        let Ok(Opened::Draft(held)) = open() else { panic!("nothing is there") };
        let mut held = Some(held);
        let control = Control::default();
        let mut tries = 0;
        let made = alone(&control, &out, || {
            tries += 1;
            let found = open();
            // The other process ends while this one waits.
            drop(held.take());
            match found {
                Ok(_) => Err(ShelfError::Missing { path: out.clone() }),
                Err(error) => Err(ShelfError::Load(error.into())),
            }
        });
        assert!(matches!(made, Err(ShelfError::Missing { .. })));
        assert_eq!(tries, 2);
        control.stop();
        let busy = || Err(ShelfError::Load(subject::folder::FolderError::InUse { path: out.clone() }.into()));
        assert!(matches!(alone(&control, &out, busy), Err(ShelfError::Load(_))), "nobody waits for it any more");
    }
}
