//! Clusters of a region of an encoder, as a folder.
//!
//! | file | what |
//! |---|---|
//! | `clusters.json` | [`Report`] |
//! | `centres.safetensors` | `centres` f64 [k, features], unit norm; `kappa`, `alpha` f64 [k] |
//! | `clusters.nii.gz`, `clusters.ctab` | labels 1 to k in the subject's volume, 0 elsewhere, and their names |
//! | `clusters.png` | the volume's slices |
//!
//! The volume and its picture need the places of the head's voxels and the subject's grid; without them they are left out.

use super::{Choice, ClusterError, Directions, Mixture, Settings, choose};
use crate::encoder::Head;
use crate::error::{Error, Result};
use candle_core::{DType, Device, Tensor};
use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use subject::dataset::GRID;
use subject::folder::{Draft, FileRecord, Manifest, Opened, Provenance};
use subject::image::png;
use subject::volume::{Montage, Volume, write_labels};
use subject::write_tensors;

pub const CLUSTERS: &str = "clusters.json";
pub const CENTRES: &str = "centres.safetensors";
pub const LABELS: &str = "clusters.nii.gz";
pub const CTAB: &str = "clusters.ctab";
pub const PICTURE: &str = "clusters.png";

const SOFTWARE: &str = concat!("braindive ", env!("CARGO_PKG_VERSION"));

/// Where a job reads and writes.
#[derive(Debug, Clone, Copy)]
pub struct Job<'a> {
    /// Folder of the encoder; it is not changed.
    pub encoder: &'a Path,
    pub region: &'a Region,
    /// The folder that is made.
    pub out: &'a Path,
    /// What decides its content.
    pub identity: &'a str,
}

/// Named regions of a head, taken together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Region(Vec<String>);

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub region: Region,
    pub settings: Settings,
    pub k: usize,
    pub kappa: Vec<f64>,
    pub alpha: Vec<f64>,
    /// Mean per voxel.
    pub log_likelihood: f64,
    pub iterations: usize,
    /// Mean log density of voxels that were left out, by number of clusters; empty if only one was asked for.
    pub held_out: BTreeMap<usize, f64>,
    /// Cosines between centres [k, k].
    pub cosines: Vec<Vec<f64>>,
    /// Name, for example `food/cluster:1`, to rows of the head, ascending; the largest first.
    pub clusters: BTreeMap<String, Vec<usize>>,
}

/// A folder that is there now.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    pub manifest: Manifest,
    pub report: Report,
}

impl From<String> for Region {
    fn from(text: String) -> Self {
        Self(text.split('+').map(|name| name.trim().to_owned()).collect())
    }
}

impl From<Region> for String {
    fn from(region: Region) -> Self {
        region.0.join("+")
    }
}

impl Region {
    /// The regions' names.
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// Rows of the head, ascending, each once.
    ///
    /// # Errors
    /// The head has no region of a name.
    pub fn rows(&self, head: &Head) -> Result<Vec<usize>> {
        let mut rows = Vec::new();
        for name in &self.0 {
            let known = || head.rois().keys().cloned().collect();
            let (path, name) = (head.path(), name.clone());
            rows.extend(head.rois().get(&name).ok_or_else(|| Error::NoSuchRegion {
                head: path.to_owned(),
                kind: "ROI",
                name,
                known: known(),
            })?);
        }
        rows.sort_unstable();
        rows.dedup();
        Ok(rows)
    }
}

/// Makes the folder, or finds it made. It takes a minute at most, so that one that was stopped begins anew. `progress`: fits that are done
/// and fits in all.
///
/// # Errors
/// The encoder can't be read or has no such region, its rows can't be clustered, `progress` says stop, or the disk fails.
pub fn run(
    job: &Job<'_>,
    settings: &Settings,
    progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<Stored> {
    let draft = match Draft::open(job.out, job.identity)? {
        Opened::Done(manifest) => return Ok(Stored { manifest, report: Report::read(job.out)? }),
        Opened::Draft(draft) => draft,
    };
    let head = Head::load(job.encoder, DType::F32, &Device::Cpu)?;
    let region = job.region.rows(&head)?;
    let rows: Vec<u32> = region.iter().map(|&row| row as u32).collect();
    let weights = head.weight().index_select(&Tensor::new(rows, &Device::Cpu)?, 0)?;
    let directions = Directions::new(&weights.flatten_all()?.to_vec1()?, head.features())?;
    let choice = choose(&directions, settings, progress)?;
    let (k, starts) = (choice.fitted.mixture.means.len(), settings.starts);
    if (0..k).any(|cluster| !choice.fitted.labels.contains(&cluster)) {
        return Err(ClusterError::Collapsed { rows: region.len(), k, starts }.into());
    }

    let report = Report::new(job.region, settings, &region, &choice);
    let path = draft.path().join(CLUSTERS);
    let text = serde_json::to_vec_pretty(&report).map_err(|source| Error::Config { path: path.clone(), source })?;
    write(&path, &text)?;
    write_centres(&draft.path().join(CENTRES), &choice.fitted.mixture)?;
    let grid = head.path().with_file_name(GRID);
    if let (Some(places), true) = (head.voxel_ijk(), grid.is_file()) {
        let labelled: Vec<[usize; 3]> = region.iter().map(|&row| places[row]).collect();
        write_volume(draft.path(), &grid, &labelled, &choice, &report)?;
    }
    let subject = Manifest::read(job.encoder).map(|manifest| manifest.subject).unwrap_or_default();
    let manifest = draft.publish(Provenance {
        kind: "cluster".to_owned(),
        subject,
        settings: serde_json::json!({ "region": job.region, "settings": settings }),
        inputs: inputs(job.encoder)?,
        summary: report.summary(region.len()),
        software: SOFTWARE.to_owned(),
    })?;
    Ok(Stored { manifest, report })
}

impl Report {
    fn new(region: &Region, settings: &Settings, rows: &[usize], choice: &Choice) -> Self {
        let fitted = &choice.fitted;
        let members = |h: usize| rows.iter().zip(&fitted.labels).filter(move |(_, label)| **label == h);
        let clusters = (0..fitted.mixture.means.len())
            .map(|h| (name(region, h), members(h).map(|(&row, _)| row).collect()))
            .collect();
        Self {
            region: region.clone(),
            settings: settings.clone(),
            k: fitted.mixture.means.len(),
            kappa: fitted.mixture.kappa.clone(),
            alpha: fitted.mixture.alpha.clone(),
            log_likelihood: fitted.log_likelihood.last().copied().unwrap_or(f64::NAN),
            iterations: fitted.log_likelihood.len(),
            held_out: choice.held_out.iter().copied().collect(),
            cosines: fitted.mixture.cosines(),
            clusters,
        }
    }

    /// The name of a cluster, counted from 0.
    pub fn name(&self, cluster: usize) -> String {
        name(&self.region, cluster)
    }

    /// Reads what [`run`] wrote to `folder`.
    ///
    /// # Errors
    /// The file can't be read or is no report.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(CLUSTERS);
        let text = std::fs::read(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
        serde_json::from_slice(&text).map_err(|source| Error::Config { path, source })
    }

    fn summary(&self, voxels: usize) -> BTreeMap<String, f64> {
        let mut summary = BTreeMap::from([
            ("voxels".to_owned(), voxels as f64),
            ("k".to_owned(), self.k as f64),
            ("log_likelihood".to_owned(), self.log_likelihood),
        ]);
        let between = (0..self.k).flat_map(|a| (0..a).map(move |b| (a, b))).map(|(a, b)| self.cosines[a][b]);
        if let Some(highest) = between.reduce(f64::max) {
            summary.insert("highest_cosine".to_owned(), highest);
        }
        summary
    }
}

fn name(region: &Region, cluster: usize) -> String {
    format!("{}/cluster:{}", region.0.join("+"), cluster + 1)
}

/// What decides the content of a job's folder: the same text is the same content.
///
/// # Errors
/// The encoder's files can't be read.
pub fn identity(encoder: &Path, region: &Region, settings: &Settings) -> Result<String> {
    let asked =
        serde_json::json!({ "kind": "cluster", "inputs": inputs(encoder)?, "region": region, "settings": settings });
    Ok(asked.to_string())
}

/// Every file of the encoder that decides the clusters.
fn inputs(encoder: &Path) -> Result<Vec<FileRecord>> {
    let head = checkpoint::Head::find(encoder)?;
    let others = ["config.json", GRID].map(|name| head.with_file_name(name));
    let mut inputs = Vec::new();
    for path in std::iter::once(&head).chain(others.iter().filter(|path| path.is_file())) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        inputs.push(FileRecord::of(path, &name)?);
    }
    Ok(inputs)
}

fn write_centres(path: &Path, mixture: &Mixture) -> Result<()> {
    let bytes = |values: &[f64]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let (k, centres) = (mixture.means.len(), mixture.means.concat());
    let shape = vec![k, centres.len() / k.max(1)];
    let tensors = [
        ("centres", Dtype::F64, shape, &bytes(&centres)[..]),
        ("kappa", Dtype::F64, vec![k], &bytes(&mixture.kappa)),
        ("alpha", Dtype::F64, vec![k], &bytes(&mixture.alpha)),
    ];
    Ok(write_tensors(path, &tensors, None)?)
}

/// Label volume, names and picture; `places` are those of the clustered voxels.
fn write_volume(folder: &Path, grid: &Path, places: &[[usize; 3]], choice: &Choice, report: &Report) -> Result<()> {
    let set = Volume::read(grid)?;
    let numbers: Vec<i16> = choice.fitted.labels.iter().map(|&label| label as i16 + 1).collect();
    let labels = set.grid.scatter(places, &numbers, 0)?;
    write_labels(&folder.join(LABELS), &set.grid, &labels)?;
    // A name ends at a space there.
    let named = |h: usize| report.name(h).replace(char::is_whitespace, "_");
    let ctab: String = (0..report.k).map(|h| format!("{} {}\n", h + 1, named(h))).collect();
    write(&folder.join(CTAB), ctab.as_bytes())?;
    let anatomy: Vec<f32> = set.values.iter().map(|&value| value as f32).collect();
    let picture = Montage { grid: &set.grid, anatomy: Some(&anatomy) }.labels(&labels)?;
    write(&folder.join(PICTURE), &png::encode(&picture, &png::Text::new())?)
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).map_err(|source| Error::Write { path: path.to_owned(), source })
}
