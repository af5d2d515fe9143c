//! The noise schedule (Ho et al. 2020) of Stable Diffusion, as `scheduler/scheduler_config.json` describes it.

use crate::error::{Error, Result};
use crate::gradient::Tracked;
use crate::weights::read_config;
use candle_core::Tensor;
use serde::Deserialize;
use serde_json::json;
use std::path::Path;

/// ᾱ of every training timestep: latents at t are √ᾱ·x₀ + √(1−ᾱ)·noise.
#[derive(Debug, Clone)]
pub struct NoiseSchedule {
    /// In f32, as the networks were trained with.
    alphas_cumprod: Vec<f32>,
}

/// The noise level of the solver's last target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinalSigma {
    /// σ = 0, as diffusers ends today.
    Zero,
    /// σ of timestep 0, as diffusers ended in the paper's time.
    SigmaMin,
}

/// A DPM-Solver++ schedule that spaces its timesteps linearly reads only these fields.
#[derive(Debug, Deserialize)]
struct SchedulerConfig {
    beta_start: f64,
    beta_end: f64,
    num_train_timesteps: usize,
}

impl NoiseSchedule {
    /// Reads `scheduler_config.json`.
    ///
    /// # Errors
    /// The file cannot be read, or describes a schedule that is not scaled linear with ε-prediction.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let fixed = json!({
            "beta_schedule": "scaled_linear",
            "trained_betas": null,
            "prediction_type": "epsilon",
            "timestep_spacing": "linspace",
            "rescale_betas_zero_snr": false,
        });
        let config: SchedulerConfig = read_config(&path, &fixed)?;
        let check = |fits: bool, key: &str, found: &str, expected: &str| {
            let (path, key, found) = (path.as_ref().to_owned(), key.to_owned(), found.to_owned());
            if fits { Ok(()) } else { Err(Error::Unsupported { path, key, found, expected: expected.to_owned() }) }
        };
        let steps = config.num_train_timesteps;
        check(steps > 1, "num_train_timesteps", &steps.to_string(), "at least 2")?;
        let rising = 0.0 < config.beta_start && config.beta_start <= config.beta_end && config.beta_end < 1.0;
        let found = format!("{}..{}", config.beta_start, config.beta_end);
        check(rising, "beta_start, beta_end", &found, "0 < beta_start <= beta_end < 1")?;
        Ok(Self::scaled_linear(config.beta_start, config.beta_end, steps))
    }

    /// √β runs linearly; ᾱ_t = Π (1 − β). Rounded to f32 where PyTorch rounds, so that the table is bit-equal to its:
    /// `linspace` counts from the nearer end with fused multiply-adds, `cumprod` keeps the running product in f64.
    pub fn scaled_linear(beta_start: f64, beta_end: f64, steps: usize) -> Self {
        let (start, end) = (beta_start.sqrt() as f32, beta_end.sqrt() as f32);
        let increment = (end - start) / (steps - 1) as f32;
        let from = |origin: f32, steps: f32| increment.mul_add(steps, origin);
        let sqrt_beta =
            |t: usize| if t < steps / 2 { from(start, t as f32) } else { from(end, -((steps - 1 - t) as f32)) };
        let mut product = 1f64;
        let alphas_cumprod = (0..steps).map(|t| {
            let beta = sqrt_beta(t) * sqrt_beta(t);
            product *= f64::from(1.0 - beta);
            product as f32
        });
        Self { alphas_cumprod: alphas_cumprod.collect() }
    }

    /// ᾱ at a training timestep.
    ///
    /// # Panics
    /// If there are not so many training timesteps.
    pub fn alpha_bar(&self, timestep: usize) -> f64 {
        f64::from(self.alphas_cumprod[timestep])
    }

    /// ᾱ of all training timesteps.
    pub fn alphas_cumprod(&self) -> &[f32] {
        &self.alphas_cumprod
    }

    /// The timesteps of a run, largest first: `steps` + 1 points from the last training timestep to 0, rounded half to
    /// even, without the final 0.
    ///
    /// # Errors
    /// `steps` is 0 or larger than the number of training timesteps.
    pub fn timesteps(&self, steps: usize) -> Result<Vec<usize>> {
        let last = self.alphas_cumprod.len() - 1;
        if steps == 0 || steps > last {
            let (found, expected) = (steps.to_string(), format!("1 to {last}"));
            return Err(Error::Parameter { what: "the number of steps", found, expected });
        }
        let spacing = last as f64 / steps as f64;
        Ok((1..=steps).rev().map(|i| (i as f64 * spacing).round_ties_even() as usize).collect())
    }

    /// ᾱ of the timesteps of a run and, behind them, of its last target.
    ///
    /// # Errors
    /// As [`NoiseSchedule::timesteps`].
    pub fn alpha_bars(&self, steps: usize, final_sigma: FinalSigma) -> Result<Vec<f64>> {
        let end = match final_sigma {
            FinalSigma::Zero => 1.0,
            FinalSigma::SigmaMin => self.alpha_bar(0),
        };
        Ok(self.timesteps(steps)?.into_iter().map(|t| self.alpha_bar(t)).chain([end]).collect())
    }
}

/// A timestep and its ᾱ, between latents, noise and data: latents = √ᾱ·data + √(1−ᾱ)·noise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NoiseLevel {
    pub timestep: usize,
    pub alpha_bar: f64,
}

impl NoiseLevel {
    /// √(1−ᾱ)
    pub fn sigma(self) -> f64 {
        (1.0 - self.alpha_bar).sqrt()
    }

    /// x̂₀ = (x − √(1−ᾱ) ε)/√ᾱ
    ///
    /// # Errors
    /// The shapes differ.
    pub fn pred_x0(self, latents: &Tracked, noise_pred: &Tracked) -> candle_core::Result<Tracked> {
        let (alpha, sigma) = (self.alpha_bar.sqrt(), self.sigma());
        let pred_x0 = ((latents.value() - (noise_pred.value() * sigma)?)? / alpha)?;
        Ok(Tracked::record(pred_x0, [latents, noise_pred], [], move |[], grad| {
            Ok([Some((grad / alpha)?), Some((grad * (-sigma / alpha))?)])
        }))
    }

    /// √ᾱ·x₀ + √(1−ᾱ) ε
    ///
    /// # Errors
    /// The shapes differ.
    pub fn renoised(self, x0: &Tensor, noise: &Tensor) -> candle_core::Result<Tensor> {
        (x0 * self.alpha_bar.sqrt())? + (noise * self.sigma())?
    }
}

/// σ = √((1−ᾱ)/ᾱ), the noise level in units of the signal.
pub fn sigma(alpha_bar: f64) -> f64 {
    ((1.0 - alpha_bar) / alpha_bar).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stable_diffusion() -> NoiseSchedule {
        NoiseSchedule::scaled_linear(0.00085, 0.012, 1000)
    }

    #[test]
    fn timesteps_round_half_to_even() {
        let schedule = stable_diffusion();
        let fifty = schedule.timesteps(50).unwrap();
        assert_eq!(fifty[..3], [999, 979, 959]);
        assert_eq!(fifty[24..27], [519, 500, 480]);
        assert_eq!(fifty[48..], [40, 20]);
        assert_eq!(schedule.timesteps(6).unwrap(), [999, 832, 666, 500, 333, 166]);
        assert!(schedule.timesteps(0).is_err() && schedule.timesteps(1000).is_err());
    }

    #[test]
    fn fifty_steps_have_the_noise_that_the_papers_code_prints() {
        let schedule = stable_diffusion();
        let level = |timestep| NoiseLevel { timestep, alpha_bar: schedule.alpha_bar(timestep) };
        let found = [0, 20, 40, 500, 979, 999].map(|timestep| format!("{:.4}", level(timestep).sigma()));
        assert_eq!(found, ["0.0292", "0.1367", "0.1952", "0.8507", "0.9970", "0.9977"]);
        let ends = |end| schedule.alpha_bars(50, end).unwrap()[50];
        assert_eq!((ends(FinalSigma::Zero), ends(FinalSigma::SigmaMin)), (1.0, schedule.alpha_bar(0)));
    }

    #[test]
    fn the_first_and_last_noise_levels_are_those_of_stable_diffusion() {
        let alpha_bars = stable_diffusion().alpha_bars(50, FinalSigma::SigmaMin).unwrap();
        assert!((sigma(alpha_bars[0]) - 14.614_647).abs() < 1e-5);
        assert!((sigma(alpha_bars[49]) - 0.137_991).abs() < 1e-6);
        assert!((sigma(alpha_bars[50]) - 0.029_167_5).abs() < 1e-7);
    }
}
