//! Euler's method on dx̄/dσ = ε (Karras et al. 2022, "Elucidating the design space of diffusion-based generative models",
//! algorithm 1 without churn and without the second-order correction).

use super::schedule::sigma;
use super::solver::{Solved, Solver};
use candle_core::{Result, Tensor};

/// Of first order; every step stands alone.
///
/// The equation's x̄ = x/√ᾱ has noise of standard deviation σ = √((1−ᾱ)/ᾱ); latents come in and go out as x, whose variance
/// is kept. A step multiplied out is [`super::ddim::Ddim`]'s.
#[derive(Debug, Clone)]
pub struct Euler {
    /// √ᾱ of every step and of the last target: x = √ᾱ·x̄.
    scale: Vec<f64>,
    sigma: Vec<f64>,
}

impl Euler {
    /// `alpha_bars`: ᾱ of every step and of the last target.
    pub fn new(alpha_bars: &[f64]) -> Self {
        Self {
            scale: alpha_bars.iter().map(|a| a.sqrt()).collect(),
            sigma: alpha_bars.iter().map(|&a| sigma(a)).collect(),
        }
    }
}

impl Solver for Euler {
    /// x̄′ = x̄ + (σ′ − σ) ε
    fn step(&mut self, i: usize, noise_pred: &Tensor, latents: &Tensor) -> Result<Solved> {
        let x = (latents / self.scale[i])?;
        let pred_x0 = (&x - (noise_pred * self.sigma[i])?)?;
        let next = (x + (noise_pred * (self.sigma[i + 1] - self.sigma[i]))?)?;
        Ok(Solved { pred_x0, latents: (next * self.scale[i + 1])? })
    }
}
