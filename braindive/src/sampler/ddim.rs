//! DDIM without noise (Song et al. 2021, "Denoising diffusion implicit models", equation 12 with σ = 0): to the predicted data,
//! and back to the next noise level along the same noise.

use super::solver::{Solved, Solver};
use candle_core::{Result, Tensor};

/// Of first order; every step stands alone.
#[derive(Debug, Clone)]
pub struct Ddim {
    /// √ᾱ of every step and of the last target.
    alpha: Vec<f64>,
    /// √(1−ᾱ)
    sigma: Vec<f64>,
}

impl Ddim {
    /// `alpha_bars`: ᾱ of every step and of the last target.
    pub fn new(alpha_bars: &[f64]) -> Self {
        Self {
            alpha: alpha_bars.iter().map(|a| a.sqrt()).collect(),
            sigma: alpha_bars.iter().map(|a| (1.0 - a).sqrt()).collect(),
        }
    }
}

impl Solver for Ddim {
    /// x′ = √ᾱ′ x₀ + √(1−ᾱ′) ε with x₀ = (x − √(1−ᾱ) ε)/√ᾱ
    fn step(&mut self, i: usize, noise_pred: &Tensor, latents: &Tensor) -> Result<Solved> {
        let pred_x0 = ((latents - (noise_pred * self.sigma[i])?)? / self.alpha[i])?;
        let latents = ((&pred_x0 * self.alpha[i + 1])? + (noise_pred * self.sigma[i + 1])?)?;
        Ok(Solved { pred_x0, latents })
    }
}
