//! From names to files: the model folders of every subject, and the voxels of every region in them.

use super::bundle::{self, Bundle, Clip, Diffusion, Head};
use super::diagnose::{Diagnostics, Place};
use super::fields::Located;
use super::files::Files;
use super::model::{SUBJECT, Whereabouts};
use super::objective::{Resolved, Subject};
use super::region::{Region, Term, Voxels};
use super::sample::SampleDraft;
use super::sampling::{self, Setting};
use super::start::{self, Images};
use protocol::job::{ModelFolder, Models};
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A subject × region of the grid.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    pub subject: String,
    pub region: String,
    pub models: Arc<Models>,
    pub objective: Resolved,
    pub images: Arc<Images>,
    pub prefers: Option<String>,
}

/// Every subject × region of the grid, the region running faster; `None` if anything is wrong, missing or damaged, all of
/// which is told.
pub fn resolve(
    draft: &SampleDraft,
    places: &Whereabouts,
    files: &mut Files<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<Vec<Cell>> {
    let mut folders = Folders {
        places,
        diffusion: Cache::default(),
        backbone: Cache::default(),
        probe: Cache::default(),
        head: Cache::default(),
    };
    let mut subjects = Vec::new();
    for subject in &draft.grid.subjects {
        subjects.push((&subject.value, folders.open(draft, &subject.value, diagnostics)));
    }
    if subjects.len() > 1
        && let Some(encoder) = draft.models.encoder.as_ref().filter(|path| !path.value.contains(SUBJECT))
    {
        diagnostics
            .mistake(encoder.place, "`encoder` is the same for every subject")
            .note("a head is fitted to one subject: put {subject} into its path");
    }
    check_sizes(draft, folders.diffusion.values().flatten(), diagnostics);
    start::check_encoders(draft, folders.diffusion.values().flatten(), diagnostics);

    let mut objectives = Vec::new();
    for (name, models) in &subjects {
        let images = Arc::new(start::open(draft, name, places, files, diagnostics));
        let head = models.head.as_deref();
        let subject = Subject { name, head, volumes: draft.models.volumes.as_ref(), places };
        for region in &draft.grid.regions {
            let Some(definition) = defined(draft, region, &subject, diagnostics) else { continue };
            let Some(objective) = subject.resolve(&region.value, &definition, files, diagnostics) else { continue };
            objectives.push((name.as_str(), region.value.clone(), objective, images.clone(), definition.prefers));
        }
    }
    if !diagnostics.is_empty() {
        return None;
    }

    let mut hashed = HashMap::new();
    for (name, models) in &subjects {
        hashed.insert(name.as_str(), Arc::new(models.hash(draft, files, diagnostics)?));
    }
    let cells = objectives.into_iter().map(|(subject, region, objective, images, prefers)| {
        let models = hashed.get(subject)?.clone();
        Some(Cell { subject: subject.to_owned(), region, models, objective, images, prefers })
    });
    cells.collect()
}

/// The region as the file defines it; one that it does not define is the ROI of that name.
fn defined(
    draft: &SampleDraft,
    region: &Located<String>,
    subject: &Subject<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<Region> {
    let name = &region.value;
    if let Some((_, definition)) = draft.regions.iter().find(|(defined, _)| defined == name) {
        return definition.clone();
    }
    let head = subject.head?;
    if head.rois.contains_key(name) {
        let term = Term { weight: 1.0, voxels: Voxels::Roi(name.clone()) };
        return Some(Region { terms: vec![Located { place: region.place, value: term }], prefers: None });
    }
    let known = draft.regions.iter().map(|(name, _)| name).chain(head.rois.keys());
    diagnostics
        .mistake(region.place, format!("there is no region `{name}` for subject {}", subject.name))
        .one_of(name, known.map(String::as_str))
        .note(format!("a region stands under `regions`, or is an ROI of {}", head.config.display()));
    None
}

/// Image sizes must be whole numbers of latents.
fn check_sizes<'a>(
    draft: &SampleDraft,
    models: impl Iterator<Item = &'a Arc<Diffusion>>,
    diagnostics: &mut Diagnostics,
) {
    let given = draft.all_settings().filter_map(|setting| match setting.value {
        Setting::Size(size) => Some((setting.place, size)),
        _ => None,
    });
    let mut sizes: Vec<(Place, [u32; 2])> = given.collect();
    if sizes.is_empty() {
        sizes.push((draft.place, sampling::resolve(std::iter::empty()).size));
    }
    let mut factors: Vec<u32> = models.map(|model| model.vae_factor).collect();
    factors.sort_unstable();
    factors.dedup();
    for factor in factors {
        for (place, [width, height]) in &sizes {
            if width % factor != 0 || height % factor != 0 {
                diagnostics
                    .mistake(*place, format!("images of {width} × {height} pixels are no whole number of latents"))
                    .note(format!(
                        "expected multiples of {factor}: the VAE of this diffusion model has {factor} pixels per latent"
                    ));
            }
        }
    }
}

/// The models of a subject, as far as they are whole.
#[derive(Debug)]
struct SubjectModels {
    diffusion: Option<Arc<Diffusion>>,
    backbone: Option<Arc<Clip>>,
    head: Option<Arc<Head>>,
    probe: Option<Arc<Clip>>,
}

impl SubjectModels {
    fn hash(&self, draft: &SampleDraft, files: &mut Files<'_>, diagnostics: &mut Diagnostics) -> Option<Models> {
        let mut folder = |bundle: &Bundle, name: &Option<Located<String>>| -> Option<ModelFolder> {
            let place = name.as_ref().map(|name| name.place).unwrap_or_default();
            let told = |error: io::Error| {
                diagnostics.missing(place, format!("{}: {error}", bundle.folder.display()));
            };
            files.digests.folder(&bundle.folder, &bundle.names).map_err(told).ok()
        };
        Some(Models {
            diffusion: folder(&self.diffusion.as_ref()?.bundle, &draft.models.diffusion)?,
            backbone: folder(&self.backbone.as_ref()?.bundle, &draft.models.backbone)?,
            encoder: folder(&self.head.as_ref()?.bundle, &draft.models.encoder)?,
            probe: folder(&self.probe.as_ref()?.bundle, &draft.models.probe)?,
        })
    }
}

type Cache<T> = HashMap<PathBuf, Option<Arc<T>>>;

/// Folders that were looked at, each once; subjects share most of them.
struct Folders<'p> {
    places: &'p Whereabouts,
    diffusion: Cache<Diffusion>,
    backbone: Cache<Clip>,
    probe: Cache<Clip>,
    head: Cache<Head>,
}

impl Folders<'_> {
    fn open(&mut self, draft: &SampleDraft, subject: &str, diagnostics: &mut Diagnostics) -> SubjectModels {
        let names = &draft.models;
        let diffusion = look(
            &mut self.diffusion,
            self.places,
            &names.diffusion,
            "diffusion",
            subject,
            diagnostics,
            bundle::diffusion,
        );
        let backbone =
            look(&mut self.backbone, self.places, &names.backbone, "backbone", subject, diagnostics, bundle::backbone);
        let probe = look(&mut self.probe, self.places, &names.probe, "probe", subject, diagnostics, bundle::probe);
        let head = look(&mut self.head, self.places, &names.encoder, "encoder", subject, diagnostics, bundle::head);
        if let (Some(head), Some(backbone), Some(name)) = (&head, &backbone, &names.encoder)
            && head.features != backbone.features
        {
            diagnostics
                .mistake(
                    name.place,
                    format!(
                        "the head of subject {subject} reads {} features, the backbone gives {}",
                        head.features, backbone.features
                    ),
                )
                .note(format!("head {}, backbone {}", head.path.display(), backbone.bundle.folder.display()))
                .note("a head works only on the backbone that it was fitted on");
        }
        SubjectModels { diffusion, backbone, head, probe }
    }
}

/// Looks at the folder that `name` means for `subject`, unless that was done before.
fn look<T>(
    cache: &mut Cache<T>,
    places: &Whereabouts,
    name: &Option<Located<String>>,
    role: &str,
    subject: &str,
    diagnostics: &mut Diagnostics,
    open: impl FnOnce(&Path, Place, &mut Diagnostics) -> Option<T>,
) -> Option<Arc<T>> {
    let name = name.as_ref()?;
    let path = places.path(&name.value, subject);
    if let Some(known) = cache.get(&path) {
        return known.clone();
    }
    let opened = places
        .folder(name, role, subject, diagnostics)
        .and_then(|folder| open(&folder, name.place, diagnostics))
        .map(Arc::new);
    cache.insert(path, opened.clone());
    opened
}
