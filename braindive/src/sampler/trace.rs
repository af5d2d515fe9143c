//! A recording of everything that a run computed, as a safetensors file: per-step tensors stacked under `step.`.

use super::schedule::sigma;
use super::{Diffusion, Item, Parameters, Sample, Step};
use crate::encoder::{Encoder, encode};
use crate::error::{Error, Result};
use candle_core::{DType, Device, Tensor};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Observes a run; [`Trace::finish`] turns what it saw into tensors by name.
///
/// Stacked over steps: `step.latents_in`, `noise_pred`, `noise_pred_sag`, `noise_pred_final`, `solver_x0`, `latents_out`;
/// with text guidance `null_pred`, the empty prompt's, which `noise_pred_sag` builds on; with self-attention guidance `attn_colsum`, `sag_mask`, `sag_pred_x0`, `sag_blurred`, `degraded_latents`,
/// `degraded_pred`; with brain guidance `pred_x0`, `blended`, `grad_latents`, `clip_features`, `voxels`,
/// `mean_activation`, `clamp_margin`, and of the steps in `decoded_steps` `decoded_raw` and `clip_input`.
#[derive(Debug, Default)]
pub struct Trace {
    steps: BTreeMap<&'static str, Vec<Tensor>>,
    singles: HashMap<String, Tensor>,
    decoded_steps: Vec<i64>,
    keep_decoded: Option<Vec<usize>>,
}

impl Trace {
    /// Keeps the decoded image of every step.
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps the decoded images of these steps only.
    pub fn with_decoded_steps(steps: Vec<usize>) -> Self {
        Self { keep_decoded: Some(steps), ..Self::default() }
    }

    /// Records one step of a batch of one image.
    ///
    /// # Errors
    /// A tensor cannot be read.
    pub fn record(&mut self, step: &Step<'_>, encoder: &Encoder) -> Result<()> {
        let plain = step.null_pred.unwrap_or(step.noise_pred);
        let noise_pred_sag = step.sag.map_or(plain, |sag| &sag.noise_pred);
        self.push("latents_in", step.latents_in)?;
        self.push("noise_pred", step.noise_pred)?;
        if let Some(null_pred) = step.null_pred {
            self.push("null_pred", null_pred)?;
        }
        self.push("noise_pred_sag", noise_pred_sag)?;
        self.push("noise_pred_final", step.noise_pred_final)?;
        self.push("solver_x0", step.solver_x0)?;
        self.push("latents_out", step.latents_out)?;
        if let Some(sag) = step.sag {
            self.push("attn_colsum", &sag.attn_colsum.squeeze(0)?)?;
            self.push("sag_mask", &sag.mask.squeeze(0)?.squeeze(0)?)?;
            self.push("sag_pred_x0", &sag.pred_x0)?;
            self.push("sag_blurred", &sag.blurred)?;
            self.push("degraded_latents", &sag.degraded_latents)?;
            self.push("degraded_pred", &sag.degraded_pred)?;
        }
        if let (Some(attention), 0) = (step.attention, step.index) {
            self.insert("attn_probs_step0", attention.probabilities.squeeze(0)?);
        }
        if let Some(guidance) = step.guidance {
            let single = |value: f64| Tensor::new(&[value], &Device::Cpu)?.to_dtype(guidance.pred_x0.dtype());
            self.push("pred_x0", &guidance.pred_x0)?;
            self.push("blended", &guidance.blended)?;
            self.push("grad_latents", &guidance.grad_latents)?;
            self.push("clip_features", &guidance.clip_features.squeeze(0)?)?;
            self.push("voxels", &encoder.head.predict(&guidance.features)?.squeeze(0)?)?;
            self.push("mean_activation", &guidance.activation.sum_keepdim(0)?.to_dtype(guidance.pred_x0.dtype())?)?;
            let raw = guidance.decoded_raw.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
            let margin = raw.iter().map(|value| (value.abs() - 1.0).abs()).fold(f64::INFINITY, f64::min);
            self.push("clamp_margin", &single(margin)?)?;
            if self.keep_decoded.as_ref().is_none_or(|steps| steps.contains(&step.index)) {
                self.push("decoded_raw", &guidance.decoded_raw)?;
                self.push("clip_input", &guidance.clip_input)?;
                self.decoded_steps.push(step.index as i64);
            }
        }
        Ok(())
    }

    fn push(&mut self, name: &'static str, tensor: &Tensor) -> Result<()> {
        let tensor = if tensor.rank() == 4 { tensor.squeeze(0)? } else { tensor.clone() };
        // The memory of a GPU is for what is computed there.
        self.steps.entry(name).or_default().push(tensor.to_device(&Device::Cpu)?);
        Ok(())
    }

    /// Adds a tensor that the sampler does not compute, for example a probe's similarities.
    pub fn insert(&mut self, name: impl Into<String>, tensor: Tensor) {
        self.singles.insert(name.into(), tensor);
    }

    /// Adds the image as it was saved, and the voxels that it predicts: `pixels` are [height, width, 3], 8 bits.
    ///
    /// # Errors
    /// `pixels` is no such image.
    pub fn insert_saved_image(&mut self, pixels: &Tensor, encoder: &Encoder) -> Result<()> {
        let weight = encoder.head.weight();
        let image = (pixels.permute((2, 0, 1))?.unsqueeze(0)?.contiguous()?.to_dtype(weight.dtype())? / 255.0)?;
        let image = image.to_device(weight.device())?;
        self.insert("final.image_u8", pixels.clone());
        self.insert("final.voxels_from_u8", encoder.voxels(&image)?);
        Ok(())
    }

    /// Adds the run's schedule and its result, and returns all tensors by name.
    ///
    /// # Errors
    /// A tensor cannot be computed or stacked.
    pub fn finish(
        mut self,
        diffusion: &Diffusion,
        encoder: &Encoder,
        parameters: &Parameters,
        item: &Item,
        sample: &Sample,
    ) -> Result<HashMap<String, Tensor>> {
        let timesteps = diffusion.schedule.timesteps(parameters.steps)?;
        let alpha_bars = diffusion.schedule.alpha_bars(parameters.steps, parameters.final_sigma)?;
        let sigmas: Vec<f32> = alpha_bars.iter().map(|&alpha_bar| sigma(alpha_bar) as f32).collect();
        let timesteps: Vec<i64> = timesteps.into_iter().map(|t| t as i64).collect();
        let cpu = Device::Cpu;
        self.insert("timesteps", Tensor::new(timesteps, &cpu)?);
        self.insert("sigmas", Tensor::new(sigmas, &cpu)?);
        let alpha_bars = Tensor::new(&alpha_bars[..parameters.steps], &cpu)?;
        self.insert("alpha_bar", alpha_bars.to_dtype(diffusion.state_dtype())?);
        self.insert("prompt_embeds", item.prompt_embeds.clone());
        let encoding = encode(&encoder.backbone, &(&sample.image).into())?;
        self.insert("final.image", sample.image.clone());
        self.insert("final.voxels", encoder.head.predict(encoding.features.value())?);
        self.insert("final.clip_features", encoding.clip_features);
        if !self.decoded_steps.is_empty() {
            let steps = std::mem::take(&mut self.decoded_steps);
            self.insert("decoded_steps", Tensor::new(steps, &cpu)?);
        }
        for (name, tensors) in self.steps {
            self.singles.insert(format!("step.{name}"), Tensor::stack(&tensors, 0)?);
        }
        Ok(self.singles)
    }
}

/// Writes `tensors` to a safetensors file.
///
/// # Errors
/// The file cannot be written.
pub fn write(tensors: &HashMap<String, Tensor>, path: impl AsRef<Path>) -> Result<()> {
    candle_core::safetensors::save(tensors, &path)
        .map_err(|source| Error::Write { path: path.as_ref().to_owned(), source: std::io::Error::other(source) })
}
