//! Sampling from an image instead of pure noise (SDEdit, Meng et al. 2022; diffusers' image-to-image pipeline).

use super::schedule::{NoiseLevel, NoiseSchedule};
use crate::error::{Error, Result};
use candle_core::Tensor;

/// The first step of a schedule of `steps` of which the last `strength`, above 0 and at most 1, is run; rounded as diffusers
/// does: `steps`·`strength` steps, without their fraction.
///
/// # Errors
/// No step is left.
pub fn first_step(steps: usize, strength: f64) -> Result<usize> {
    let run = (steps as f64 * strength) as usize;
    if run == 0 || run > steps {
        let (found, expected) = (strength.to_string(), format!("at least 1/{steps} and at most 1"));
        return Err(Error::Parameter { what: "the strength of the start from an image", found, expected });
    }
    Ok(steps - run)
}

/// √ᾱ·z + √(1−ᾱ)·noise at the noise level of step `first` of `steps`. `image_latents`: z, [1, 4, h, w], as
/// [`crate::models::vae_encoder::VaeEncoder::encode`] gives them; `noise` of the same shape.
///
/// # Errors
/// There are not so many steps, or the shapes differ.
pub fn noised(
    schedule: &NoiseSchedule,
    steps: usize,
    first: usize,
    image_latents: &Tensor,
    noise: &Tensor,
) -> Result<Tensor> {
    let timesteps = schedule.timesteps(steps)?;
    let Some(&timestep) = timesteps.get(first) else {
        let (found, expected) = (first.to_string(), format!("less than the number of steps, {steps}"));
        return Err(Error::Parameter { what: "the first step", found, expected });
    };
    let level = NoiseLevel { timestep, alpha_bar: schedule.alpha_bar(timestep) };
    Ok(level.renoised(image_latents, noise)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strength_is_the_share_of_the_steps_that_are_run() {
        for (steps, strength, first) in [(50, 1.0, 0), (50, 0.8, 10), (50, 0.02, 49), (5, 0.59, 3), (7, 0.5, 4)] {
            assert_eq!(first_step(steps, strength).unwrap(), first, "{strength} of {steps}");
        }
        for (steps, strength) in [(50, 0.0199), (50, -1.0), (50, 1.5), (50, f64::NAN)] {
            assert!(first_step(steps, strength).is_err(), "{strength} of {steps}");
        }
    }
}
