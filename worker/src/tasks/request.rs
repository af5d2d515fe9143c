//! A sampling request as a file: what `worker sample` runs without a coordinator.

use protocol::ids::Seed;
use protocol::job::FinalSigma;
use protocol::probe::ProbeClass;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use std::fmt;
use std::path::{Path, PathBuf};

/// One sample: models, objective, starting noise, sampler parameters, probe classes.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    pub models: Models,
    pub objective: Objective,
    /// The starting latents, from a file. Exactly one of this and `seed`.
    #[serde(default)]
    pub initial_latents: Option<InitialLatents>,
    /// The seed of the starting latents.
    #[serde(default)]
    pub seed: Option<Seed>,
    /// Image width and height in pixels; needed with `seed`.
    #[serde(default)]
    pub size: Option<[u32; 2]>,
    #[serde(default)]
    pub prompt: String,
    pub steps: u32,
    pub gamma: f64,
    pub sag_scale: f64,
    #[serde(default = "default_final_sigma")]
    pub final_sigma: FinalSigma,
    /// Probe classes in the order of the file.
    #[serde(deserialize_with = "in_order")]
    pub probes: Vec<ProbeClass>,
}

/// Folders and files of the models; relative to the request file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Models {
    pub diffusion: PathBuf,
    pub backbone: PathBuf,
    pub head: PathBuf,
    pub probe: PathBuf,
}

/// The mean over `voxels` that guidance maximises: their sum divided by `denominator`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Objective {
    /// Row numbers of the head.
    pub voxels: Vec<u32>,
    /// The number of voxels if absent.
    #[serde(default)]
    pub denominator: Option<u32>,
}

/// A tensor `[1, 4, height, width]` in a safetensors file; relative to the request file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitialLatents {
    pub file: PathBuf,
    pub tensor: String,
}

/// Why a request cannot be run as it stands.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("cannot read the request {path}")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("the request {path} is not valid")]
    Malformed { path: PathBuf, source: serde_json::Error },
    #[error("the request {path} needs either `initial_latents`, or `seed` and `size`")]
    Start { path: PathBuf },
}

impl Request {
    /// Reads a request; its paths come out relative to the current folder.
    pub fn read(path: &Path) -> Result<Self, RequestError> {
        let text = std::fs::read(path).map_err(|source| RequestError::Unreadable { path: path.to_owned(), source })?;
        let mut request: Self = serde_json::from_slice(&text)
            .map_err(|source| RequestError::Malformed { path: path.to_owned(), source })?;
        let from_seed = request.seed.is_some() && request.size.is_some();
        if from_seed == request.initial_latents.is_some() {
            return Err(RequestError::Start { path: path.to_owned() });
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        let models = &mut request.models;
        let latents = request.initial_latents.as_mut().map(|latents| &mut latents.file);
        for file in [&mut models.diffusion, &mut models.backbone, &mut models.head, &mut models.probe]
            .into_iter()
            .chain(latents)
        {
            *file = folder.join(&*file);
        }
        Ok(request)
    }
}

fn default_final_sigma() -> FinalSigma {
    FinalSigma::Zero
}

/// Reads `{class: [prompt, …], …}` in the order of the file.
fn in_order<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<ProbeClass>, D::Error> {
    struct Classes;
    impl<'de> Visitor<'de> for Classes {
        type Value = Vec<ProbeClass>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map of class names to lists of prompts")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut classes = Vec::new();
            while let Some((name, prompts)) = map.next_entry()? {
                classes.push(ProbeClass { name, prompts });
            }
            Ok(classes)
        }
    }
    deserializer.deserialize_map(Classes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn cases() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/reference/cases")
    }

    #[test]
    fn the_reference_requests_read_with_paths_beside_them_and_classes_in_order() {
        let folder = cases().join("three_s50_2023");
        let request = Request::read(&folder.join("request.json")).unwrap();
        assert_eq!(request.models.head, folder.join("bundle/encoder/head.safetensors"));
        assert_eq!(request.objective.denominator, Some(34));
        assert_eq!(request.final_sigma, FinalSigma::SigmaMin);
        let names: Vec<_> = request.probes.iter().map(|class| class.name.as_str()).collect();
        assert_eq!(names, ["face", "body", "scene", "food", "text"]);
    }

    #[test]
    fn an_unknown_field_or_a_missing_start_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("request.json");
        let text = std::fs::read_to_string(cases().join("small_s5/request.json")).unwrap();
        std::fs::write(&path, text.replacen("\"steps\"", "\"stepz\"", 1)).unwrap();
        let error = Request::read(&path).unwrap_err();
        assert!(std::error::Error::source(&error).unwrap().to_string().contains("unknown field `stepz`"));
        std::fs::write(&path, text.replacen("\"prompt\"", "\"seed\": 1, \"size\": [32, 32], \"prompt\"", 1)).unwrap();
        assert!(matches!(Request::read(&path), Err(RequestError::Start { .. })));
    }
}
