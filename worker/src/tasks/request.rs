//! A sampling request as a file: what `worker sample` runs without a coordinator.

use super::request_objective::Objective;
use protocol::ids::Digest;
use protocol::ids::Seed;
use protocol::job::{FinalSigma, Gradient, NoiseLayout, Precision, Sampling, Solver, Start};
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
    #[serde(default)]
    pub solver: Solver,
    /// What `seed` names.
    #[serde(default)]
    pub noise: NoiseLayout,
    /// Classifier-free guidance scale, 1 or more; needs a prompt.
    #[serde(default)]
    pub text_guidance: Option<f64>,
    /// A PNG file of the sample's size to start from, with `strength`.
    #[serde(default)]
    pub init_image: Option<PathBuf>,
    /// Share of the schedule that is run from `init_image`.
    #[serde(default)]
    pub strength: Option<f64>,
    /// Brain guidance acts in step i of n if from <= i/n < to.
    #[serde(default)]
    pub guidance_interval: Option<[f64; 2]>,
    #[serde(default)]
    pub gradient: Gradient,
    #[serde(default)]
    pub precision: Precision,
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
    #[error("the request {path}: {found}; expected {expected}")]
    Conflict { path: PathBuf, found: String, expected: &'static str },
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
        if let Some((found, expected)) = request.conflict() {
            return Err(RequestError::Conflict { path: path.to_owned(), found, expected });
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        let models = &mut request.models;
        let latents = request.initial_latents.as_mut().map(|latents| &mut latents.file);
        for file in [&mut models.diffusion, &mut models.backbone, &mut models.head, &mut models.probe]
            .into_iter()
            .chain(latents)
            .chain(request.init_image.as_mut())
            .chain(request.objective.files())
        {
            *file = folder.join(&*file);
        }
        Ok(request)
    }

    /// What does not go together: what was found, what was expected.
    fn conflict(&self) -> Option<(String, &'static str)> {
        if let Some(scale) = self.text_guidance.filter(|&scale| !(scale >= 1.0 && scale.is_finite())) {
            return Some((format!("`text_guidance` is {scale}"), "a number, 1 or more"));
        }
        if self.text_guidance.is_some_and(|scale| scale != 1.0) && self.prompt.is_empty() {
            return Some(("`text_guidance` with an empty `prompt`".to_owned(), "a prompt to guide to"));
        }
        if self.init_image.is_some() != self.strength.is_some() {
            return Some((
                "one of `init_image` and `strength` without the other".to_owned(),
                "both: the image, and the share of the schedule that is run from it",
            ));
        }
        None
    }

    /// The parameters as a job has them. `size`: width and height of the image in pixels; `image`: sha256 of `init_image`.
    pub fn sampling(&self, size: [u32; 2], image: Option<Digest>) -> Sampling {
        Sampling {
            steps: self.steps,
            gamma: self.gamma,
            sag_scale: self.sag_scale,
            size,
            prompt: self.prompt.clone(),
            final_sigma: self.final_sigma,
            solver: self.solver,
            noise: self.noise,
            text_guidance: self.text_guidance.filter(|&scale| scale != 1.0),
            start: image.zip(self.strength).map(|(image, strength)| Start { image, strength }),
            guidance_interval: self.guidance_interval.filter(|&interval| interval != [0.0, 1.0]),
            gradient: self.gradient,
            precision: self.precision,
            ..Sampling::default()
        }
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
        assert_eq!((request.objective.terms.len(), request.objective.terms[0].denominator), (1, Some(34)));
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

    #[test]
    fn parameters_that_do_not_go_together_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("request.json");
        let text = std::fs::read_to_string(cases().join("small_s5/request.json")).unwrap();
        for (fields, message) in [
            ("\"text_guidance\": 0.5", "`text_guidance` is 0.5"),
            ("\"text_guidance\": 7.5", "`text_guidance` with an empty `prompt`"),
            ("\"strength\": 0.5", "one of `init_image` and `strength`"),
            ("\"init_image\": \"a.png\"", "one of `init_image` and `strength`"),
        ] {
            std::fs::write(&path, text.replacen("\"steps\"", &format!("{fields}, \"steps\""), 1)).unwrap();
            let error = Request::read(&path).unwrap_err().to_string();
            assert!(error.contains(message) && error.contains("expected"), "{error}");
        }
    }

    #[test]
    fn every_parameter_of_a_job_can_be_asked_for_by_hand() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("request.json");
        let text = std::fs::read_to_string(cases().join("small_s5/request.json")).unwrap();
        let fields = r#""solver": "ddim", "noise": "torch_cpu", "text_guidance": 7.5, "init_image": "a.png", "strength": 0.6,
            "guidance_interval": [0, 0.5], "gradient": "pred_x0", "precision": "half", "prompt": "a cat""#;
        std::fs::write(&path, text.replacen(r#""prompt": """#, fields, 1)).unwrap();
        let request = Request::read(&path).unwrap();
        assert_eq!(request.init_image.as_deref(), Some(&*folder.path().join("a.png")));
        let image = Digest::from_bytes(&[7; 32]);
        let sampling = request.sampling([32, 32], Some(image.clone()));
        let expected = Sampling {
            steps: 5,
            gamma: 130.0,
            sag_scale: 0.75,
            size: [32, 32],
            prompt: "a cat".to_owned(),
            solver: Solver::Ddim,
            noise: NoiseLayout::TorchCpu,
            text_guidance: Some(7.5),
            start: Some(Start { image, strength: 0.6 }),
            guidance_interval: Some([0.0, 0.5]),
            gradient: Gradient::PredX0,
            precision: Precision::Half,
            ..Sampling::default()
        };
        assert_eq!(sampling, expected);
    }
}
