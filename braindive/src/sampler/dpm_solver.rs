//! DPM-Solver++(2M), the midpoint multistep solver of second order (Lu et al. 2022, algorithm 2).

use super::schedule::FinalSigma;
use candle_core::{Result, Tensor, bail};

/// Below this many steps the last one is of first order.
const LOWER_ORDER_FINAL_BELOW: usize = 15;

/// Walks from noise to latents, one step per noise prediction.
#[derive(Debug, Clone)]
pub struct DpmSolver {
    /// α = √ᾱ of every step and of the last target.
    alpha: Vec<f64>,
    /// σ = √(1−ᾱ)
    sigma: Vec<f64>,
    /// λ = ln(α/σ), half the log signal-to-noise ratio.
    lambda: Vec<f64>,
    final_sigma: FinalSigma,
    /// The previous step's data prediction.
    previous: Option<Tensor>,
}

/// One step's result.
#[derive(Debug, Clone)]
pub struct Solved {
    /// The data prediction x₀, which the next step extrapolates from.
    pub pred_x0: Tensor,
    /// The latents at the next noise level.
    pub latents: Tensor,
}

impl DpmSolver {
    /// `alpha_bars`: ᾱ of every step and of the last target.
    pub fn new(alpha_bars: &[f64], final_sigma: FinalSigma) -> Self {
        let alpha: Vec<f64> = alpha_bars.iter().map(|a| a.sqrt()).collect();
        let sigma: Vec<f64> = alpha_bars.iter().map(|a| (1.0 - a).sqrt()).collect();
        let lambda = alpha.iter().zip(&sigma).map(|(a, s)| a.ln() - s.ln()).collect();
        Self { alpha, sigma, lambda, final_sigma, previous: None }
    }

    /// Goes on as if the previous step had predicted `pred_x0`.
    #[must_use]
    pub fn resumed_from(self, pred_x0: Tensor) -> Self {
        Self { previous: Some(pred_x0), ..self }
    }

    /// The step from noise level `i` to `i + 1`: x' = (σ'/σ) x − α' (e^{−h} − 1) D, where h = λ' − λ and D is x₀,
    /// extrapolated from the previous x₀ by h/(2h₋₁) in steps of second order.
    ///
    /// # Errors
    /// The tensors do not fit together, or a step of second order has no previous one.
    ///
    /// # Panics
    /// If there are not so many steps.
    pub fn step(&mut self, i: usize, noise_pred: &Tensor, latents: &Tensor) -> Result<Solved> {
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

    /// The first step has nothing to extrapolate from; the last one to σ = 0 would extrapolate infinitely far.
    fn is_first_order(&self, i: usize) -> bool {
        let steps = self.alpha.len() - 1;
        let last = i + 1 == steps;
        i == 0 || last && (self.final_sigma == FinalSigma::Zero || steps < LOWER_ORDER_FINAL_BELOW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::schedule::NoiseSchedule;
    use candle_core::{Device, Tensor};

    /// Latents of data that is a single point have the exact noise (x − α c)/σ; every solver must end on the point.
    #[test]
    fn a_point_distribution_is_solved_exactly() {
        let alpha_bars = NoiseSchedule::scaled_linear(0.00085, 0.012, 1000).alpha_bars(20, FinalSigma::Zero).unwrap();
        let mut solver = DpmSolver::new(&alpha_bars, FinalSigma::Zero);
        let point = Tensor::new(&[0.7f64, -1.3], &Device::Cpu).unwrap();
        let mut latents = Tensor::new(&[0.2f64, 1.1], &Device::Cpu).unwrap();
        for (i, alpha_bar) in alpha_bars[..20].iter().enumerate() {
            let noise =
                ((&latents - (&point * alpha_bar.sqrt()).unwrap()).unwrap() / (1.0 - alpha_bar).sqrt()).unwrap();
            latents = solver.step(i, &noise, &latents).unwrap().latents;
        }
        for (found, expected) in latents.to_vec1::<f64>().unwrap().iter().zip([0.7, -1.3]) {
            assert!((found - expected).abs() < 1e-12, "{found}");
        }
    }

    #[test]
    fn a_step_without_its_predecessor_is_an_error() {
        let alpha_bars = NoiseSchedule::scaled_linear(0.00085, 0.012, 1000).alpha_bars(20, FinalSigma::Zero).unwrap();
        let x = Tensor::new(&[0.5f64], &Device::Cpu).unwrap();
        let mut solver = DpmSolver::new(&alpha_bars, FinalSigma::Zero);
        assert!(solver.step(3, &x, &x).is_err());
        assert!(solver.resumed_from(x.clone()).step(3, &x, &x).is_ok());
    }

    /// Gaussian data of standard deviation s has a linear probability flow: x scales with √(ᾱ s² + 1 − ᾱ).
    #[test]
    fn the_error_falls_with_the_square_of_the_number_of_steps() {
        let schedule = NoiseSchedule::scaled_linear(0.00085, 0.012, 1000);
        let s2 = 0.25;
        let scale = |alpha_bar: f64| (alpha_bar * s2 + 1.0 - alpha_bar).sqrt();
        let error = |steps: usize| {
            let alpha_bars = schedule.alpha_bars(steps, FinalSigma::SigmaMin).unwrap();
            let mut solver = DpmSolver::new(&alpha_bars, FinalSigma::SigmaMin);
            let mut latents = Tensor::new(&[1f64], &Device::Cpu).unwrap();
            for (i, &alpha_bar) in alpha_bars[..steps].iter().enumerate() {
                let noise = (&latents * ((1.0 - alpha_bar).sqrt() / scale(alpha_bar).powi(2))).unwrap();
                latents = solver.step(i, &noise, &latents).unwrap().latents;
            }
            (latents.to_vec1::<f64>().unwrap()[0] - scale(alpha_bars[steps]) / scale(alpha_bars[0])).abs()
        };
        let (coarse, fine) = (error(200), error(400));
        assert!(coarse / fine > 3.2, "{coarse:e} {fine:e}");
        assert!(fine < 1e-3, "{fine:e}");
    }
}
