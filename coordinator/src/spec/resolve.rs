//! From names to files: the model folders of every subject, and the voxels of every region in them.

use super::bundle::{self, Bundle, Clip, Diffusion, Head};
use super::diagnose::{Diagnostics, Place};
use super::encoder::Encoder;
use super::fields::Located;
use super::files::Files;
use super::input::{self, Wanted};
use super::known::Known;
use super::model::{ModelNames, SUBJECT, Whereabouts};
use super::objective::{Resolved, Subject};
use super::region::{ClusterName, Region, Term, Voxels};
use super::sample::SampleDraft;
use super::sampling::{self, Setting};
use super::start::{self, Images};
use protocol::job::{Input, Kind, ModelFolder, Models};
use std::collections::{HashMap, HashSet};
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
    known: &Known,
    files: &mut Files<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<Vec<Cell>> {
    let subjects: Vec<&str> = draft.grid.subjects.iter().map(|subject| subject.value.as_str()).collect();
    let subjects = open(&draft.models, &subjects, places, known, diagnostics);
    let diffusions = || {
        let mut seen = HashSet::new();
        let all = subjects.iter().filter_map(|(_, models)| models.diffusion.as_ref());
        all.filter(move |model| seen.insert(model.bundle.folder.clone()))
    };
    check_sizes(draft, diffusions(), diagnostics);
    start::check_encoders(draft, diffusions(), diagnostics);

    let mut objectives = Vec::new();
    for (name, models) in &subjects {
        let images = Arc::new(start::open(draft, name, places, files, diagnostics));
        let subject = Subject { name, encoder: models.encoder.as_ref(), models: &draft.models, places, known };
        for region in &draft.grid.regions {
            let Some(definition) = defined(&draft.regions, region, &subject, diagnostics) else { continue };
            let Some(objective) = subject.resolve(&region.value, &definition, files, diagnostics) else { continue };
            objectives.push((name.as_str(), region.value.clone(), objective, images.clone(), definition.prefers));
        }
    }
    if !diagnostics.is_empty() {
        return None;
    }

    let mut hashed = HashMap::new();
    for (name, models) in &subjects {
        let models = models.hash(&draft.models, files, diagnostics)?.complete(None)?;
        hashed.insert(name.as_str(), Arc::new(models));
    }
    let cells = objectives.into_iter().map(|(subject, region, objective, images, prefers)| {
        let models = hashed.get(subject)?.clone();
        Some(Cell { subject: subject.to_owned(), region, models, objective, images, prefers })
    });
    cells.collect()
}

/// The models of every subject, as far as they are whole; what is missing or damaged is told.
pub fn open(
    names: &ModelNames,
    subjects: &[&str],
    places: &Whereabouts,
    known: &Known,
    diagnostics: &mut Diagnostics,
) -> Vec<(String, SubjectModels)> {
    let mut folders = Folders {
        places,
        known,
        diffusion: Cache::default(),
        backbone: Cache::default(),
        probe: Cache::default(),
        head: Cache::default(),
    };
    let opened =
        subjects.iter().map(|subject| ((*subject).to_owned(), folders.open(names, subject, diagnostics))).collect();
    if subjects.len() > 1
        && let Some(encoder) = names.encoder.as_ref().filter(|path| !path.value.contains(SUBJECT))
    {
        diagnostics
            .mistake(encoder.place, "`encoder` is the same for every subject")
            .note("a head is fitted to one subject: put {subject} into its path");
    }
    opened
}

/// The region as the file defines it; one that it does not define is the ROI or the cluster of that name.
pub fn defined(
    regions: &[(String, Option<Region>)],
    region: &Located<String>,
    subject: &Subject<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<Region> {
    let name = &region.value;
    if let Some((_, definition)) = regions.iter().find(|(defined, _)| defined == name) {
        return definition.clone();
    }
    let only = |voxels| {
        let term = Located { place: region.place, value: Term { weight: 1.0, voxels } };
        Some(Region { terms: vec![term], prefers: None })
    };
    if let Some(cluster) = ClusterName::parse(name) {
        return only(Voxels::ClusterOf(cluster));
    }
    let head = match subject.encoder? {
        Encoder::ToMake(_) => return only(Voxels::Roi(name.clone())),
        Encoder::Here(head) if head.rois.contains_key(name) => return only(Voxels::Roi(name.clone())),
        Encoder::Here(head) => head,
    };
    let known = regions.iter().map(|(name, _)| name).chain(head.rois.keys());
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
pub struct SubjectModels {
    diffusion: Option<Arc<Diffusion>>,
    backbone: Option<Arc<Clip>>,
    pub encoder: Option<Encoder>,
    probe: Option<Arc<Clip>>,
}

/// The models that an experiment names for a subject, by their content.
#[derive(Debug)]
pub struct Named {
    diffusion: Option<ModelFolder>,
    backbone: ModelFolder,
    encoder: Input,
    probe: Option<ModelFolder>,
}

impl Named {
    /// With those of `others` in the place of what is not named.
    pub fn complete(&self, others: Option<&Models>) -> Option<Models> {
        Some(Models {
            diffusion: self.diffusion.as_ref().or(others.map(|models| &models.diffusion))?.clone(),
            backbone: self.backbone.clone(),
            encoder: self.encoder.clone(),
            probe: self.probe.as_ref().or(others.map(|models| &models.probe))?.clone(),
        })
    }
}

impl SubjectModels {
    /// `None` if backbone or encoder is missing, or a file cannot be read, which is told.
    pub fn hash(&self, names: &ModelNames, files: &mut Files<'_>, diagnostics: &mut Diagnostics) -> Option<Named> {
        let mut folder = |bundle: &Bundle, name: &Option<Located<String>>| -> Option<ModelFolder> {
            let place = name.as_ref().map(|name| name.place).unwrap_or_default();
            let told = |error: io::Error| {
                diagnostics.missing(place, format!("{}: {error}", bundle.folder.display()));
            };
            files.digests.folder(&bundle.folder, &bundle.names).map_err(told).ok()
        };
        let diffusion = match &self.diffusion {
            Some(model) => Some(folder(&model.bundle, &names.diffusion)?),
            None => None,
        };
        let probe = match &self.probe {
            Some(model) => Some(folder(&model.bundle, &names.probe)?),
            None => None,
        };
        Some(Named {
            diffusion,
            backbone: folder(&self.backbone.as_ref()?.bundle, &names.backbone)?,
            encoder: match self.encoder.as_ref()? {
                Encoder::Here(head) => Input::Content(folder(&head.bundle, &names.encoder)?),
                Encoder::ToMake(made) => Input::Made(made.clone()),
            },
            probe,
        })
    }
}

type Cache<T> = HashMap<PathBuf, Option<Arc<T>>>;

/// Folders that were looked at, each once; subjects share most of them.
struct Folders<'p> {
    places: &'p Whereabouts,
    known: &'p Known,
    diffusion: Cache<Diffusion>,
    backbone: Cache<Clip>,
    probe: Cache<Clip>,
    head: Cache<Head>,
}

impl Folders<'_> {
    fn open(&mut self, names: &ModelNames, subject: &str, diagnostics: &mut Diagnostics) -> SubjectModels {
        let places = self.places;
        let diffusion =
            look(&mut self.diffusion, places, &names.diffusion, "diffusion", subject, diagnostics, bundle::diffusion);
        let backbone =
            look(&mut self.backbone, places, &names.backbone, "backbone", subject, diagnostics, bundle::backbone);
        let probe = look(&mut self.probe, places, &names.probe, "probe", subject, diagnostics, bundle::probe);
        let encoder = self.encoder(names, subject, diagnostics);
        if let (Some(Encoder::Here(head)), Some(backbone), Some(name)) = (&encoder, &backbone, &names.encoder)
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
        SubjectModels { diffusion, backbone, encoder, probe }
    }

    fn encoder(&mut self, names: &ModelNames, subject: &str, diagnostics: &mut Diagnostics) -> Option<Encoder> {
        let name = names.encoder.as_ref()?;
        let wanted = Wanted { key: "encoder", kind: Kind::Fit, subject, place: name.place };
        let path = self.places.path(&name.value, subject);
        if let Some(made) = input::made(&path, wanted, self.known, diagnostics).ok()? {
            return Some(Encoder::ToMake(made));
        }
        let head = look(&mut self.head, self.places, &names.encoder, "encoder", subject, diagnostics, bundle::head);
        head.map(Encoder::Here)
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
