//! `worker simulate-subject`: subjects whose truth is known.

use braindive::encoder::features;
use braindive::models::vit::VisionTransformer;
use braindive::{DType, Device};
use checkpoint::Backbone;
use clap::Args;
use std::path::{Path, PathBuf};
use subject::folder::FileRecord;
use subject::image::RgbImage8;
use subject::nsd::simulate::{self, Formats, Images};

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
            true => simulate::Settings::real_size(),
            false => simulate::Settings::small(),
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
        let backbone = Backbone::find(&self.backbone)?.layout.names().open(&self.backbone)?;
        let record = |path: &Path| FileRecord::of(path, &path.file_name().unwrap_or_default().to_string_lossy());
        settings.backbone = backbone.files().map(record).collect::<Result<_, _>>()?;
        let (dtype, device) = (DType::F32, Device::Cpu);
        let tower = VisionTransformer::load(self.backbone, dtype, &device)?;
        let encode = |images: &[&RgbImage8]| Ok::<_, braindive::Error>(features(&tower, images, &device)?);
        simulate::write(&settings, &self.out, encode)?;
        println!("{}", self.out.display());
        Ok(())
    }
}
