//! Where NSD keeps what, under one root: the paths of its public bucket (data manual of Allen et al. 2022).

use super::NsdError;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Core sessions of subjects 1 to 8.
pub const SESSIONS: [usize; 8] = [40, 40, 32, 30, 40, 32, 40, 30];

/// One of the eight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Subject(u8);

impl Subject {
    /// Subject 1 to 8.
    pub fn new(number: u8) -> Option<Self> {
        (1..=8).contains(&number).then_some(Self(number))
    }

    pub fn all() -> impl Iterator<Item = Self> {
        (1..=8).map(Self)
    }

    /// Counted from 0: the subject's row in the design.
    pub fn index(self) -> usize {
        usize::from(self.0) - 1
    }

    /// How many core sessions NSD has of the subject.
    pub fn sessions(self) -> usize {
        SESSIONS[self.index()]
    }
}

impl TryFrom<u8> for Subject {
    type Error = NsdError;

    fn try_from(number: u8) -> Result<Self, NsdError> {
        Self::new(number).ok_or_else(|| NsdError::NoSubject(number.to_string()))
    }
}

impl From<Subject> for u8 {
    fn from(subject: Subject) -> u8 {
        subject.0
    }
}

/// `subj01`, as folders are called.
impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "subj{:02}", self.0)
    }
}

/// From `subj01`, `S1` or `1`.
impl FromStr for Subject {
    type Err = NsdError;

    fn from_str(name: &str) -> Result<Self, NsdError> {
        let digits = ["subj", "S", "s"].iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
        digits.parse().ok().and_then(Self::new).ok_or_else(|| NsdError::NoSubject(name.to_owned()))
    }
}

/// A form in which a session's betas are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BetasFormat {
    Hdf5,
    Nifti,
}

/// The dataset under its root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `path` without the root, with `/`: what a manifest calls it.
    pub fn name(&self, path: &Path) -> String {
        let relative = path.strip_prefix(&self.root).unwrap_or(path);
        relative.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/")
    }

    /// Which image was shown on which trial.
    pub fn expdesign(&self) -> PathBuf {
        self.root.join("nsddata/experiments/nsd/nsd_expdesign.mat")
    }

    /// Which image of COCO each image is, and how it was cropped.
    pub fn stim_info(&self) -> PathBuf {
        self.root.join("nsddata/experiments/nsd/nsd_stim_info_merged.csv")
    }

    /// The images as they were shown.
    pub fn stimuli(&self) -> PathBuf {
        self.root.join("nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5")
    }

    fn functional(&self, subject: Subject) -> PathBuf {
        self.root.join(format!("nsddata/ppdata/{subject}/func1pt8mm"))
    }

    /// Its header is the one that outputs carry.
    pub fn brainmask(&self, subject: Subject) -> PathBuf {
        self.functional(subject).join("brainmask.nii.gz")
    }

    /// Labels of both hemispheres, for example `floc-faces`.
    pub fn roi(&self, subject: Subject, name: &str) -> PathBuf {
        self.functional(subject).join(format!("roi/{name}.nii.gz"))
    }

    /// What the labels of `name` are called.
    pub fn ctab(&self, subject: Subject, name: &str) -> PathBuf {
        self.root.join(format!("nsddata/freesurfer/{subject}/label/{name}.mgz.ctab"))
    }

    /// The localiser's t map of `category`, for example `faces`.
    pub fn t_map(&self, subject: Subject, category: &str) -> PathBuf {
        self.functional(subject).join(format!("floc_{category}tval.nii.gz"))
    }

    /// A preparation of the betas, for example `betas_fithrf_GLMdenoise_RR`.
    pub fn betas(&self, subject: Subject, preparation: &str) -> PathBuf {
        self.root.join(format!("nsddata_betas/ppdata/{subject}/func1pt8mm/{preparation}"))
    }

    /// Betas of a session, counted from 1.
    pub fn session(&self, subject: Subject, preparation: &str, session: usize, format: BetasFormat) -> PathBuf {
        let extension = match format {
            BetasFormat::Hdf5 => "hdf5",
            BetasFormat::Nifti => "nii.gz",
        };
        self.betas(subject, preparation).join(format!("betas_session{session:02}.{extension}"))
    }

    /// Noise ceiling signal-to-noise ratio of every voxel.
    pub fn ncsnr(&self, subject: Subject, preparation: &str) -> PathBuf {
        self.betas(subject, preparation).join("ncsnr.nii.gz")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_read_as_people_write_them() {
        for name in ["subj07", "S7", "s7", "7"] {
            assert_eq!(name.parse::<Subject>().unwrap().to_string(), "subj07");
        }
        for name in ["subj09", "0", "S", "subject1", "-1"] {
            assert!(name.parse::<Subject>().is_err(), "{name}");
        }
        assert_eq!(Subject::all().map(Subject::sessions).sum::<usize>() * super::super::TRIALS, 213_000);
    }

    #[test]
    fn a_manifest_names_files_without_their_root() {
        let layout = Layout::new("/data/nsd");
        let path = layout.session(Subject::new(2).unwrap(), "betas_assumehrf", 3, BetasFormat::Hdf5);
        let name = "nsddata_betas/ppdata/subj02/func1pt8mm/betas_assumehrf/betas_session03.hdf5";
        assert_eq!(layout.name(&path), name);
    }
}
