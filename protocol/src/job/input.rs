//! Files and folders that a condition reads: known by what they hold, or by what will make them.

use crate::ids::{Digest, Seed};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};

/// A model folder, the files in it that decide results, and their digests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFolder {
    /// Absolute path as the coordinator sees it; workers see the same file system.
    pub path: PathBuf,
    /// sha256 over the manifest's lines `<sha256>  <name>\n`, in the manifest's order.
    pub digest: Digest,
    /// Sorted by name.
    pub files: Vec<ModelFile>,
}

/// One file of a model folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFile {
    /// Path below the folder, with `/`.
    pub name: String,
    pub bytes: u64,
    pub sha256: Digest,
}

/// A folder that a condition reads. Either way, what it holds is decided before any job runs, and so is the key of the condition that
/// reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Input {
    /// It was there when the experiment was submitted.
    Content(ModelFolder),
    /// A job of a needed experiment makes it, or has made it.
    Made(MadeFolder),
}

/// A folder that a job makes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeFolder {
    /// Absolute path as the coordinator sees it; workers see the same file system.
    pub path: PathBuf,
    /// What its `manifest.json` will say of its origin.
    pub made_by: Origin,
}

/// Which job a folder comes from. The key says everything about it but its seed, so that equal origins mean equal content.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// Key of the job's condition.
    pub condition: Digest,
    pub seed: Seed,
}

impl fmt::Display for Origin {
    /// As it stands in manifests under `identity`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.condition, self.seed)
    }
}

/// Where jobs of a condition write their folders: an absolute path in which `{seed}` stands for the job's seed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Out(PathBuf);

impl Out {
    /// Stands for the job's seed.
    pub const SEED: &str = "{seed}";

    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// The folder of one job.
    pub fn of(&self, seed: Seed) -> PathBuf {
        self.0
            .iter()
            .map(|part| match part.to_str() {
                Some(text) => text.replace(Self::SEED, &seed.to_string()).into(),
                None => part.to_owned(),
            })
            .collect()
    }
}

impl Input {
    pub fn path(&self) -> &Path {
        match self {
            Self::Content(folder) => &folder.path,
            Self::Made(folder) => &folder.path,
        }
    }

    /// Key of the condition that makes it, if one does.
    pub fn maker(&self) -> Option<&Digest> {
        match self {
            Self::Content(_) => None,
            Self::Made(folder) => Some(&folder.made_by.condition),
        }
    }

    /// Decides what the folder holds: the digest of its content, or its origin.
    pub fn identity(&self) -> String {
        match self {
            Self::Content(folder) => folder.digest.to_string(),
            Self::Made(folder) => folder.made_by.to_string(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Conditions that were submitted before there were folders to be made are read as they were written.
    #[test]
    fn a_folder_known_by_content_is_written_as_ever_and_one_to_be_made_reads_back() {
        let digest = Digest::from_bytes(&[7; 32]);
        let folder = ModelFolder { path: "/a".into(), digest: digest.clone(), files: Vec::new() };
        let content = Input::Content(folder.clone());
        assert_eq!(serde_json::to_string(&content).unwrap(), serde_json::to_string(&folder).unwrap());
        let made =
            Input::Made(MadeFolder { path: "/b".into(), made_by: Origin { condition: digest.clone(), seed: Seed(3) } });
        assert_eq!(made.identity(), format!("{digest}/3"));
        for input in [content, made] {
            let text = serde_json::to_string(&input).unwrap();
            assert_eq!(serde_json::from_str::<Input>(&text).unwrap(), input, "{text}");
        }
    }
}
