//! `worker fit` and `worker evaluate`: an encoder of prepared data, and how well one predicts.

use crate::device::DeviceName;
use braindive::encoder::evaluate::{ALL, Evaluation, RegionScores, Summary};
use braindive::encoder::fit::{self, Features, Job, Method, Settings};
use clap::Args;
use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use subject::folder::{FileRecord, Manifest};

/// Flags of `worker fit`.
#[derive(Debug, Args)]
pub struct Fit {
    /// The subject's prepared data
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Folder of the image tower whose features are mapped to voxels
    #[arg(long, value_name = "DIR")]
    backbone: PathBuf,
    /// Folder to make; one that was begun is gone on with
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Settings of the fit (JSON); flags go before it, and the paper's values are taken for what neither says
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// How the head is found [default: adamw, the paper's]
    #[arg(long, value_parser = ["adamw", "ridge"])]
    head: Option<String>,
    /// Whether every epoch augments the images anew, or sees copies whose features are computed once [default: exact, the paper's]
    #[arg(long, value_parser = ["exact", "cached"])]
    features: Option<String>,
    /// Copies of every image, with --features cached [default: 4]
    #[arg(long, value_name = "N")]
    copies: Option<usize>,
    /// [default: 100]
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,
    /// Of the first weights, the order of the images and their augmentation [default: 0]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Take over this head instead of fitting one: a safetensors file, or a checkpoint of the authors' trainer (.chkpt)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["settings", "head", "features", "copies", "epochs", "seed"])]
    import: Option<PathBuf>,
    /// Device to compute features on: cpu or cuda:N
    #[arg(long, default_value = "cpu")]
    device: DeviceName,
}

/// Flags of `worker evaluate`.
#[derive(Debug, Args)]
pub struct Evaluate {
    /// The encoder: its folder or its file
    #[arg(long, value_name = "PATH")]
    encoder: PathBuf,
    /// The subject's prepared data, which say what images are held out
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Folder of the image tower that the encoder was fitted on
    #[arg(long, value_name = "DIR")]
    backbone: PathBuf,
    /// Folder to make
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Compare with the evaluation in this folder, over the same held-out images
    #[arg(long, value_name = "DIR")]
    against: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Device to compute features on: cpu or cuda:N
    #[arg(long, default_value = "cpu")]
    device: DeviceName,
}

impl Fit {
    /// Fits or imports, and prints the scores by region.
    pub fn run(self) -> anyhow::Result<()> {
        let device = self.device.open()?;
        let settings = self.settings()?;
        let asked = match &self.import {
            Some(head) => serde_json::json!({ "import": head_sha256(head)? }),
            None => serde_json::to_value(&settings)?,
        };
        let identity = fit::identity(&self.data, &self.backbone, &asked)?;
        let job =
            Job { data: &self.data, backbone: &self.backbone, out: &self.out, identity: &identity, device: &device };
        let mut said = 0;
        let report = &mut |done, total| tell(done, total, &mut said);
        let manifest: Manifest = match &self.import {
            Some(head) => fit::import(&job, head, report)?,
            None => fit::fit(&job, &settings, report)?,
        };
        print!("{}", table(&Evaluation::read(&self.out)?));
        tracing::info!("{} of {} is in {}", manifest.kind, manifest.subject, self.out.display());
        Ok(())
    }

    fn settings(&self) -> anyhow::Result<Settings> {
        let mut settings: Settings = super::settings(self.settings.as_deref())?;
        match self.head.as_deref() {
            Some("ridge") => settings.head = Method::Ridge,
            Some(_) => settings.head = Method::Adamw,
            None => {}
        }
        match self.features.as_deref() {
            Some("cached") => settings.features = Features::Cached,
            Some(_) => settings.features = Features::Exact,
            None => {}
        }
        settings.copies = self.copies.unwrap_or(settings.copies);
        settings.epochs = self.epochs.unwrap_or(settings.epochs);
        settings.seed = self.seed.unwrap_or(settings.seed);
        Ok(settings)
    }
}

impl Evaluate {
    /// Evaluates, and prints the scores by region, beside another evaluation's if asked to.
    pub fn run(self) -> anyhow::Result<()> {
        let device = self.device.open()?;
        let asked = serde_json::json!({ "evaluate": head_sha256(&self.encoder)? });
        let identity = fit::identity(&self.data, &self.backbone, &asked)?;
        let job =
            Job { data: &self.data, backbone: &self.backbone, out: &self.out, identity: &identity, device: &device };
        let mut said = 0;
        fit::evaluate_head(&job, &self.encoder, &mut |done, total| tell(done, total, &mut said))?;
        let evaluation = Evaluation::read(&self.out)?;
        let differences = match &self.against {
            Some(other) => {
                let against = evaluation.against(&self.out, &Evaluation::read(other)?, other);
                Some(against.map_err(braindive::Error::from)?)
            }
            None => None,
        };
        match (&differences, self.json) {
            (Some(differences), true) => println!("{}", serde_json::to_string_pretty(differences)?),
            (None, true) => println!("{}", serde_json::to_string_pretty(&evaluation)?),
            (Some(differences), false) => {
                println!("{:24} {:>8} {:>8} {:>8} {:>8}", "region", "R2", "other", "r", "other");
                for difference in differences {
                    let [[r2, other_r2], [r, other_r]] = [difference.r2, difference.r];
                    println!("{:24} {r2:8.4} {other_r2:8.4} {r:8.4} {other_r:8.4}", difference.region);
                }
            }
            (None, false) => print!("{}", table(&evaluation)),
        }
        Ok(())
    }
}

/// Of the file of the head at `path`, which is the file itself or its folder.
fn head_sha256(path: &Path) -> braindive::Result<String> {
    Ok(FileRecord::of(&checkpoint::Head::find(path)?, "head")?.sha256)
}

/// Logs every percent; never stops a job that runs by hand.
fn tell(done: u64, total: u64, said: &mut u64) -> ControlFlow<()> {
    let percent = 100 * done / total.max(1);
    if percent > *said {
        *said = percent;
        tracing::info!("{percent} %: {done} of {total} images");
    }
    ControlFlow::Continue(())
}

/// Scores by region with their intervals, all voxels last.
fn table(evaluation: &Evaluation) -> String {
    let cell = |summary: &Option<Summary>| match summary {
        Some(Summary { mean, mean_interval: [low, high], .. }) => format!("{mean:.4} [{low:.4}, {high:.4}]"),
        None => "-".to_owned(),
    };
    let mut text = format!(
        "{} on {} held-out images of {}: means over voxels, and 95 % intervals over draws of the images\n\
         {:24} {:>7} {:>26} {:>26} {:>26}\n",
        evaluation.subject, evaluation.images, evaluation.split, "region", "voxels", "R2", "r", "R2 / noise ceiling"
    );
    let (all, named): (Vec<_>, Vec<_>) = evaluation.regions.iter().partition(|(name, _)| *name == ALL);
    for (name, RegionScores { voxels, r2, r, normalised_r2 }) in named.into_iter().chain(all) {
        let [r2, r, normalised] = [r2, r, normalised_r2].map(cell);
        // Writing to a string can't fail.
        let _ = writeln!(text, "{name:24} {voxels:7} {r2:>26} {r:>26} {normalised:>26}");
    }
    text
}
