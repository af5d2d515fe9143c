//! The embedding of the diffusion time: sinusoids (Ho et al. 2020), then two layers.

use super::config::UNetConfig;
use crate::error;
use crate::layers::{Activation, Linear};
use crate::weights::Weights;
use candle_core::{DType, Device, Result, Tensor};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

/// Keys: linear_1, linear_2.
#[derive(Debug)]
pub struct TimeEmbedding {
    sinusoids: usize,
    flip_sin_to_cos: bool,
    freq_shift: f64,
    /// Sinusoids of timesteps that are not computed here.
    given: BTreeMap<usize, Vec<f32>>,
    linear_1: Linear,
    linear_2: Linear,
    /// Embeddings that were computed before: every run asks for the same few.
    known: Mutex<HashMap<usize, Tensor>>,
}

impl TimeEmbedding {
    /// Width of the embedding, in units of the first level's channels.
    pub const EXPANSION: usize = 4;

    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load(config: &UNetConfig, weights: &Weights) -> error::Result<Self> {
        let sinusoids = config.block_out_channels[0];
        let width = Self::EXPANSION * sinusoids;
        Ok(Self {
            sinusoids,
            flip_sin_to_cos: config.flip_sin_to_cos,
            freq_shift: config.freq_shift,
            given: BTreeMap::new(),
            linear_1: Linear::load(sinusoids, width, &weights.at("linear_1"))?,
            linear_2: Linear::load(width, width, &weights.at("linear_2"))?,
            known: Mutex::default(),
        })
    }

    /// Takes `sinusoids` for `timestep` instead of computing them.
    ///
    /// # Panics
    /// If there are not as many as the first level has channels.
    pub fn give_sinusoids(&mut self, timestep: usize, sinusoids: Vec<f32>) {
        assert_eq!(sinusoids.len(), self.sinusoids, "sinusoids of a timestep");
        self.given.insert(timestep, sinusoids);
        self.known.get_mut().unwrap_or_else(PoisonError::into_inner).remove(&timestep);
    }

    /// The embedding of `timestep` behind its SiLU, as every residual block takes it: [1, width].
    ///
    /// # Errors
    /// The device cannot compute it.
    pub fn forward(&self, timestep: usize, dtype: DType, device: &Device) -> Result<Tensor> {
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(embedding) = known().get(&timestep) {
            return embedding.to_dtype(dtype);
        }
        let embedding = self.embed(timestep, dtype, device)?;
        known().insert(timestep, embedding.clone());
        Ok(embedding)
    }

    fn embed(&self, timestep: usize, dtype: DType, device: &Device) -> Result<Tensor> {
        let sinusoids = self.given.get(&timestep).cloned().unwrap_or_else(|| self.sinusoids(timestep));
        let x = Tensor::from_vec(sinusoids, (1, self.sinusoids), &Device::Cpu)?.to_dtype(dtype)?.to_device(device)?;
        let hidden = Activation::Silu.forward(&self.linear_1.forward(&x.into())?)?;
        Ok(Activation::Silu.forward(&self.linear_2.forward(&hidden)?)?.into_value())
    }

    /// sin and cos of t·10000^(−i/(n/2 − shift)). Computed in f32 whatever the network computes in, as diffusers does.
    fn sinusoids(&self, timestep: usize) -> Vec<f32> {
        let half = self.sinusoids / 2;
        let angles = (0..half).map(|i| {
            let exponent = -(10000f64.ln() as f32) * i as f32 / (half as f64 - self.freq_shift) as f32;
            timestep as f32 * f64::from(exponent).exp() as f32
        });
        let sines = angles.clone().map(|angle| f64::from(angle).sin() as f32);
        let cosines = angles.map(|angle| f64::from(angle).cos() as f32);
        if self.flip_sin_to_cos { cosines.chain(sines).collect() } else { sines.chain(cosines).collect() }
    }
}
