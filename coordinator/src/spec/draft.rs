//! An experiment file as typed sections, before the files that it names are looked at.

use super::diagnose::{Diagnostics, Place};
use super::fields::{Fields, Located};
use super::folder::FolderDraft;
use super::grid::Grid;
use super::node::Node;
use super::sample::SampleDraft;
use super::score::ScoreDraft;
use super::simulate::SimulateDraft;
use protocol::job::Kind;

/// What an experiment file asks for. Where the file has mistakes, which have been told, parts are missing.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    pub name: String,
    pub name_place: Place,
    pub description: String,
    pub priority: i32,
    /// Weight among experiments of the same priority.
    pub share: f64,
    pub retries: u32,
    /// Losses of a job that make it the suspect.
    pub losses: u32,
    /// Names of experiments that come first.
    pub needs: Vec<Located<String>>,
    pub budget_gpu_hours: Option<f64>,
    pub work: Work,
}

/// What the jobs do.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// `prepare`, `fit` and `cluster`.
    Folder(Box<FolderDraft>),
    Sample(Box<SampleDraft>),
    Score(Box<ScoreDraft>),
    Simulate(SimulateDraft),
}

impl Draft {
    pub fn kind(&self) -> Kind {
        match &self.work {
            Work::Folder(folder) => folder.kind(),
            Work::Sample(_) => Kind::Sample,
            Work::Score(_) => Kind::Score,
            Work::Simulate(_) => Kind::Simulate,
        }
    }

    /// The file's grid; scores have that of their images.
    pub fn grid(&self) -> Option<&Grid> {
        match &self.work {
            Work::Folder(folder) => Some(&folder.grid),
            Work::Sample(sample) => Some(&sample.grid),
            Work::Score(_) => None,
            Work::Simulate(simulate) => Some(&simulate.grid),
        }
    }
}

/// Sections of every experiment.
const KEYS: [&str; 9] = ["name", "description", "kind", "needs", "priority", "share", "retries", "losses", "budget"];
/// Sections of some kinds' experiments.
const OWN_KEYS: [(&str, &[Kind]); 13] = [
    ("grid", &[Kind::Prepare, Kind::Fit, Kind::Cluster, Kind::Sample, Kind::Simulate]),
    ("data", &[Kind::Prepare, Kind::Fit]),
    ("encoder", &[Kind::Cluster]),
    ("images", &[Kind::Score]),
    ("models", &[Kind::Fit, Kind::Sample, Kind::Score]),
    ("regions", &[Kind::Sample, Kind::Score]),
    ("probes", &[Kind::Sample, Kind::Score]),
    ("out", &[Kind::Prepare, Kind::Fit, Kind::Cluster]),
    ("prepare", &[Kind::Prepare]),
    ("fit", &[Kind::Fit]),
    ("cluster", &[Kind::Cluster]),
    ("sampling", &[Kind::Sample]),
    ("simulate", &[Kind::Simulate]),
];

/// Losses after which a job is taken for the culprit, unless the file says otherwise; HyperQueue's crash limit.
const LOSSES: u32 = 5;

/// Reads the sections of the file's root.
pub fn read(root: &Node, diagnostics: &mut Diagnostics) -> Option<Draft> {
    let keys: Vec<&str> = KEYS.into_iter().chain(OWN_KEYS.map(|(key, _)| key)).collect();
    let fields = Fields::of(root, "an experiment", &keys, diagnostics)?;
    let name = fields.required("name", diagnostics).and_then(|node| node.name("the experiment's name", diagnostics));
    let description = fields.get("description").and_then(|node| node.text("`description`", diagnostics));
    let kind = kind(&fields, diagnostics);
    let work = match kind {
        Kind::Prepare => Work::Folder(Box::new(FolderDraft::prepare(&fields, diagnostics))),
        Kind::Fit => Work::Folder(Box::new(FolderDraft::fit(&fields, diagnostics))),
        Kind::Cluster => Work::Folder(Box::new(FolderDraft::cluster(&fields, diagnostics))),
        Kind::Score => Work::Score(Box::new(ScoreDraft::read(&fields, diagnostics))),
        Kind::Sample => Work::Sample(Box::new(SampleDraft::read(&fields, root.place, diagnostics))),
        Kind::Simulate => Work::Simulate(SimulateDraft::read(&fields, diagnostics)),
    };
    let mut needs = fields.get("needs").map(|node| needs(node, name.as_deref(), diagnostics)).unwrap_or_default();
    if let Work::Score(score) = &work
        && let Some(images) = &score.images
        && !needs.iter().any(|need| need.value == images.value)
    {
        needs.push(images.clone());
    }
    let priority = fields
        .get("priority")
        .and_then(|node| node.integer("`priority`", i32::MIN.into(), i32::MAX.into(), diagnostics));
    let share =
        fields.get("share").and_then(|node| node.number("`share`", "a number above 0", |s| s > 0.0, diagnostics));
    let retries = fields.get("retries").and_then(|node| node.integer("`retries`", 0, 100, diagnostics));
    let losses = fields.get("losses").and_then(|node| node.integer("`losses`", 1, 1000, diagnostics));
    let budget_gpu_hours = fields.get("budget").and_then(|node| {
        let fields = Fields::of(node, "`budget`", &["gpu_hours"], diagnostics)?;
        let hours = fields.required("gpu_hours", diagnostics)?;
        hours.number("`gpu_hours`", "a number of hours above 0", |hours| hours > 0.0, diagnostics)
    });
    Some(Draft {
        name: name.unwrap_or_default(),
        name_place: fields.get("name").map(|node| node.place).unwrap_or_default(),
        description: description.unwrap_or_default(),
        priority: priority.unwrap_or(0),
        share: share.unwrap_or(1.0),
        retries: retries.unwrap_or(3),
        losses: losses.unwrap_or(LOSSES),
        needs,
        budget_gpu_hours,
        work,
    })
}

/// The kind of work; sections of another kind are mistakes. Where the kind itself is one, the rest is read as what it looks like.
fn kind(fields: &Fields<'_>, diagnostics: &mut Diagnostics) -> Kind {
    let valid = Kind::ALL.map(|kind| (kind.as_str(), kind));
    let said = fields.required("kind", diagnostics).and_then(|node| node.choice("`kind`", &valid, diagnostics));
    let Some(said) = said else {
        // A section that only one kind has tells it.
        let telling = OWN_KEYS.iter().find(|(key, kinds)| kinds.len() == 1 && fields.get(key).is_some());
        return telling.map_or(Kind::Sample, |(_, kinds)| kinds[0]);
    };
    for (key, kinds) in OWN_KEYS {
        if let (false, Some(place)) = (kinds.contains(&said), fields.key(key)) {
            let mistake = diagnostics.mistake(place, format!("`{key}` means nothing to jobs of kind {said}"));
            let kinds: Vec<&str> = kinds.iter().map(|kind| kind.as_str()).collect();
            mistake.note(match said {
                Kind::Simulate => {
                    "simulated jobs only take time, they read no model and compute nothing: leave it out".to_owned()
                }
                Kind::Score if key == "grid" => {
                    "scores are of the conditions and seeds of their images: leave it out".to_owned()
                }
                _ => format!("it belongs to kind {}: leave it out, or write another `kind`", kinds.join(", ")),
            });
        }
    }
    said
}

fn needs(node: &Node, name: Option<&str>, diagnostics: &mut Diagnostics) -> Vec<Located<String>> {
    let needs = node.distinct("`needs`", diagnostics, |item, d| item.name("the name of an experiment", d));
    for need in needs.iter().filter(|need| name == Some(need.value.as_str())) {
        diagnostics.mistake(need.place, "an experiment cannot need itself").note("name another experiment");
    }
    needs
}
