//! Every step on its own, from the latents that the reference had: nothing accumulates, so tolerances are tight.

use crate::case::{Case, assert_close};
use braindive::sampler::Predicted;
use braindive::sampler::dpm_solver::DpmSolver;
use braindive::sampler::schedule::NoiseLevel;
use braindive::sampler::solver::Solver;
use candle_core::{DType, Tensor};

fn assert_every_step(name: &str) {
    let case = Case::load(name, DType::F32);
    let (schedule, parameters) = (&case.diffusion.schedule, &case.parameters);
    let alpha_bars = schedule.alpha_bars(parameters.steps, parameters.final_sigma).unwrap();
    for (i, timestep) in schedule.timesteps(parameters.steps).unwrap().into_iter().enumerate() {
        let close = |key: &str, ours: &Tensor, tolerance| {
            if case.golden.contains_key(&format!("step.{key}")) {
                assert_close(&format!("{name}, step {i}: {key}"), ours, &case.golden_step(key, i), tolerance);
            }
        };
        let level = NoiseLevel { timestep, alpha_bar: alpha_bars[i] };
        let latents = case.golden_step("latents_in", i).unsqueeze(0).unwrap();
        let Predicted { noise_pred, sag, guidance, .. } = case.predict(&latents, level);
        close("noise_pred", &noise_pred, 2e-5);
        if let Some(sag) = sag {
            close("attn_colsum", &sag.attn_colsum, 2e-5);
            close("sag_mask", &sag.mask, 0.0);
            close("sag_pred_x0", &sag.pred_x0, 2e-4);
            close("sag_blurred", &sag.blurred, 2e-4);
            close("degraded_latents", &sag.degraded_latents, 2e-5);
            close("degraded_pred", &sag.degraded_pred, 2e-5);
            close("noise_pred_sag", &sag.noise_pred, 5e-5);
        }
        if let Some(guidance) = guidance {
            close("pred_x0", &guidance.pred_x0, 2e-4);
            close("blended", &guidance.blended, 2e-4);
            close("clip_features", &guidance.clip_features, 5e-5);
            close("grad_latents", &guidance.grad_latents, 2e-4);
            let activation = case.golden_step("mean_activation", i).to_vec1::<f32>().unwrap()[0];
            assert!(
                (guidance.activation.to_vec1::<f64>().unwrap()[0] - f64::from(activation)).abs() < 5e-6,
                "{name}, step {i}"
            );
        }
        let mut solver = DpmSolver::new(&alpha_bars, parameters.final_sigma);
        if i > 0 {
            solver = solver.resumed_from(case.golden_step("solver_x0", i - 1).unsqueeze(0).unwrap());
        }
        let noise_pred_final = case.golden_step("noise_pred_final", i).unsqueeze(0).unwrap();
        let solved = solver.step(i, &noise_pred_final, &latents).unwrap();
        close("solver_x0", &solved.pred_x0, 2e-5);
        close("latents_out", &solved.latents, 2e-5);
    }
}

#[test]
fn every_step_of_the_small_model_equals_the_reference() {
    assert_every_step("small_s5");
}

#[test]
fn every_step_of_the_deep_model_equals_the_reference() {
    assert_every_step("deep_s10");
}

#[test]
fn every_step_as_the_paper_ran_them_equals_the_reference() {
    assert_every_step("three_s50_2023");
}

#[test]
fn every_step_of_the_miniature_equals_the_reference() {
    assert_every_step("miniature");
}
