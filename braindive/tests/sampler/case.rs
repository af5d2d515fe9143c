//! A golden case: models, inputs, and the trace that the reference wrote.

use braindive::encoder::{Encoder, Objective, Term};
use braindive::error::Result;
use braindive::sampler::schedule::FinalSigma;
use braindive::sampler::schedule::NoiseLevel;
use braindive::sampler::trace::Trace;
use braindive::sampler::{Diffusion, Item, Parameters, Predicted, Sample, Step, predict, sample};
use candle_core::{DType, Device, Tensor};
use serde::Deserialize;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

pub struct Case {
    pub meta: Meta,
    pub diffusion: Diffusion,
    pub encoder: Encoder,
    pub parameters: Parameters,
    pub item: Item,
    pub golden: HashMap<String, Tensor>,
    pub folder: PathBuf,
}

#[derive(Deserialize)]
pub struct Meta {
    pub steps: usize,
    pub gamma: f64,
    pub sag_scale: f64,
    pub final_sigmas_type: String,
    pub voxel_index: Vec<usize>,
    pub denominator: usize,
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

impl Case {
    /// A case of `tests/reference/cases`, or `miniature`.
    pub fn load(name: &str, dtype: DType) -> Self {
        let (folder, bundle) = match name {
            "miniature" => (root().join("miniature/golden"), root().join("miniature/bundle")),
            name => {
                let folder = root().join("tests/reference/cases").join(name);
                (folder.clone(), folder.join("bundle"))
            }
        };
        let meta: Meta = serde_json::from_slice(&std::fs::read(folder.join("meta.json")).unwrap()).unwrap();
        let read = |file: &str| candle_core::safetensors::load(folder.join(file), &Device::Cpu).unwrap();
        let (golden, inputs) = (read("trace.safetensors"), read("inputs.safetensors"));
        let diffusion = Diffusion::load(bundle.join("sd"), dtype, &Device::Cpu).unwrap();
        // The encoder computes in full precision, as the authors' does.
        let full = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
        let encoder = Encoder::load(bundle.join("clip"), bundle.join("encoder"), full, &Device::Cpu).unwrap();
        let term = Term { denominator: meta.denominator, ..Term::mean(name, meta.voxel_index.clone()) };
        let target = Objective { terms: vec![term] }.target(&encoder.head).unwrap();
        let parameters = Parameters {
            steps: meta.steps,
            sag_scale: meta.sag_scale,
            final_sigma: match meta.final_sigmas_type.as_str() {
                "zero" => FinalSigma::Zero,
                "sigma_min" => FinalSigma::SigmaMin,
                other => panic!("{other}"),
            },
            ..Parameters::default()
        };
        let item = Item {
            target,
            gamma: meta.gamma,
            prompt_embeds: golden["prompt_embeds"].clone(),
            initial_latents: inputs["initial_latents"].clone(),
        };
        let schedule: Vec<f32> = inputs["alphas_cumprod"].to_vec1().unwrap();
        assert!(diffusion.schedule.alphas_cumprod() == schedule, "the schedule is not bit-equal to the reference's");
        Self { meta, diffusion, encoder, parameters, item, golden, folder }
    }

    /// A whole run from the initial latents, traced.
    pub fn run(&self) -> HashMap<String, Tensor> {
        let kept = self.golden.get("decoded_steps").map(|steps| steps.to_vec1::<i64>().unwrap()).unwrap_or_default();
        let mut trace = Trace::with_decoded_steps(kept.into_iter().map(|step| step as usize).collect());
        let result = self.sample(|step| {
            trace.record(step, &self.encoder)?;
            Ok(ControlFlow::Continue(()))
        });
        trace.insert_saved_image(&self.golden["final.image_u8"], &self.encoder).unwrap();
        trace.finish(&self.diffusion, &self.encoder, &self.parameters, &self.item, &result.unwrap()).unwrap()
    }

    /// Samples the case's image alone.
    pub fn sample(&self, observer: impl FnMut(&Step<'_>) -> Result<ControlFlow<()>>) -> Result<Sample> {
        let items = std::slice::from_ref(&self.item);
        let mut samples = sample(&self.diffusion, &self.encoder.backbone, &self.parameters, items, observer)?;
        samples.remove(0)
    }

    /// The prediction for the case's image alone.
    pub fn predict(&self, latents: &Tensor, level: NoiseLevel) -> Predicted {
        let batch = self.diffusion.batch(std::slice::from_ref(&self.item)).unwrap();
        predict(&self.diffusion, &self.encoder.backbone, &self.parameters, &batch, latents, level).unwrap()
    }

    /// Row `i` of a golden tensor that is stacked over steps.
    pub fn golden_step(&self, key: &str, i: usize) -> Tensor {
        self.golden[&format!("step.{key}")].get(i).unwrap()
    }
}

/// The largest absolute difference; NaN if there is one.
pub fn difference(ours: &Tensor, golden: &Tensor) -> f64 {
    let [a, b] = [ours, golden].map(|t| t.to_dtype(DType::F64).unwrap().flatten_all().unwrap());
    let values = (a - b).unwrap().abs().unwrap().to_vec1::<f64>().unwrap();
    values.into_iter().fold(0.0, |worst, value| if value <= worst { worst } else { value })
}

/// Asserts that tensors of one shape, but for a batch dimension of 1, differ by at most `tolerance`.
pub fn assert_close(what: &str, ours: &Tensor, golden: &Tensor, tolerance: f64) {
    let trimmed = |t: &Tensor| if t.rank() == 4 { t.dims()[1..].to_vec() } else { t.dims().to_vec() };
    assert_eq!(ours.elem_count(), golden.elem_count(), "{what}: {:?} {:?}", trimmed(ours), trimmed(golden));
    let found = difference(ours, golden);
    assert!(found <= tolerance, "{what} differs by {found:e}, allowed {tolerance:e}");
}
