//! `worker import-mask`, `worker import-dataset` and `worker import-berg`: what others have made, by hand.

use braindive::encoder::berg;
use clap::Args;
use protocol::version::SOFTWARE;
use std::path::PathBuf;
use subject::nsd::import::dataset::{Settings, import};
use subject::nsd::import::mask::{Mask, Source};

/// Flags of `worker import-mask`.
#[derive(Debug, Args)]
pub struct ImportMask {
    /// Booleans of the volume's shape, or booleans or indices over its voxels: .npy, .mgz, or .pkl of a list of such arrays
    file: PathBuf,
    /// A volume of the subject, whose place in space the mask gets
    #[arg(long, value_name = "NIFTI")]
    like: PathBuf,
    /// Volumes whose voxels above --above a flattened mask covers, for example nsdgeneral.nii.gz [default: all voxels]
    #[arg(long, value_name = "NIFTI")]
    within: Vec<PathBuf>,
    /// What belongs to the volumes of --within: cortex is above -0.5 in NSD's
    #[arg(long, value_name = "VALUE", default_value_t = -0.5, allow_negative_numbers = true)]
    above: f64,
    /// Which array of a list, counted from 0: subject 1 comes first in the authors' lists
    #[arg(long, value_name = "N")]
    item: Option<usize>,
    /// Volume to write, .nii or .nii.gz
    #[arg(long, value_name = "NIFTI")]
    out: PathBuf,
}

impl ImportMask {
    /// Writes the volume and says how large the mask is.
    pub fn run(self) -> anyhow::Result<()> {
        let Self { file, like, within, above, item, out } = self;
        let mask = Mask::read(&Source { file, item, like, within, above })?;
        mask.write(&out, SOFTWARE)?;
        println!("{}: {} voxels", out.display(), mask.voxels());
        Ok(())
    }
}

/// Flags of `worker import-dataset`.
#[derive(Debug, Args)]
pub struct ImportDataset {
    /// What to take over (JSON): images, betas, regions and how they are split; paths are as seen from here
    #[arg(long, value_name = "FILE", required_unless_present = "algonauts", conflicts_with = "algonauts")]
    settings: Option<PathBuf>,
    /// A subject's folder of the Algonauts Project 2023, which holds training_split and roi_masks
    #[arg(long, value_name = "DIR")]
    algonauts: Option<PathBuf>,
    /// Side of the prepared images, pixels [default: 256]
    #[arg(long, value_name = "PIXELS")]
    image_size: Option<usize>,
    /// Folder to make
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

impl ImportDataset {
    /// Makes the prepared subject and prints its size.
    pub fn run(self) -> anyhow::Result<()> {
        let mut settings = match &self.algonauts {
            Some(root) => {
                let subject = root.file_name().unwrap_or_default().to_string_lossy();
                Settings::algonauts(root, &subject)?
            }
            None => super::settings(self.settings.as_deref())?,
        };
        settings.image_size = self.image_size.unwrap_or(settings.image_size);
        let manifest = import(&settings, &self.out)?;
        let sizes: Vec<String> = manifest.summary.iter().map(|(name, value)| format!("{name} {value}")).collect();
        println!("{}: {}", self.out.display(), sizes.join(", "));
        Ok(())
    }
}

/// Flags of `worker import-berg`.
#[derive(Debug, Args)]
pub struct ImportBerg {
    /// weights_subject-NN.npy of BERG's model fmri-nsd_fsaverage-vit_b_32; what is pickled in it is not executed
    #[arg(long, value_name = "FILE")]
    weights: PathBuf,
    /// metadata_subject-NN.npy of the same subject: which vertices are a region, which images were held out
    #[arg(long, value_name = "FILE")]
    metadata: PathBuf,
    /// torchvision's vit_b_32 (IMAGENET1K_V1): a .pth file or safetensors
    #[arg(long, value_name = "FILE")]
    backbone: PathBuf,
    /// The subject's name, for example subj01
    #[arg(long, value_name = "NAME")]
    subject: String,
    /// Keep only the vertices of these regions, for example FFA-1 [default: all vertices]
    #[arg(long, value_name = "NAME")]
    region: Vec<String>,
    /// Shorter side of the image whose centre the backbone sees, pixels: 256 as BERG predicts, 224 as it was trained
    #[arg(long, value_name = "PIXELS", default_value_t = 256)]
    resize: usize,
    /// The backbone's attention heads [default: one for 64 features]
    #[arg(long, value_name = "N")]
    heads: Option<usize>,
    /// Folder for the folders `backbone` and `encoder`
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

impl ImportBerg {
    /// Makes both folders and says how large they are.
    pub fn run(self) -> anyhow::Result<()> {
        let Self { weights, metadata, backbone, subject, region: regions, resize, heads, out } = self;
        let source = berg::Source { weights, metadata, backbone, subject, regions, resize, heads };
        for (name, manifest) in ["backbone", "encoder"].iter().zip(berg::import(&source, &out)?) {
            let sizes: Vec<String> = manifest.summary.iter().map(|(name, value)| format!("{name} {value}")).collect();
            println!("{}: {}", out.join(name).display(), sizes.join(", "));
        }
        Ok(())
    }
}
