//! Regions as a file writes them: named objectives, each a term or a list of terms.

use super::diagnose::Diagnostics;
use super::fields::{Fields, Located, entries, is_name, not_a_name};
use super::model::{self, SUBJECT};
use super::node::{Key, Node, Value};
use protocol::probe::ProbeClass;

/// A named objective: the weighted sum of its terms' means.
#[derive(Debug, Clone, PartialEq)]
pub struct Region {
    pub terms: Vec<Located<Term>>,
    /// The probe class that the region is known to prefer.
    pub prefers: Option<String>,
}

/// A weighted mean over voxels.
#[derive(Debug, Clone, PartialEq)]
pub struct Term {
    pub weight: f64,
    pub voxels: Voxels,
}

/// The voxels of a term.
#[derive(Debug, Clone, PartialEq)]
pub enum Voxels {
    /// An index list of that name under `rois` of the encoder's config.json.
    Roi(String),
    /// An index list of that name under `clusters` of the encoder's config.json.
    Cluster(String),
    /// A cluster below `models.clusters`.
    ClusterOf(ClusterName),
    /// Rows of the head.
    Rows(Vec<u32>),
    Volume(Volume),
}

/// A cluster of a region, written `food/cluster:1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterName {
    pub region: String,
    /// From 1.
    pub number: u32,
}

impl ClusterName {
    pub fn parse(text: &str) -> Option<Self> {
        let (region, number) = text.split_once("/cluster:")?;
        let plain = !number.is_empty() && !number.starts_with('0') && number.bytes().all(|byte| byte.is_ascii_digit());
        let number = number.parse().ok().filter(|_| plain)?;
        is_name(region).then(|| Self { region: region.to_owned(), number })
    }
}

/// A mask in the subject's functional volume.
#[derive(Debug, Clone, PartialEq)]
pub struct Volume {
    pub mask: Nifti,
    /// Empty: every positive value.
    pub labels: Vec<i32>,
    pub above: Option<(Nifti, f64)>,
}

/// A NIfTI file.
#[derive(Debug, Clone, PartialEq)]
pub enum Nifti {
    /// `<name>.nii.gz` in this folder of `models.volumes`.
    Named { folder: &'static str, name: String },
    /// A path, relative to the experiment file.
    File(String),
}

const TERM_KEYS: [&str; 10] =
    ["roi", "cluster", "voxels", "volume", "mask", "labels", "t_map", "t_above", "weight", "prefers"];
const KINDS: [&str; 5] = ["roi", "cluster", "voxels", "volume", "mask"];

/// The `regions` section, in the file's order. A region with a mistake is `None`, so that the grid may still name it. `probes`: the
/// classes that a region may prefer, if they are known.
pub fn read(
    node: &Node,
    probes: Option<&[ProbeClass]>,
    diagnostics: &mut Diagnostics,
) -> Vec<(String, Option<Region>)> {
    let mut regions = Vec::new();
    for (key, value) in entries(node, "`regions`", diagnostics).unwrap_or_default() {
        if !is_name(&key.name) {
            not_a_name(key.place, &key.name, "the name of a region", diagnostics);
        }
        regions.push((key.name.clone(), region(&key.name, value, probes, diagnostics)));
    }
    regions
}

/// A term, a list of terms, or `{ terms: […], prefers: … }`.
fn region(name: &str, node: &Node, probes: Option<&[ProbeClass]>, diagnostics: &mut Diagnostics) -> Option<Region> {
    let what = format!("region `{name}`");
    let is_terms = |map: &[(Key, Node)]| map.iter().any(|(key, _)| key.name == "terms");
    let (terms, prefers) = match &node.value {
        Value::List(_) => (terms(&what, node, diagnostics), None),
        Value::Map(map) if is_terms(map) => {
            let fields = Fields::of(node, &what, &["terms", "prefers"], diagnostics)?;
            (terms(&what, fields.get("terms")?, diagnostics), fields.get("prefers"))
        }
        _ => {
            let fields = Fields::of(node, &what, &TERM_KEYS, diagnostics)?;
            (term(&what, node, &fields, diagnostics).map(|term| vec![term]), fields.get("prefers"))
        }
    };
    let prefers = match prefers {
        Some(node) => Some(preferred(node, probes, diagnostics)?),
        None => None,
    };
    Some(Region { terms: terms?, prefers })
}

/// One term or a list of them; `None` if any of them is wrong.
fn terms(what: &str, node: &Node, diagnostics: &mut Diagnostics) -> Option<Vec<Located<Term>>> {
    let items = node.items(&format!("terms of {what}"), diagnostics);
    let keys: Vec<&str> = TERM_KEYS.into_iter().filter(|key| *key != "prefers").collect();
    let read: Vec<_> = items
        .iter()
        .map(|item| {
            let fields = Fields::of(item, &format!("a term of {what}"), &keys, diagnostics)?;
            term(what, item, &fields, diagnostics)
        })
        .collect();
    read.into_iter().collect::<Option<Vec<_>>>().filter(|terms| !terms.is_empty())
}

fn preferred(node: &Node, probes: Option<&[ProbeClass]>, diagnostics: &mut Diagnostics) -> Option<String> {
    let class = node.text("`prefers`", diagnostics)?;
    let Some(probes) = probes else { return Some(class) };
    if probes.iter().any(|probe| probe.name == class) {
        return Some(class);
    }
    diagnostics
        .mistake(node.place, format!("there is no probe class `{class}`"))
        .one_of(&class, probes.iter().map(|probe| probe.name.as_str()));
    None
}

/// A term; its place is that of what names its voxels.
fn term(what: &str, node: &Node, fields: &Fields<'_>, diagnostics: &mut Diagnostics) -> Option<Located<Term>> {
    let weight = match fields.get("weight") {
        Some(node) => node.number("`weight`", "a number other than 0", |weight| weight != 0.0, diagnostics),
        None => Some(1.0),
    };
    let given: Vec<&str> = KINDS.into_iter().filter(|key| fields.get(key).is_some()).collect();
    let [kind] = given[..] else {
        let message = match given.is_empty() {
            true => format!("{what} does not say which voxels it means"),
            false => format!("{what} names its voxels in several ways: {}", given.join(", ")),
        };
        diagnostics.mistake(node.place, message).note(format!("expected exactly one of {}", KINDS.join(", ")));
        return None;
    };
    let value = fields.get(kind)?;
    let is_volume = matches!(kind, "volume" | "mask");
    if !is_volume {
        for key in ["labels", "t_map", "t_above"] {
            if let Some(place) = fields.key(key) {
                diagnostics
                    .mistake(place, format!("`{key}` means nothing beside `{kind}`"))
                    .note("it narrows `volume` or `mask`");
            }
        }
    }
    let voxels = match kind {
        "roi" => value.text("`roi`", diagnostics).map(Voxels::Roi),
        "cluster" => value
            .text("`cluster`", diagnostics)
            .map(|name| ClusterName::parse(&name).map_or(Voxels::Cluster(name), Voxels::ClusterOf)),
        "voxels" => rows(value, diagnostics).map(Voxels::Rows),
        "volume" => {
            let name = value.name("the name of a label volume", diagnostics);
            let mask = name.map(|name| Nifti::Named { folder: "roi", name });
            volume_of(mask, fields, diagnostics).map(Voxels::Volume)
        }
        _ => {
            let mask = model::path_name(value, "mask", &[SUBJECT], diagnostics).map(|path| Nifti::File(path.value));
            volume_of(mask, fields, diagnostics).map(Voxels::Volume)
        }
    };
    Some(Located { place: value.place, value: Term { weight: weight?, voxels: voxels? } })
}

fn rows(node: &Node, diagnostics: &mut Diagnostics) -> Option<Vec<u32>> {
    let read = node.distinct("`voxels`", diagnostics, |item, d| item.integer("a voxel", 0, u32::MAX.into(), d));
    let mut rows: Vec<u32> = read.into_iter().map(|row| row.value).collect();
    rows.sort_unstable();
    (!rows.is_empty() && rows.len() == node.items("`voxels`", diagnostics).len()).then_some(rows)
}

fn volume_of(mask: Option<Nifti>, fields: &Fields<'_>, diagnostics: &mut Diagnostics) -> Option<Volume> {
    let labels = fields.get("labels").map_or_else(Vec::new, |node| {
        let labels = node.distinct("`labels`", diagnostics, |item, d| item.integer("a label", 1, i32::MAX.into(), d));
        let mut labels: Vec<i32> = labels.into_iter().map(|label| label.value).collect();
        labels.sort_unstable();
        labels
    });
    let t_map = fields.get("t_map").map(|node| {
        let path = model::path_name(node, "t_map", &[SUBJECT], diagnostics)?.value;
        let is_file = path.ends_with(".nii.gz") || path.ends_with(".nii");
        Some(if is_file { Nifti::File(path) } else { Nifti::Named { folder: "", name: path } })
    });
    let t_above = fields.get("t_above").map(|node| node.number("`t_above`", "a finite number", |_| true, diagnostics));
    let above = match (t_map, t_above) {
        (None, None) => None,
        (Some(map), Some(threshold)) => Some((map?, threshold?)),
        (map, _) => {
            let (given, lacking) = if map.is_some() { ("t_map", "t_above") } else { ("t_above", "t_map") };
            let place = fields.key(given).unwrap_or_default();
            diagnostics.mistake(place, format!("`{given}` without `{lacking}`")).note("a threshold needs both");
            return None;
        }
    };
    Some(Volume { mask: mask?, labels, above })
}
