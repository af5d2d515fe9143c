//! Why a head can't be fitted or judged.

use std::fmt;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum FitError {
    #[error("the setting `{setting}` is {found}, expected {expected}")]
    Setting { setting: &'static str, found: String, expected: &'static str },
    #[error("{} has {images} images to fit to and {held_out} held-out ones; both are needed, at least {least} and 2; prepare it with another split", data.display())]
    TooFewImages { data: PathBuf, images: usize, held_out: usize, least: usize },
    #[error("{} holds {found} for voxel {voxel} and image {image}; betas have to be finite, so prepare the subject again", data.display())]
    NonFiniteBeta { data: PathBuf, image: i64, voxel: usize, found: f32 },
    #[error("the features of image {image} are not finite; the backbone {} is broken", backbone.display())]
    NonFiniteFeatures { backbone: PathBuf, image: i64 },
    #[error(
        "{} holds features that differ from those of the backbone by up to {difference}; it was begun with another backbone or other images: \
         remove the folder it lies in and start again",
        path.display()
    )]
    OtherFeatures { path: PathBuf, difference: f32 },
    #[error("{} is of {found}, expected {expected}; remove the folder it lies in and start again", path.display())]
    OtherTraining { path: PathBuf, found: String, expected: String },
    #[error("the loss of epoch {epoch} is {loss}; take a smaller learning rate")]
    Diverged { epoch: usize, loss: f64 },
    #[error("the head {} predicts {found}, the data {} hold {expected}; take the data that it was fitted to", head.display(), data.display())]
    OtherVoxels { head: PathBuf, data: PathBuf, found: String, expected: String },
    #[error(
        "of the {held_out} held-out images of {} {unknown} are not among those that the head {} was fitted without, for example {example}: scores \
         on images that it may have seen are no evaluation; prepare the data with the head's split",
        data.display(), head.display()
    )]
    FittedTo { head: PathBuf, data: PathBuf, held_out: usize, unknown: usize, example: i64 },
    #[error("{} and {}; scores on different images are not compared", of[0], of[1])]
    OtherSplit { of: Box<[Judged; 2]> },
    #[error("fitting was stopped after {done} of {total} images")]
    Stopped { done: u64, total: u64 },
}

/// An evaluation and the images that it is over.
#[derive(Debug)]
pub struct Judged {
    pub folder: PathBuf,
    pub split: String,
    pub split_sha256: String,
}

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} was evaluated on the split {} (sha256 {})", self.folder.display(), self.split, self.split_sha256)
    }
}
