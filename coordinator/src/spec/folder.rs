//! The sections of experiments whose jobs make folders: `prepare`, `fit` and `cluster`, and their conditions.

use super::bundle;
use super::diagnose::{Diagnostics, Place};
use super::fields::{Fields, Located};
use super::files::{Files, chain};
use super::grid::{self, Grid};
use super::input::{self, Wanted};
use super::known::Known;
use super::model::{self, ModelNames, REGION, SUBJECT, Whereabouts};
use super::settings::{self, Settings};
use crate::plan::{self, PlannedCondition};
use protocol::ids::{Digest, Seed};
use protocol::job::{
    ClusterCondition, Condition, FitCondition, Input, Kind, ModelFolder, Out, PrepareCondition, PrepareSettings,
};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// Seed of jobs where the grid names none.
const SEED: Seed = Seed(0);

/// Held-out images that have a name.
const SPLITS: [&str; 2] = ["shared907", "shared515"];

/// Whether `split` is a name, not a file's path.
fn is_split_name(text: &str) -> bool {
    !text.contains(['/', '.'])
}

/// What every job of an experiment makes.
#[derive(Debug, Clone, PartialEq)]
pub struct FolderDraft {
    pub work: FolderWork,
    pub grid: Grid,
    pub settings: Settings,
    /// Where folders go; `None` if it is missing or wrong, which has been told.
    out: Option<Located<String>>,
}

/// What the folder is made from; what is `None` is missing or wrong, and has been told.
#[derive(Debug, Clone, PartialEq)]
pub enum FolderWork {
    Prepare { root: Option<Located<String>> },
    Fit { data: Option<Located<String>>, models: Box<ModelNames> },
    Cluster { encoder: Option<Located<String>> },
}

impl FolderDraft {
    pub fn prepare(fields: &Fields<'_>, diagnostics: &mut Diagnostics) -> Self {
        let root = fields.required("data", diagnostics).and_then(|node| {
            let fields = Fields::of(node, "`data`", &["nsd"], diagnostics)?;
            model::path_name(fields.required("nsd", diagnostics)?, "nsd", &[SUBJECT], diagnostics)
        });
        Self::read(FolderWork::Prepare { root }, fields, diagnostics)
    }

    pub fn fit(fields: &Fields<'_>, diagnostics: &mut Diagnostics) -> Self {
        let data = fields.required("data", diagnostics);
        let data = data.and_then(|node| model::path_name(node, "data", &[SUBJECT], diagnostics));
        let models = fields.required("models", diagnostics);
        let models = models.map(|node| model::read(node, &["backbone"], &[], diagnostics)).unwrap_or_default();
        Self::read(FolderWork::Fit { data, models: Box::new(models) }, fields, diagnostics)
    }

    pub fn cluster(fields: &Fields<'_>, diagnostics: &mut Diagnostics) -> Self {
        let encoder = fields.required("encoder", diagnostics);
        let encoder = encoder.and_then(|node| model::path_name(node, "encoder", &[SUBJECT], diagnostics));
        Self::read(FolderWork::Cluster { encoder }, fields, diagnostics)
    }

    fn read(work: FolderWork, fields: &Fields<'_>, diagnostics: &mut Diagnostics) -> Self {
        let (section, table) = match &work {
            FolderWork::Prepare { .. } => ("prepare", settings::PREPARE),
            FolderWork::Fit { .. } => ("fit", settings::FIT),
            FolderWork::Cluster { .. } => ("cluster", settings::CLUSTER),
        };
        let regions = matches!(work, FolderWork::Cluster { .. });
        let shape = grid::Shape { parameters: &[], regions, seed: Some(SEED) };
        let grid = fields.required("grid", diagnostics).map(|node| grid::read(node, shape, diagnostics));
        let settings = fields.get(section).map(|node| Settings::read(node, section, table, diagnostics));
        for (_, name) in settings.iter().flat_map(|settings| &settings.paths).filter(|(key, _)| *key == "split") {
            if is_split_name(&name.value) && !SPLITS.contains(&name.value.as_str()) {
                diagnostics
                    .mistake(name.place, format!("there is no split `{}`", name.value))
                    .one_of(&name.value, SPLITS)
                    .note("a file of ids has a `/` or a `.` in its path");
            }
        }
        let placeholders: &[&str] = if regions { &[SUBJECT, REGION, Out::SEED] } else { &[SUBJECT, Out::SEED] };
        let out = fields.required("out", diagnostics);
        let out = out.and_then(|node| model::path_name(node, "out", placeholders, diagnostics));
        Self { work, grid: grid.unwrap_or_default(), settings: settings.unwrap_or_default(), out }
    }

    pub fn kind(&self) -> Kind {
        match self.work {
            FolderWork::Prepare { .. } => Kind::Prepare,
            FolderWork::Fit { .. } => Kind::Fit,
            FolderWork::Cluster { .. } => Kind::Cluster,
        }
    }

    /// Every condition of the grid, the region running faster; `None` if anything is wrong, missing or damaged, all of which is
    /// told.
    pub fn resolve(
        &self,
        places: &Whereabouts,
        known: &Known,
        files: &mut Files<'_>,
        diagnostics: &mut Diagnostics,
    ) -> Option<Vec<PlannedCondition>> {
        let mut made = HashMap::new();
        let mut conditions = Vec::new();
        let mut look = Look { draft: self, places, known, files, diagnostics };
        for subject in &self.grid.subjects {
            let read = look.read(&subject.value);
            for region in &self.grid.regions {
                let Some(out) = look.out(&subject.value, &region.value, &mut made) else { continue };
                let Some(spec) = read.as_ref().and_then(|read| look.condition(read, &subject.value, region, out))
                else {
                    continue;
                };
                conditions.push(PlannedCondition {
                    key: plan::key(&spec),
                    subject: subject.value.clone(),
                    region: region.value.clone(),
                    axes: BTreeMap::new(),
                    spec,
                });
            }
        }
        diagnostics.is_empty().then_some(conditions)
    }
}

/// What a subject's jobs read.
enum Read {
    Prepare(PrepareSettings, BTreeMap<String, Digest>),
    Fit(Input, ModelFolder),
    /// The ROIs of an encoder that is there.
    Cluster(Input, Option<Vec<String>>),
}

/// A look at what a draft names.
struct Look<'l, 'd> {
    draft: &'l FolderDraft,
    places: &'l Whereabouts,
    known: &'l Known,
    files: &'l mut Files<'d>,
    diagnostics: &'l mut Diagnostics,
}

impl Look<'_, '_> {
    fn read(&mut self, subject: &str) -> Option<Read> {
        match &self.draft.work {
            FolderWork::Prepare { root } => self.dataset(root.as_ref()?, subject),
            FolderWork::Fit { data, models } => {
                let data = data.as_ref().and_then(|data| self.input(data, "data", Kind::Prepare, subject));
                let backbone = self.backbone(models, subject);
                Some(Read::Fit(data?, backbone?))
            }
            FolderWork::Cluster { encoder } => self.encoder(encoder.as_ref()?, subject),
        }
    }

    /// A dataset is known by its place: it is too large to be hashed here. What comes from it has the digests of all that was read.
    fn dataset(&mut self, root: &Located<String>, subject: &str) -> Option<Read> {
        let path = self.places.path(&root.value, subject);
        if !path.is_dir() {
            self.diagnostics.missing_file(root.place, "`nsd`: the folder is missing", &path);
        }
        let mut settings = PrepareSettings { root: path, ..self.draft.settings.typed() };
        let mut digests = BTreeMap::new();
        for (key, name) in &self.draft.settings.paths {
            let path = self.places.path(&name.value, subject);
            match *key {
                "split" if is_split_name(&name.value) => {
                    settings.split = name.value.clone();
                    continue;
                }
                "stimuli" => {
                    if !path.is_dir() {
                        self.diagnostics.missing_file(name.place, "`stimuli`: the folder is missing", &path);
                    }
                    settings.stimuli = Some(path);
                    continue;
                }
                "split" => settings.split = path.display().to_string(),
                _ => settings.food = Some(path.clone()),
            }
            digests.extend(self.digest(key, &path, name.place).map(|digest| ((*key).to_owned(), digest)));
        }
        Some(Read::Prepare(settings, digests))
    }

    fn digest(&mut self, key: &str, path: &Path, place: Place) -> Option<Digest> {
        if !path.is_file() {
            self.diagnostics.missing_file(place, &format!("`{key}`: the file is missing"), path);
            return None;
        }
        match self.files.digests.file(path) {
            Ok((_, digest)) => Some(digest),
            Err(error) => {
                self.diagnostics.missing(place, format!("`{key}`: reading {}: {}", path.display(), chain(&error)));
                None
            }
        }
    }

    fn input(&mut self, name: &Located<String>, key: &str, kind: Kind, subject: &str) -> Option<Input> {
        let wanted = Wanted { key, kind, subject, place: name.place };
        input::find(&self.places.path(&name.value, subject), wanted, self.known, self.diagnostics)
    }

    fn backbone(&mut self, models: &ModelNames, subject: &str) -> Option<ModelFolder> {
        let name = models.backbone.as_ref()?;
        let folder = self.places.folder(name, "backbone", subject, self.diagnostics)?;
        let bundle = bundle::backbone(&folder, name.place, self.diagnostics)?.bundle;
        let told = |error: std::io::Error| {
            self.diagnostics.missing(name.place, format!("{}: {error}", folder.display()));
        };
        self.files.digests.folder(&bundle.folder, &bundle.names).map_err(told).ok()
    }

    fn encoder(&mut self, name: &Located<String>, subject: &str) -> Option<Read> {
        let input = self.input(name, "encoder", Kind::Fit, subject)?;
        let rois = match &input {
            Input::Made(_) => None,
            Input::Content(folder) => {
                let head = bundle::head(&folder.path, name.place, self.diagnostics)?;
                if head.voxel_ijk.is_none() {
                    self.diagnostics
                        .mistake(
                            name.place,
                            format!("`encoder`: {} does not say where its voxels lie", head.path.display()),
                        )
                        .note("expected `voxel_ijk`: clusters are written as a volume");
                    return None;
                }
                Some(head.rois.into_keys().collect())
            }
        };
        Some(Read::Cluster(input, rois))
    }

    /// Where the jobs of a cell write; two jobs that write to one folder are told.
    fn out(&mut self, subject: &str, region: &str, made: &mut HashMap<PathBuf, String>) -> Option<Out> {
        let name = self.draft.out.as_ref()?;
        let out = Out::new(self.places.path(&name.value.replace(REGION, region), subject));
        for &seed in &self.draft.grid.seeds {
            let job = format!("{subject}, {region}{}seed {seed}", if region.is_empty() { "" } else { ", " });
            let path = out.of(seed);
            if let Some(other) = made.get(&path) {
                let placeholders =
                    if region.is_empty() { "{subject} and {seed}" } else { "{subject}, {region} and {seed}" };
                self.diagnostics
                    .mistake(name.place, format!("two jobs would write to {}", path.display()))
                    .note(format!("{other}; and {job}"))
                    .note(format!("tell them apart by {placeholders}"));
                return None;
            }
            made.insert(path, job);
        }
        Some(out)
    }

    fn condition(&mut self, read: &Read, subject: &str, region: &Located<String>, out: Out) -> Option<Condition> {
        let subject = subject.to_owned();
        Some(match read {
            Read::Prepare(settings, files) => {
                let (settings, files) = (settings.clone(), files.clone());
                Condition::Prepare(Box::new(PrepareCondition { subject, settings, files, out }))
            }
            Read::Fit(data, backbone) => {
                let (data, backbone, settings) = (data.clone(), backbone.clone(), self.draft.settings.typed());
                Condition::Fit(Box::new(FitCondition { subject, data, backbone, settings, out }))
            }
            Read::Cluster(encoder, rois) => {
                if let Some(rois) = rois.as_ref().filter(|rois| !rois.contains(&region.value)) {
                    self.diagnostics
                        .mistake(
                            region.place,
                            format!("the encoder of subject {subject} has no ROI `{}`", region.value),
                        )
                        .one_of(&region.value, rois.iter().map(String::as_str));
                    return None;
                }
                let (region, encoder, settings) = (region.value.clone(), encoder.clone(), self.draft.settings.typed());
                Condition::Cluster(Box::new(ClusterCondition { subject, region, encoder, settings, out }))
            }
        })
    }
}
