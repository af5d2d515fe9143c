//! DPM-Solver++(2M), the midpoint multistep solver of second order (Lu et al. 2022, algorithm 2).

use super::schedule::FinalSigma;
use super::solver::{Solved, Solver};
use candle_core::{Result, Tensor, bail};

/// Below this many steps the last one is of first order.
const LOWER_ORDER_FINAL_BELOW: usize = 15;

/// Of second order: extrapolates from the previous step's data prediction.
#[derive(Debug, Clone)]
pub struct DpmSolver {
    /// α = √ᾱ of every step and of the last target.
    alpha: Vec<f64>,
    /// σ = √(1−ᾱ)
    sigma: Vec<f64>,
    /// λ = ln(α/σ), half the log signal-to-noise ratio.
    lambda: Vec<f64>,
    final_sigma: FinalSigma,
    /// The first step that is taken.
    first: usize,
    /// The previous step's data prediction.
    previous: Option<Tensor>,
}

impl DpmSolver {
    /// `alpha_bars`: ᾱ of every step and of the last target.
    pub fn new(alpha_bars: &[f64], final_sigma: FinalSigma) -> Self {
        let alpha: Vec<f64> = alpha_bars.iter().map(|a| a.sqrt()).collect();
        let sigma: Vec<f64> = alpha_bars.iter().map(|a| (1.0 - a).sqrt()).collect();
        let lambda = alpha.iter().zip(&sigma).map(|(a, s)| a.ln() - s.ln()).collect();
        Self { alpha, sigma, lambda, final_sigma, first: 0, previous: None }
    }

    /// The same solver for a run whose first step is number `first`.
    #[must_use]
    pub fn starting_at(self, first: usize) -> Self {
        Self { first, ..self }
    }

    /// Goes on as if the previous step had predicted `pred_x0`.
    #[must_use]
    pub fn resumed_from(self, pred_x0: Tensor) -> Self {
        Self { previous: Some(pred_x0), ..self }
    }

    /// The first step has nothing to extrapolate from; the last one to σ = 0 would extrapolate infinitely far.
    fn is_first_order(&self, i: usize) -> bool {
        let steps = self.alpha.len() - 1;
        let last = i + 1 == steps;
        i == self.first || last && (self.final_sigma == FinalSigma::Zero || steps < LOWER_ORDER_FINAL_BELOW)
    }
}

impl Solver for DpmSolver {
    /// x′ = (σ′/σ) x − α′ (e^{−h} − 1) D, where h = λ′ − λ and D is x₀, extrapolated from the previous x₀ by h/(2h₋₁) in
    /// steps of second order.
    fn step(&mut self, i: usize, noise_pred: &Tensor, latents: &Tensor) -> Result<Solved> {
        let pred_x0 = ((latents - (noise_pred * self.sigma[i])?)? / self.alpha[i])?;
        let h = self.lambda[i + 1] - self.lambda[i];
        let data = match &self.previous {
            _ if self.is_first_order(i) => pred_x0.clone(),
            Some(previous) => {
                let ratio = (self.lambda[i] - self.lambda[i - 1]) / h;
                (&pred_x0 + ((&pred_x0 - previous)? * (0.5 / ratio))?)?
            }
            None => bail!("step {i} of the solver is of second order, but step {} has not been taken", i - 1),
        };
        let latents =
            ((latents * (self.sigma[i + 1] / self.sigma[i]))? - (data * (self.alpha[i + 1] * (-h).exp_m1()))?)?;
        self.previous = Some(pred_x0.clone());
        Ok(Solved { pred_x0, latents })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::schedule::NoiseSchedule;
    use candle_core::{Device, Tensor};

    #[test]
    fn a_step_without_its_predecessor_is_an_error() {
        let alpha_bars = NoiseSchedule::scaled_linear(0.00085, 0.012, 1000).alpha_bars(20, FinalSigma::Zero).unwrap();
        let x = Tensor::new(&[0.5f64], &Device::Cpu).unwrap();
        let mut solver = DpmSolver::new(&alpha_bars, FinalSigma::Zero);
        assert!(solver.step(3, &x, &x).is_err());
        assert!(solver.resumed_from(x.clone()).step(3, &x, &x).is_ok());
    }
}
