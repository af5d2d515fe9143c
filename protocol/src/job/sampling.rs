//! Parameters of the guided sampler.

use crate::ids::Digest;
use crate::named;
use serde::{Deserialize, Serialize};

/// Parameters of the guided sampler (science: Luo et al. 2023, section 3.2 and supplement).
///
/// The optional ones are written only where they are not at their defaults: a parameter that is added leaves the keys of all
/// earlier conditions as they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    pub preset: Preset,
    /// Of the whole schedule, from pure noise.
    pub steps: u32,
    /// Guidance scale γ; 0 samples without guidance.
    pub gamma: f64,
    /// Self-attention guidance scale; 0 turns it off.
    pub sag_scale: f64,
    /// Image width and height in pixels.
    pub size: [u32; 2],
    pub prompt: String,
    pub final_sigma: FinalSigma,
    #[serde(default, skip_serializing_if = "is_default")]
    pub solver: Solver,
    #[serde(default, skip_serializing_if = "is_default")]
    pub noise: NoiseLayout,
    /// Classifier-free guidance scale s: ε_∅ + s (ε_prompt − ε_∅). `None` (s = 1): the prompt's own prediction.
    #[serde(default, skip_serializing_if = "is_default")]
    pub text_guidance: Option<f64>,
    /// `None`: from pure noise.
    #[serde(default, skip_serializing_if = "is_default")]
    pub start: Option<Start>,
    /// Brain guidance acts in step i of n if from ≤ i/n < to. `None`: in every step.
    #[serde(default, skip_serializing_if = "is_default")]
    pub guidance_interval: Option<[f64; 2]>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub gradient: Gradient,
    #[serde(default, skip_serializing_if = "is_default")]
    pub precision: Precision,
}

impl Default for Sampling {
    /// Preset `default`.
    fn default() -> Self {
        Self {
            preset: Preset::Default,
            steps: 50,
            gamma: 130.0,
            sag_scale: 0.75,
            size: [512, 512],
            prompt: String::new(),
            final_sigma: FinalSigma::Zero,
            solver: Solver::default(),
            noise: NoiseLayout::default(),
            text_guidance: None,
            start: None,
            guidance_interval: None,
            gradient: Gradient::default(),
            precision: Precision::default(),
        }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// An image to start from (SDEdit, Meng et al. 2022): its latents, noised to where the last `strength` of the schedule begins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// sha256 of the PNG file, whose size is the sample's.
    pub image: Digest,
    /// Share of the schedule that is run: above 0, at most 1.
    pub strength: f64,
}

/// Which of the choices that paper and code leave open are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// As the authors' code ran: mean over the whole mask, last σ = sigma_min, half precision.
    Paper,
    /// The clean objective: mean over the voxels that the head predicts, last σ = 0, single precision.
    Default,
}

/// The noise level of the solver's last target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinalSigma {
    Zero,
    SigmaMin,
}

/// How latents get from one noise level to the next. All solvers walk the same timesteps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Solver {
    /// DPM-Solver++(2M), of second order.
    #[default]
    #[serde(rename = "dpm_solver_pp_2m")]
    DpmSolverPp2m,
    #[serde(rename = "ddim")]
    Ddim,
    #[serde(rename = "euler")]
    Euler,
}

/// Whose sequence of normal numbers a seed names: that of PyTorch's generator on a GPU, or on the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoiseLayout {
    #[default]
    TorchCuda,
    TorchCpu,
}

/// What the gradient of brain guidance flows through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gradient {
    /// Encoder, decoder and UNet.
    #[default]
    Full,
    /// Encoder and decoder: the noise prediction counts as a constant.
    PredX0,
}

/// What UNet and VAE compute in; the encoder always computes in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// f32
    #[default]
    Single,
    /// f16, as the authors' code.
    Half,
    /// bf16: never overflows where f32 does not; not on cards before Ampere (compute capability 8.0).
    Bfloat16,
}

named!(Precision, "a precision", { Single: "single", Half: "half", Bfloat16: "bfloat16" });

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The text that was hashed into the keys of conditions before there were optional parameters.
    #[test]
    fn parameters_at_their_defaults_are_not_written() {
        let before = r#"{"preset":"default","steps":50,"gamma":130.0,"sag_scale":0.75,"size":[512,512],"prompt":"","final_sigma":"zero"}"#;
        assert_eq!(serde_json::to_string(&Sampling::default()).unwrap(), before);
        assert_eq!(serde_json::from_str::<Sampling>(before).unwrap(), Sampling::default());
    }

    #[test]
    fn every_parameter_reads_back_and_an_unknown_one_is_refused() {
        let sampling = Sampling {
            solver: Solver::DpmSolverPp2m,
            noise: NoiseLayout::TorchCpu,
            text_guidance: Some(7.5),
            start: Some(Start { image: Digest::from_bytes(&[7; 32]), strength: 0.6 }),
            guidance_interval: Some([0.0, 0.5]),
            gradient: Gradient::PredX0,
            precision: Precision::Half,
            ..Sampling::default()
        };
        for solver in [Solver::DpmSolverPp2m, Solver::Ddim, Solver::Euler] {
            let sampling = Sampling { solver, ..sampling.clone() };
            let text = serde_json::to_string(&sampling).unwrap();
            assert_eq!(serde_json::from_str::<Sampling>(&text).unwrap(), sampling, "{text}");
            let error = serde_json::from_str::<Sampling>(&text.replace("noise", "nose")).unwrap_err().to_string();
            assert!(error.contains("unknown field `nose`"), "{error}");
        }
    }
}
