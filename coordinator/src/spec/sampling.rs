//! Parameters of the guided sampler: presets (science: Luo et al. 2023, section 3.2; the authors' code) and what a file
//! sets instead.

use super::diagnose::Diagnostics;
use super::fields::{Fields, Located};
use super::model;
use super::node::{Node, Value};
use protocol::job::{FinalSigma, Gradient, NoiseLayout, Precision, Preset, Sampling, Solver};
use serde_json::json;

/// Names of the sampling parameters, as keys of `sampling` and as axes of `grid`.
pub const PARAMETERS: [&str; 15] = [
    "preset",
    "steps",
    "gamma",
    "sag_scale",
    "size",
    "prompt",
    "final_sigma",
    "solver",
    "noise",
    "text_guidance",
    "init_image",
    "strength",
    "guidance_interval",
    "gradient",
    "precision",
];

/// Names of the presets.
pub const PRESETS: [(&str, Preset); 2] = [("paper", Preset::Paper), ("default", Preset::Default)];

const FINAL_SIGMAS: [(&str, FinalSigma); 2] = [("zero", FinalSigma::Zero), ("sigma_min", FinalSigma::SigmaMin)];
const SOLVERS: [(&str, Solver); 3] =
    [("dpm_solver_pp_2m", Solver::DpmSolverPp2m), ("ddim", Solver::Ddim), ("euler", Solver::Euler)];
const NOISE_LAYOUTS: [(&str, NoiseLayout); 2] =
    [("torch_cuda", NoiseLayout::TorchCuda), ("torch_cpu", NoiseLayout::TorchCpu)];
const GRADIENTS: [(&str, Gradient); 2] = [("full", Gradient::Full), ("pred_x0", Gradient::PredX0)];

/// Timesteps that Stable Diffusion was trained with: no schedule has more steps.
const MOST_STEPS: i128 = 1000;
/// Pixels per side that a GPU could hold, generously.
const MOST_PIXELS: i128 = 8192;

/// One parameter, set to a value.
#[derive(Debug, Clone, PartialEq)]
pub enum Setting {
    Preset(Preset),
    Steps(u32),
    Gamma(f64),
    SagScale(f64),
    Size([u32; 2]),
    Prompt(String),
    FinalSigma(FinalSigma),
    Solver(Solver),
    Noise(NoiseLayout),
    /// 1: the prompt's own prediction.
    TextGuidance(f64),
    /// The path of a PNG file as it is written, perhaps with `{subject}`.
    InitImage(String),
    Strength(f64),
    GuidanceInterval([f64; 2]),
    Gradient(Gradient),
    Precision(Precision),
}

impl Setting {
    /// Reads the parameter `name`, which is one of [`PARAMETERS`].
    pub fn read(name: &str, node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        let what = format!("`{name}`");
        match name {
            "preset" => node.choice(&what, &PRESETS, diagnostics).map(Self::Preset),
            "steps" => node.integer(&what, 1, MOST_STEPS, diagnostics).map(Self::Steps),
            "gamma" => node.number(&what, "a finite number", |_| true, diagnostics).map(Self::Gamma),
            "sag_scale" => node.number(&what, "a number, 0 or more", |s| s >= 0.0, diagnostics).map(Self::SagScale),
            "size" => size(node, diagnostics).map(Self::Size),
            "prompt" => node.text(&what, diagnostics).map(Self::Prompt),
            "final_sigma" => node.choice(&what, &FINAL_SIGMAS, diagnostics).map(Self::FinalSigma),
            "solver" => node.choice(&what, &SOLVERS, diagnostics).map(Self::Solver),
            "noise" => node.choice(&what, &NOISE_LAYOUTS, diagnostics).map(Self::Noise),
            "text_guidance" => {
                node.number(&what, "a number, 1 or more", |s| s >= 1.0, diagnostics).map(Self::TextGuidance)
            }
            "init_image" => {
                model::path_name(node, name, &[model::SUBJECT], diagnostics).map(|path| Self::InitImage(path.value))
            }
            "strength" => {
                let fits = |strength| 0.0 < strength && strength <= 1.0;
                node.number(&what, "a number above 0, at most 1", fits, diagnostics).map(Self::Strength)
            }
            "guidance_interval" => interval(node, diagnostics).map(Self::GuidanceInterval),
            "gradient" => node.choice(&what, &GRADIENTS, diagnostics).map(Self::Gradient),
            "precision" => node
                .choice(&what, &Precision::ALL.map(|precision| (precision.as_str(), precision)), diagnostics)
                .map(Self::Precision),
            _ => None,
        }
    }

    /// Which of [`PARAMETERS`] this sets.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Preset(_) => "preset",
            Self::Steps(_) => "steps",
            Self::Gamma(_) => "gamma",
            Self::SagScale(_) => "sag_scale",
            Self::Size(_) => "size",
            Self::Prompt(_) => "prompt",
            Self::FinalSigma(_) => "final_sigma",
            Self::Solver(_) => "solver",
            Self::Noise(_) => "noise",
            Self::TextGuidance(_) => "text_guidance",
            Self::InitImage(_) => "init_image",
            Self::Strength(_) => "strength",
            Self::GuidanceInterval(_) => "guidance_interval",
            Self::Gradient(_) => "gradient",
            Self::Precision(_) => "precision",
        }
    }

    /// The value as a point on an axis of the grid.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Preset(preset) => json!(preset),
            Self::Steps(steps) => json!(steps),
            Self::Gamma(value) | Self::SagScale(value) | Self::TextGuidance(value) | Self::Strength(value) => {
                json!(value)
            }
            Self::Size([width, height]) if width == height => json!(width),
            Self::Size(size) => json!(size),
            Self::Prompt(text) | Self::InitImage(text) => json!(text),
            Self::FinalSigma(sigma) => json!(sigma),
            Self::Solver(solver) => json!(solver),
            Self::Noise(layout) => json!(layout),
            Self::GuidanceInterval(interval) => json!(interval),
            Self::Gradient(gradient) => json!(gradient),
            Self::Precision(precision) => json!(precision),
        }
    }

    fn apply(&self, sampling: &mut Sampling) {
        match self {
            Self::Preset(preset) => sampling.preset = *preset,
            Self::Steps(steps) => sampling.steps = *steps,
            Self::Gamma(gamma) => sampling.gamma = *gamma,
            Self::SagScale(scale) => sampling.sag_scale = *scale,
            Self::Size(size) => sampling.size = *size,
            Self::Prompt(prompt) => sampling.prompt.clone_from(prompt),
            Self::FinalSigma(sigma) => sampling.final_sigma = *sigma,
            Self::Solver(solver) => sampling.solver = *solver,
            Self::Noise(layout) => sampling.noise = *layout,
            Self::TextGuidance(scale) => sampling.text_guidance = Some(*scale).filter(|&scale| scale != 1.0),
            Self::InitImage(_) | Self::Strength(_) => {}
            Self::GuidanceInterval(interval) => {
                sampling.guidance_interval = Some(*interval).filter(|&interval| interval != [0.0, 1.0]);
            }
            Self::Gradient(gradient) => sampling.gradient = *gradient,
            Self::Precision(precision) => sampling.precision = *precision,
        }
    }
}

/// `512`, or `[width, height]`, in pixels.
fn size(node: &Node, diagnostics: &mut Diagnostics) -> Option<[u32; 2]> {
    match &node.value {
        Value::List(sides) if sides.len() == 2 => {
            let mut side = |index: usize| sides[index].integer("`size`", 1, MOST_PIXELS, diagnostics);
            let (width, height) = (side(0), side(1));
            Some([width?, height?])
        }
        Value::Integer(_) => node.integer("`size`", 1, MOST_PIXELS, diagnostics).map(|side| [side, side]),
        _ => {
            diagnostics
                .mistake(node.place, format!("`size` cannot be {}", node.describe()))
                .note("expected a number of pixels, or [width, height]");
            None
        }
    }
}

/// `[from, to]`, shares of the schedule.
fn interval(node: &Node, diagnostics: &mut Diagnostics) -> Option<[f64; 2]> {
    let share = |node: &Node| match node.value {
        Value::Integer(value) => Some(value as f64),
        Value::Number(value) => Some(value),
        _ => None,
    };
    let interval = match &node.value {
        Value::List(ends) if ends.len() == 2 => share(&ends[0]).zip(share(&ends[1])),
        _ => None,
    };
    let Some((from, to)) = interval.filter(|(from, to)| 0.0 <= *from && from < to && *to <= 1.0) else {
        let message = match interval {
            Some((from, to)) => format!("`guidance_interval` cannot be from {from} to {to}"),
            None => format!("`guidance_interval` cannot be {}", node.describe()),
        };
        diagnostics
            .mistake(node.place, message)
            .note("expected [from, to] with 0 <= from < to <= 1: step i of n is guided if from <= i/n < to");
        return None;
    };
    Some([from + 0.0, to])
}

/// The `sampling` section.
pub fn read(node: &Node, diagnostics: &mut Diagnostics) -> Vec<Located<Setting>> {
    let Some(fields) = Fields::of(node, "`sampling`", &PARAMETERS, diagnostics) else { return Vec::new() };
    let mut settings = Vec::new();
    for (key, value) in fields.iter() {
        if matches!(value.value, Value::List(_)) && !["size", "guidance_interval"].contains(&key.name.as_str()) {
            diagnostics
                .mistake(value.place, format!("`{}` has a list of values", key.name))
                .note(format!("a sweep stands under `grid`: move `{}` there", key.name));
            continue;
        }
        if let Some(setting) = Setting::read(&key.name, value, diagnostics) {
            settings.push(Located { place: value.place, value: setting });
        }
    }
    settings
}

/// The preset's defaults, then `settings` in their order; `start` is left to whoever knows the image's digest (see [`start`]).
pub fn resolve<'s>(settings: impl Iterator<Item = &'s Setting> + Clone) -> Sampling {
    let preset = settings
        .clone()
        .filter_map(|setting| if let Setting::Preset(preset) = setting { Some(*preset) } else { None })
        .last()
        .unwrap_or(Preset::Default);
    let mut sampling = match preset {
        Preset::Paper => {
            Sampling { preset, final_sigma: FinalSigma::SigmaMin, precision: Precision::Half, ..Sampling::default() }
        }
        Preset::Default => Sampling::default(),
    };
    for setting in settings {
        setting.apply(&mut sampling);
    }
    sampling
}

/// How many of the schedule's `steps` a start of this strength runs, counted as diffusers counts them.
pub fn steps_run(steps: u32, strength: f64) -> u32 {
    (f64::from(steps) * strength) as u32
}

/// The image that sampling starts from, as it is written, and its strength.
pub fn start<'s>(settings: impl Iterator<Item = &'s Setting>) -> Option<(&'s str, f64)> {
    let (image, strength) = settings.fold((None, None), |(image, strength), setting| match setting {
        Setting::InitImage(path) => (Some(path.as_str()), strength),
        Setting::Strength(share) => (image, Some(*share)),
        _ => (image, strength),
    });
    image.zip(strength)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_paper_preset_is_the_published_recipe_and_settings_win_over_it() {
        let paper = resolve([Setting::Preset(Preset::Paper)].iter());
        assert_eq!((paper.steps, paper.gamma, paper.sag_scale, paper.size), (50, 130.0, 0.75, [512, 512]));
        assert_eq!((paper.final_sigma, paper.prompt.as_str()), (FinalSigma::SigmaMin, ""));
        let other = resolve([Setting::FinalSigma(FinalSigma::Zero), Setting::Preset(Preset::Paper)].iter());
        assert_eq!(other.final_sigma, FinalSigma::Zero);
        assert_eq!(paper.precision, Precision::Half);
        assert_eq!(resolve([].iter()), Sampling::default());
    }

    #[test]
    fn a_value_that_changes_nothing_is_the_default() {
        let always = [Setting::TextGuidance(1.0), Setting::GuidanceInterval([0.0, 1.0])];
        assert_eq!(resolve(always.iter()), Sampling::default());
        let early = resolve([Setting::GuidanceInterval([0.0, 0.5]), Setting::TextGuidance(7.5)].iter());
        assert_eq!((early.guidance_interval, early.text_guidance), (Some([0.0, 0.5]), Some(7.5)));
    }
}
