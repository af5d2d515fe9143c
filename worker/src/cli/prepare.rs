//! `worker prepare`: a subject of NSD to a folder of prepared data, by hand.

use braindive::{Error, Result};
use clap::Args;
use protocol::version::SOFTWARE;
use sha2::{Digest, Sha256};
use std::io::{IsTerminal, Write, stderr};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use subject::dataset::Dataset;
use subject::folder::{FileRecord, Manifest};
use subject::nsd::Subject;
use subject::nsd::import::mask::parcels;
use subject::nsd::prepare::{KIND, Settings, run};

#[derive(Debug, Args)]
pub struct Prepare {
    /// The dataset's root, which holds nsddata and nsddata_betas
    root: PathBuf,
    /// Subject, for example subj01
    #[arg(long)]
    subject: Subject,
    /// Folder to make; while it is made it is called DIR.partial
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Preparation of the betas: the name of their folder [default: betas_fithrf_GLMdenoise_RR]
    #[arg(long, value_name = "NAME")]
    betas: Option<String>,
    /// How many sessions there have to be [default: all that the subject took part in]
    #[arg(long, value_name = "N")]
    sessions: Option<usize>,
    /// Members of the voxel set: ROI volumes, parcels, food, cortex [default: as the paper]
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    voxels: Option<Vec<String>>,
    /// How many parcels of HCP_MMP1, those of the highest noise ceiling [default: 45]
    #[arg(long, value_name = "N")]
    parcels: Option<usize>,
    /// Subjects whose noise ceilings rank the parcels [default: all that are there]
    #[arg(long, value_name = "SUBJECT", num_args = 1.., value_delimiter = ',')]
    ranked_by: Vec<Subject>,
    /// Parcels by number, instead of ranking them
    #[arg(long, value_name = "N", num_args = 1.., value_delimiter = ',')]
    parcel_ids: Vec<u16>,
    /// As --parcel-ids, in a file like the authors' best_HCP.npy
    #[arg(long, value_name = "FILE", conflicts_with = "parcel_ids")]
    parcel_file: Option<PathBuf>,
    /// ROI volumes whose labelled voxels are left out [default: prf-visualrois]
    #[arg(long, value_name = "NAME", num_args = 0.., value_delimiter = ',')]
    exclude: Option<Vec<String>>,
    /// NIfTI volume, larger than 0.5 in food-selective voxels
    #[arg(long, value_name = "FILE")]
    food: Option<PathBuf>,
    /// Regions are labels where the localiser's t map is larger [default: 2]
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    t_above: Option<f64>,
    /// Held-out images: shared907, shared515, or a file of 73k ids counted from 0 [default: shared907]
    #[arg(long)]
    split: Option<String>,
    /// Side of the prepared images, pixels [default: 256]
    #[arg(long, value_name = "PIXELS")]
    image_size: Option<usize>,
    /// Folder of COCO's train2017 and val2017, instead of the images as they were shown
    #[arg(long, value_name = "DIR")]
    stimuli: Option<PathBuf>,
}

impl Prepare {
    pub fn run(self) -> anyhow::Result<()> {
        let default = Settings::default();
        let parcel_ids = match &self.parcel_file {
            Some(file) => parcels(file).map_err(Error::from)?,
            None => self.parcel_ids,
        };
        let settings = Settings {
            root: self.root,
            betas: self.betas.unwrap_or(default.betas),
            sessions: self.sessions,
            voxels: self.voxels.unwrap_or(default.voxels),
            parcels: self.parcels.unwrap_or(default.parcels),
            ranked_by: self.ranked_by,
            parcel_ids,
            exclude: self.exclude.unwrap_or(default.exclude),
            food: self.food,
            t_above: self.t_above.unwrap_or(default.t_above),
            split: self.split.unwrap_or(default.split),
            image_size: self.image_size.unwrap_or(default.image_size),
            stimuli: self.stimuli,
        };
        let manifest = by_hand(self.subject, &settings, &self.out)?;
        println!("{}", self.out.display());
        for (what, number) in &manifest.summary {
            println!("  {what}: {number}");
        }
        let prepared = Dataset::open(&self.out)?;
        let regions = &prepared.regions().regions;
        let empty: Vec<&str> =
            regions.iter().filter(|(_, region)| region.rows.is_empty()).map(|(name, _)| name.as_str()).collect();
        if !empty.is_empty() {
            println!("without a voxel of the set, so that nothing can be asked of them: {}", empty.join(", "));
        }
        Ok(())
    }
}

/// Makes the folder `out`, or goes on making it; how far it is shows on a terminal.
fn by_hand(subject: Subject, settings: &Settings, out: &Path) -> Result<Manifest> {
    let identity = identity(subject, settings)?;
    let mut shown = None;
    let mut progress = |done: u64, total: u64| {
        let per_cent = done.saturating_mul(100) / total.max(1);
        if shown != Some(per_cent) && stderr().is_terminal() {
            // What cannot be shown is no reason to stop.
            let _ = write!(stderr(), "\rpreparing {subject}: {per_cent} %");
            shown = Some(per_cent);
        }
        ControlFlow::Continue(())
    };
    let manifest = run(subject, settings, out, &identity, SOFTWARE, &mut progress);
    if shown.is_some() {
        let _ = writeln!(stderr());
    }
    Ok(manifest?)
}

/// What decides the folder's content, for a command that no coordinator gave a key: all that is asked for, and the files that are not the
/// dataset's own by their content.
fn identity(subject: Subject, settings: &Settings) -> Result<String> {
    let files = [Some(Path::new(&settings.split)), settings.food.as_deref()].into_iter().flatten();
    let files: Vec<String> = files
        .filter(|path| path.is_file())
        .map(|path| FileRecord::of(path, "").map(|record| record.sha256))
        .collect::<Result<_, _>>()?;
    let decided = serde_json::json!([KIND, subject.to_string(), settings, files, SOFTWARE]);
    Ok(Sha256::digest(decided.to_string()).iter().map(|byte| format!("{byte:02x}")).collect())
}
