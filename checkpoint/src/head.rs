//! A subject's voxel head: `head.safetensors`, or a checkpoint of BrainDiVE's trainer (Luo et al. 2023), which keeps the
//! head of subject S as `final_{S}_higher.weight` and `.bias` beside the backbone.

use super::error::{Error, Problem};
use super::mapped::{Checkpoint, Tensor};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// An opened head.
#[derive(Debug)]
pub struct Head {
    pub checkpoint: Checkpoint,
    /// Keys of the weight [voxels, features] and of the bias [voxels].
    pub weight: String,
    pub bias: String,
    pub voxels: usize,
    pub features: usize,
}

/// What `config.json` beside a head may say about which one to take.
#[derive(Default, Deserialize)]
struct Config {
    /// A number or a text.
    subject: Option<serde_json::Value>,
}

impl Head {
    /// The file of the head at `path`, which is the file itself or a folder with `head.safetensors` or with one
    /// checkpoint (`*.chkpt`, `*.pt`, `*.pth`).
    ///
    /// # Errors
    /// The folder has no head, or several checkpoints.
    pub fn find(path: &Path) -> Result<PathBuf, Error> {
        if !path.is_dir() {
            return Ok(path.to_owned());
        }
        let whole = path.join("head.safetensors");
        if whole.is_file() {
            return Ok(whole);
        }
        let failed = |error| Problem::Read(error).of(path);
        let mut checkpoints = Vec::new();
        for entry in std::fs::read_dir(path).map_err(failed)? {
            let file = entry.map_err(failed)?.path();
            if file.extension().is_some_and(|ending| ending == "chkpt" || ending == "pt" || ending == "pth") {
                checkpoints.push(file);
            }
        }
        checkpoints.sort();
        match &checkpoints[..] {
            [one] => Ok(one.clone()),
            [] => {
                Err(Problem::NoHead(["head.safetensors", "*.chkpt", "*.pt", "*.pth"].map(str::to_owned).into())
                    .of(path))
            }
            several => {
                let name = |file: &PathBuf| file.file_name().unwrap_or_default().to_string_lossy().into_owned();
                Err(Problem::SeveralHeads(several.iter().map(name).collect()).of(path))
            }
        }
    }

    /// Opens the head at `path`, as [`Head::find`] finds it. Of a checkpoint with several subjects, `subject` in a `config.json`
    /// beside it names one.
    ///
    /// # Errors
    /// As [`Head::find`] and [`Checkpoint::open`]; weight or bias are missing or of other shapes; or the file holds
    /// several subjects, which the error names, and nothing says which.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let path = Self::find(path)?;
        let checkpoint = Checkpoint::open(&path)?;
        let [weight, bias] = keys(&checkpoint)?;
        let shape = |key: &str| checkpoint.tensors().get(key).map(|tensor: &Tensor| tensor.shape.as_slice());
        match (shape(&weight), shape(&bias)) {
            (Some(&[voxels, features]), Some(&[biases])) if voxels == biases && voxels > 0 => {
                Ok(Self { weight, bias, voxels, features, checkpoint })
            }
            (of_weight, of_bias) => {
                let word = |shape: Option<&[usize]>| shape.map_or("nothing".to_owned(), |shape| format!("{shape:?}"));
                Err(Problem::HeadShape { weight: word(of_weight), bias: word(of_bias) }.of(&path))
            }
        }
    }
}

/// The keys of weight and bias.
fn keys(checkpoint: &Checkpoint) -> Result<[String; 2], Error> {
    let subjects: Vec<(&str, &str)> = checkpoint.tensors().keys().filter_map(|key| subject(key)).collect();
    let names = || subjects.iter().map(|(_, subject)| (*subject).to_owned()).collect::<Vec<_>>();
    let pair = |stem: String| [format!("{stem}weight"), format!("{stem}bias")];
    let path = checkpoint.path();
    match (&subjects[..], asked_subject(path)?) {
        ([], _) => Ok(pair(String::new())),
        (subjects, Some(asked)) => match subjects.iter().find(|(_, subject)| *subject == asked) {
            Some((prefix, subject)) => Ok(pair(format!("{prefix}final_{subject}_higher."))),
            None => Err(Problem::NoSuchSubject { asked, found: names() }.of(path)),
        },
        ([(prefix, subject)], None) => Ok(pair(format!("{prefix}final_{subject}_higher."))),
        (_, None) => Err(Problem::SeveralSubjects(names()).of(path)),
    }
}

/// Prefix and subject of a key like `final_1_higher.weight`.
fn subject(key: &str) -> Option<(&str, &str)> {
    let (prefix, rest) = key.split_at(key.find("final_")?);
    let subject = rest.strip_prefix("final_")?.strip_suffix("_higher.weight")?;
    (prefix.is_empty() || prefix.ends_with('.')).then_some((prefix, subject))
}

/// The subject that `config.json` beside the file names.
fn asked_subject(path: &Path) -> Result<Option<String>, Error> {
    let config = path.with_file_name("config.json");
    if !config.is_file() {
        return Ok(None);
    }
    let text = std::fs::read(&config).map_err(|error| Problem::Read(error).of(&config))?;
    let said: Config = serde_json::from_slice(&text).map_err(|error| Problem::Config(error).of(&config))?;
    Ok(said.subject.map(|subject| subject.as_str().map_or_else(|| subject.to_string(), str::to_owned)))
}
