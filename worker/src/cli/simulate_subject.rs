//! `worker simulate-subject`: subjects whose truth is known.

use braindive::nsd::simulate::{self, Formats, Images};
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct SimulateSubject {
    /// Folder to make: the dataset's root
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Subjects, of 1 to 8; in subjects 3, 4, 6 and 8 sessions and repeats are missing at the end
    #[arg(long = "subject", value_name = "N", num_args = 1.., value_delimiter = ',', default_values_t = [1], value_parser = clap::value_parser!(u8).range(1..=8))]
    subjects: Vec<u8>,
    /// Folder of the image tower whose features the voxels answer to
    #[arg(long, value_name = "DIR", default_value = "miniature/bundle/clip")]
    backbone: PathBuf,
    /// Folder of PNG files to show, instead of drawn faces, bodies, places, words and food
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    /// NSD's own sizes: 1 GB a session
    #[arg(long)]
    real_size: bool,
    /// How many sessions of 750 trials are written [default: 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=40))]
    sessions: Option<u8>,
    /// Sessions whose files are missing
    #[arg(long, value_name = "N", value_delimiter = ',')]
    without_session: Vec<usize>,
    /// Side of the images, pixels [default: 32, or 425 with --real-size]
    #[arg(long, value_name = "PIXELS")]
    side: Option<usize>,
    /// Form of the betas [default: both, or hdf5 with --real-size]
    #[arg(long, value_name = "FORM", value_parser = ["both", "hdf5", "nifti"])]
    betas: Option<String>,
    /// What decides everything that is random
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

impl SimulateSubject {
    pub fn run(self) -> anyhow::Result<()> {
        let mut settings = match self.real_size {
            true => simulate::Settings::real_size(self.backbone),
            false => simulate::Settings::small(self.backbone),
        };
        match self.sessions.map(usize::from) {
            Some(sessions) if self.real_size => settings.sessions = Some(sessions),
            Some(sessions) => settings.planned = sessions,
            None => {}
        }
        settings.subjects = self.subjects;
        settings.images = self.images.map_or(Images::Drawn, Images::Folder);
        settings.missing = self.without_session;
        settings.side = self.side.unwrap_or(settings.side);
        settings.formats = match self.betas.as_deref() {
            Some("both") => Formats::Both,
            Some("hdf5") => Formats::Hdf5,
            Some("nifti") => Formats::Nifti,
            _ => settings.formats,
        };
        settings.seed = self.seed;
        simulate::write(&settings, &self.out)?;
        println!("{}", self.out.display());
        Ok(())
    }
}
