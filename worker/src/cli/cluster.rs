//! `worker cluster`: clusters of a region of an encoder, by hand.

use braindive::cluster::{self, Assignment, Job, Region, Report, Settings};
use clap::Args;
use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::path::PathBuf;

/// Flags of `worker cluster`.
#[derive(Debug, Args)]
pub struct Cluster {
    /// Folder of the encoder; it is not changed
    encoder: PathBuf,
    /// A region of the encoder's `config.json`, or several joined by +
    #[arg(long, value_name = "NAME")]
    region: String,
    /// Folder to make
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Settings (JSON); flags go before it
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// How many clusters; of several numbers the one that says most of voxels that were left out [default: 2]
    #[arg(long, value_name = "K", value_delimiter = ',')]
    k: Vec<usize>,
    /// Share every voxel out to its most probable cluster only, instead of by probability
    #[arg(long)]
    hard: bool,
    /// Random starts, of which the most likely counts [default: 10]
    #[arg(long, value_name = "N")]
    starts: Option<usize>,
    /// What decides the starts and what voxels are left out [default: 0]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Cluster {
    /// Clusters, and prints what was found.
    pub fn run(self) -> anyhow::Result<()> {
        let settings = self.settings()?;
        let region = Region::from(self.region);
        let identity = cluster::identity(&self.encoder, &region, &settings)?;
        let job = Job { encoder: &self.encoder, region: &region, out: &self.out, identity: &identity };
        let report = cluster::run(&job, &settings, &mut |_, _| ControlFlow::Continue(()))?.report;
        match self.json {
            true => println!("{}", serde_json::to_string_pretty(&report)?),
            false => print!("{}", table(&report)),
        }
        tracing::info!("the clusters are in {}", self.out.display());
        Ok(())
    }

    fn settings(&self) -> anyhow::Result<Settings> {
        let mut settings: Settings = super::settings(self.settings.as_deref())?;
        if !self.k.is_empty() {
            settings.k.clone_from(&self.k);
        }
        if self.hard {
            settings.assign = Assignment::Hard;
        }
        settings.starts = self.starts.unwrap_or(settings.starts);
        settings.seed = self.seed.unwrap_or(settings.seed);
        Ok(settings)
    }
}

/// A line per cluster, then the likelihoods of voxels that were left out.
fn table(report: &Report) -> String {
    let width = report.clusters.keys().map(String::len).max().unwrap_or(0).max("cluster".len());
    let mut text = format!("{:width$} {:>7} {:>10} {:>7}  cosines\n", "cluster", "voxels", "kappa", "alpha");
    for number in 0..report.k {
        let name = report.name(number);
        let voxels = report.clusters.get(&name).map_or(0, Vec::len);
        let cosines: Vec<String> = report.cosines[number].iter().map(|cosine| format!("{cosine:6.3}")).collect();
        // Writing to a string can't fail.
        let _ = writeln!(
            text,
            "{name:width$} {voxels:7} {:10.2} {:7.4}  {}",
            report.kappa[number],
            report.alpha[number],
            cosines.join(" ")
        );
    }
    for (k, likelihood) in &report.held_out {
        let _ = writeln!(text, "k = {k}: log-likelihood of a voxel that was left out {likelihood:.4}");
    }
    text
}
