//! What a run did otherwise than the recipe of the paper (Luo et al. 2023, section 3.3; the authors' code), in words.

use braindive::DType;
use braindive::encoder::Objective;
use protocol::job::{FinalSigma, Gradient, NoiseLayout, Preset, Sampling, Solver};

/// Empty for the exact recipe. `computed_in`: what UNet and VAE computed in, whatever was asked for.
pub fn deviations(sampling: &Sampling, objective: &Objective, computed_in: DType) -> Vec<String> {
    let recipe = Sampling { preset: Preset::Paper, final_sigma: FinalSigma::SigmaMin, ..Sampling::default() };
    let mut found = Vec::new();
    let mut note = |deviates: bool, words: String| {
        if deviates {
            found.push(words);
        }
    };
    let [width, height] = sampling.size;
    note(sampling.steps != recipe.steps, format!("{} steps instead of {}", sampling.steps, recipe.steps));
    note(sampling.gamma != recipe.gamma, format!("guidance scale {} instead of {}", sampling.gamma, recipe.gamma));
    note(
        sampling.sag_scale != recipe.sag_scale,
        format!("self-attention guidance scale {} instead of {}", sampling.sag_scale, recipe.sag_scale),
    );
    note(sampling.size != recipe.size, format!("{width} x {height} pixels instead of 512 x 512"));
    note(!sampling.prompt.is_empty(), format!("the prompt `{}` instead of the empty one", sampling.prompt));
    note(sampling.final_sigma != recipe.final_sigma, "last sigma 0 instead of that of timestep 0".to_owned());
    let solver = match sampling.solver {
        Solver::DpmSolverPp2m => "DPM-Solver++(2M)",
        Solver::Ddim => "DDIM",
        Solver::Euler => "Euler",
    };
    note(sampling.solver != recipe.solver, format!("solver {solver} instead of DPM-Solver++(2M)"));
    note(
        sampling.noise == NoiseLayout::TorchCpu,
        "starting noise of PyTorch's CPU generator instead of its CUDA generator".to_owned(),
    );
    if let Some(scale) = sampling.text_guidance {
        note(true, format!("classifier-free text guidance of scale {scale}"));
    }
    if let Some(start) = &sampling.start {
        note(true, format!("the last {} of the schedule from the image {}", start.strength, start.image));
    }
    if let Some([from, to]) = sampling.guidance_interval {
        note(true, format!("brain guidance only in steps i of n with {from} <= i/n < {to}"));
    }
    note(sampling.gradient == Gradient::PredX0, "guidance gradient without the UNet".to_owned());
    let precision = if computed_in == DType::BF16 { "bfloat16" } else { "single" };
    note(computed_in != DType::F16, format!("UNet and VAE in {precision} precision instead of half"));
    let is_one_mean = matches!(&objective.terms[..], [term] if term.weight == 1.0);
    note(!is_one_mean, "a weighted objective instead of one region's mean".to_owned());
    let over_the_predicted = objective.terms.iter().any(|term| term.denominator == term.voxels.len());
    note(
        sampling.preset == Preset::Default && over_the_predicted,
        "the mean over the voxels that the head predicts instead of the whole mask".to_owned(),
    );
    found
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use braindive::encoder::Term;
    use protocol::ids::Digest;
    use protocol::job::{Precision, Start};

    #[test]
    fn the_papers_recipe_has_no_deviations_and_every_other_parameter_is_one() {
        let paper = Sampling {
            preset: Preset::Paper,
            final_sigma: FinalSigma::SigmaMin,
            precision: Precision::Half,
            ..Sampling::default()
        };
        let mean = Objective { terms: vec![Term::mean("FFA", vec![1, 2])] };
        assert_eq!(deviations(&paper, &mean, DType::F16), Vec::<String>::new());
        let image = Digest::from_bytes(&[0xab; 32]);
        for (sampling, words) in [
            (Sampling { preset: Preset::Default, ..paper.clone() }, "the mean over the voxels"),
            (Sampling { steps: 20, ..paper.clone() }, "20 steps instead of 50"),
            (Sampling { gamma: 14.0, ..paper.clone() }, "guidance scale 14 instead of 130"),
            (Sampling { sag_scale: 0.0, ..paper.clone() }, "self-attention guidance scale 0 instead of 0.75"),
            (Sampling { size: [512, 256], ..paper.clone() }, "512 x 256 pixels"),
            (Sampling { prompt: "a cat".to_owned(), ..paper.clone() }, "the prompt `a cat`"),
            (Sampling { final_sigma: FinalSigma::Zero, ..paper.clone() }, "last sigma 0"),
            (Sampling { solver: Solver::Euler, ..paper.clone() }, "solver Euler"),
            (Sampling { noise: NoiseLayout::TorchCpu, ..paper.clone() }, "CPU generator"),
            (Sampling { text_guidance: Some(7.5), ..paper.clone() }, "text guidance of scale 7.5"),
            (
                Sampling { start: Some(Start { image, strength: 0.6 }), ..paper.clone() },
                "the last 0.6 of the schedule from the image abab",
            ),
            (Sampling { guidance_interval: Some([0.0, 0.5]), ..paper.clone() }, "0 <= i/n < 0.5"),
            (Sampling { gradient: Gradient::PredX0, ..paper.clone() }, "gradient without the UNet"),
        ] {
            let found = deviations(&sampling, &mean, DType::F16);
            assert!(matches!(&found[..], [one] if one.contains(words)), "{found:?}, expected {words}");
        }
        assert_eq!(deviations(&paper, &mean, DType::F32), ["UNet and VAE in single precision instead of half"]);
        assert_eq!(deviations(&paper, &mean, DType::BF16), ["UNet and VAE in bfloat16 precision instead of half"]);
        let suppressed = Objective { terms: vec![Term { weight: -1.0, ..Term::mean("FFA", vec![1, 2]) }] };
        assert_eq!(deviations(&paper, &suppressed, DType::F16), ["a weighted objective instead of one region's mean"]);
    }
}
