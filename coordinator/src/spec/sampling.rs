//! Parameters of the guided sampler: presets (science: Luo et al. 2023, section 3.2; the authors' code) and what a file
//! sets instead.

use super::diagnose::Diagnostics;
use super::fields::{Fields, Located};
use super::node::{Node, Value};
use protocol::job::{FinalSigma, Preset, Sampling};
use serde_json::json;

/// Names of the sampling parameters, as keys of `sampling` and as axes of `grid`.
pub const PARAMETERS: [&str; 7] = ["preset", "steps", "gamma", "sag_scale", "size", "prompt", "final_sigma"];

/// Names of the presets.
pub const PRESETS: [(&str, Preset); 2] = [("paper", Preset::Paper), ("default", Preset::Default)];

const FINAL_SIGMAS: [(&str, FinalSigma); 2] = [("zero", FinalSigma::Zero), ("sigma_min", FinalSigma::SigmaMin)];

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
        }
    }

    /// The value as a point on an axis of the grid.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Preset(preset) => json!(preset),
            Self::Steps(steps) => json!(steps),
            Self::Gamma(value) | Self::SagScale(value) => json!(value),
            Self::Size([width, height]) if width == height => json!(width),
            Self::Size(size) => json!(size),
            Self::Prompt(prompt) => json!(prompt),
            Self::FinalSigma(sigma) => json!(sigma),
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

/// The `sampling` section.
pub fn read(node: &Node, diagnostics: &mut Diagnostics) -> Vec<Located<Setting>> {
    let Some(fields) = Fields::of(node, "`sampling`", &PARAMETERS, diagnostics) else { return Vec::new() };
    let mut settings = Vec::new();
    for (key, value) in fields.iter() {
        if matches!(value.value, Value::List(_)) && key.name != "size" {
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

/// The preset's defaults, then `settings` in their order.
pub fn resolve<'s>(settings: impl Iterator<Item = &'s Setting> + Clone) -> Sampling {
    let preset = settings
        .clone()
        .filter_map(|setting| if let Setting::Preset(preset) = setting { Some(*preset) } else { None })
        .last()
        .unwrap_or(Preset::Default);
    let mut sampling = Sampling {
        preset,
        steps: 50,
        gamma: 130.0,
        sag_scale: 0.75,
        size: [512, 512],
        prompt: String::new(),
        final_sigma: match preset {
            Preset::Paper => FinalSigma::SigmaMin,
            Preset::Default => FinalSigma::Zero,
        },
    };
    for setting in settings {
        setting.apply(&mut sampling);
    }
    sampling
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
        assert_eq!(resolve([].iter()).final_sigma, FinalSigma::Zero);
    }
}
