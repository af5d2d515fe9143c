//! Solvers of the probability flow (Song et al. 2021, "Score-based generative modeling"): from noise to latents, one step per
//! noise prediction, all behind one signature.

use super::ddim::Ddim;
use super::dpm_solver::DpmSolver;
use super::euler::Euler;
use super::schedule::FinalSigma;
use candle_core::{Result, Tensor};
use std::fmt::Debug;

/// Walks down the noise levels of a schedule.
pub trait Solver: Debug + Send {
    /// The step from noise level `i` to `i + 1`. `noise_pred`: ε at `latents`, of the same shape.
    ///
    /// # Errors
    /// The tensors do not fit together, or a step that the solver needs before this one has not been taken.
    ///
    /// # Panics
    /// If there are not so many steps.
    fn step(&mut self, i: usize, noise_pred: &Tensor, latents: &Tensor) -> Result<Solved>;
}

/// One step's result.
#[derive(Debug, Clone)]
pub struct Solved {
    /// The data prediction x₀ of this step's noise prediction.
    pub pred_x0: Tensor,
    /// The latents at the next noise level.
    pub latents: Tensor,
}

/// Which solver. All of them walk the timesteps of [`super::schedule::NoiseSchedule::timesteps`].
///
/// In diffusers' words: `DPMSolverMultistepScheduler` with `timestep_spacing="linspace"` and `final_sigmas_type`;
/// `EulerDiscreteScheduler.set_timesteps(timesteps=...)` with these timesteps and `final_sigmas_type`, its samples being
/// √(σ²+1) times the latents; `DDIMScheduler` with `clip_sample=False` and `set_alpha_to_one=False`, which can walk these
/// timesteps only where their spacing 999/n is whole (n = 3, 9, 27, 37) and then ends at timestep 0, as
/// [`FinalSigma::SigmaMin`] does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Method {
    #[default]
    DpmSolverPp2m,
    Ddim,
    /// Gives the numbers of [`Method::Ddim`] up to rounding: DDIM is Euler's method (see [`Euler`]).
    Euler,
}

impl Method {
    /// A solver on `alpha_bars`, ᾱ of every step and of the last target, whose first step will be number `first`.
    pub fn solver(self, alpha_bars: &[f64], final_sigma: FinalSigma, first: usize) -> Box<dyn Solver> {
        match self {
            Self::DpmSolverPp2m => Box::new(DpmSolver::new(alpha_bars, final_sigma).starting_at(first)),
            Self::Ddim => Box::new(Ddim::new(alpha_bars)),
            Self::Euler => Box::new(Euler::new(alpha_bars)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::schedule::NoiseSchedule;
    use candle_core::Device;
    use serde_json::Value;

    const METHODS: [Method; 3] = [Method::DpmSolverPp2m, Method::Ddim, Method::Euler];

    fn stable_diffusion() -> NoiseSchedule {
        NoiseSchedule::scaled_linear(0.00085, 0.012, 1000)
    }

    /// Latents after every step but those before `first`; `noise_pred` is a function of latents and step.
    fn walk(
        method: Method,
        (steps, final_sigma, first): (usize, FinalSigma, usize),
        start: &[f64],
        noise_pred: impl Fn(&Tensor, usize) -> Tensor,
    ) -> Vec<Vec<f64>> {
        let mut solver = method.solver(&stable_diffusion().alpha_bars(steps, final_sigma).unwrap(), final_sigma, first);
        let mut latents = Tensor::new(start, &Device::Cpu).unwrap();
        let mut walked = Vec::new();
        for i in first..steps {
            latents = solver.step(i, &noise_pred(&latents, i), &latents).unwrap().latents;
            walked.push(latents.to_vec1().unwrap());
        }
        walked
    }

    /// Latents of data that is a single point have the exact noise (x − α c)/σ; every solver must end on the point.
    #[test]
    fn a_point_distribution_is_solved_exactly() {
        let alpha_bars = stable_diffusion().alpha_bars(20, FinalSigma::Zero).unwrap();
        let point = Tensor::new(&[0.7f64, -1.3], &Device::Cpu).unwrap();
        for method in METHODS {
            let walked = walk(method, (20, FinalSigma::Zero, 0), &[0.2, 1.1], |x, i| {
                let (alpha, sigma) = (alpha_bars[i].sqrt(), (1.0 - alpha_bars[i]).sqrt());
                ((x - (&point * alpha).unwrap()).unwrap() / sigma).unwrap()
            });
            for (found, expected) in walked[19].iter().zip([0.7, -1.3]) {
                assert!((found - expected).abs() < 1e-12, "{method:?}: {found}");
            }
        }
    }

    /// Gaussian data of standard deviation s has a linear probability flow: x scales with √(ᾱ s² + 1 − ᾱ).
    #[test]
    fn the_error_falls_with_the_solvers_order_in_the_number_of_steps() {
        let scale = |alpha_bar: f64| (alpha_bar * 0.25 + 1.0 - alpha_bar).sqrt();
        let error = |method, steps: usize| {
            let alpha_bars = stable_diffusion().alpha_bars(steps, FinalSigma::SigmaMin).unwrap();
            let walked = walk(method, (steps, FinalSigma::SigmaMin, 0), &[1.0], |x, i| {
                (x * ((1.0 - alpha_bars[i]).sqrt() / scale(alpha_bars[i]).powi(2))).unwrap()
            });
            (walked[steps - 1][0] - scale(alpha_bars[steps]) / scale(alpha_bars[0])).abs()
        };
        for (method, ratios) in [(Method::DpmSolverPp2m, 3.2..5.0), (Method::Ddim, 1.8..2.2), (Method::Euler, 1.8..2.2)]
        {
            let (coarse, fine) = (error(method, 200), error(method, 400));
            assert!(ratios.contains(&(coarse / fine)) && fine < 2e-2, "{method:?}: {coarse:e} {fine:e}");
        }
        assert!(error(Method::DpmSolverPp2m, 400) < 1e-3);
    }

    /// Euler's method in x/√ᾱ over √((1−ᾱ)/ᾱ) is DDIM: two ways to write a step check each other.
    #[test]
    fn euler_and_ddim_agree_to_rounding() {
        for final_sigma in [FinalSigma::Zero, FinalSigma::SigmaMin] {
            let [ddim, euler] = [Method::Ddim, Method::Euler]
                .map(|method| walk(method, (25, final_sigma, 5), &[0.2, -1.1, 2.3], |x, _| x.tanh().unwrap()));
            for (ddim, euler) in ddim.iter().flatten().zip(euler.iter().flatten()) {
                assert!((ddim - euler).abs() < 1e-12, "{ddim} {euler}");
            }
        }
    }

    /// diffusers 0.42.1 on a noise predictor that bends; its schedulers compute in f32, at least their coefficients.
    #[test]
    fn every_solver_follows_diffusers_step_by_step_also_from_the_middle() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/reference/request/solvers.json");
        let golden: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let numbers = |value: &Value| -> Vec<f64> { serde_json::from_value(value.clone()).unwrap() };
        let start = numbers(&golden["start"]);
        let cases = golden["cases"].as_array().unwrap();
        assert_eq!(cases.len(), 24);
        for case in cases {
            let method = match case["solver"].as_str().unwrap() {
                "dpm_solver_pp_2m" => Method::DpmSolverPp2m,
                "ddim" => Method::Ddim,
                _ => Method::Euler,
            };
            let final_sigma = match case["final_sigma"].as_str().unwrap() {
                "zero" => FinalSigma::Zero,
                _ => FinalSigma::SigmaMin,
            };
            let [steps, first] = ["steps", "first"].map(|key| case[key].as_u64().unwrap() as usize);
            let timesteps = stable_diffusion().timesteps(steps).unwrap();
            let walked = walk(method, (steps, final_sigma, first), &start, |x, i| {
                let x = (x.affine(1.3, 0.4)).unwrap().tanh().unwrap();
                (x * (0.5 + 0.5 * timesteps[i] as f64 / 999.0)).unwrap()
            });
            let expected: Vec<Vec<f64>> = case["latents"].as_array().unwrap().iter().map(numbers).collect();
            assert_eq!(walked.len(), expected.len());
            for (i, (found, expected)) in walked.iter().zip(&expected).enumerate() {
                for (found, expected) in found.iter().zip(expected) {
                    let case = format!("{method:?}, {steps} steps to {final_sigma:?} from {first}");
                    assert!(
                        (found - expected).abs() < 2e-6 * expected.abs().max(1.0),
                        "{case}: step {i}: {found}, expected {expected}"
                    );
                }
            }
        }
    }
}
