//! Sampling parameters that make no sense together, in any cell of the grid; each conflict is told once.

use super::diagnose::{Diagnostics, Place};
use super::fields::Located;
use super::grid::MOST_JOBS;
use super::sample::SampleDraft;
use super::sampling::{self, Setting};
use std::collections::HashSet;

/// Looks at every cell of the grid, unless there are more than any experiment may have, which has been told.
pub fn check(draft: &SampleDraft, diagnostics: &mut Diagnostics) {
    if lacks_its_half(draft, diagnostics) || u128::from(draft.grid.points()) > MOST_JOBS {
        return;
    }
    let mut told = HashSet::new();
    for point in draft.grid.cells() {
        let settings = draft.settings_at(&point);
        let sampling = sampling::resolve(settings.clone());
        let strength = sampling::start(settings).map_or(1.0, |(_, strength)| strength);
        let place = |name: &str| {
            let named = |setting: &&Located<Setting>| setting.value.name() == name;
            let place = point.iter().copied().chain(&draft.settings).find(named).map(|setting| setting.place);
            place.unwrap_or(draft.place)
        };
        let mut conflict = |place: Place, message: String, note: &str| {
            if told.insert((place.line, place.column)) {
                diagnostics.mistake(place, message).note(note);
            }
        };
        if let (Some(scale), true) = (sampling.text_guidance, sampling.prompt.is_empty()) {
            let note = "guidance leads from the empty prompt's prediction to another prompt's: give a `prompt`, \
                        or leave `text_guidance` at 1";
            conflict(place("text_guidance"), format!("`text_guidance` is {scale} and `prompt` is empty"), note);
        }
        let steps = sampling.steps;
        let run = sampling::steps_run(steps, strength);
        if run == 0 {
            let message = format!("of {steps} steps, a `strength` of {strength} leaves none");
            conflict(place("strength"), message, "expected at least 1 / `steps`");
        } else if let (Some([from, to]), true) = (sampling.guidance_interval, sampling.gamma != 0.0) {
            let is_guided = |step: u32| (from..to).contains(&(f64::from(step) / f64::from(steps)));
            if !(steps - run..steps).any(is_guided) {
                let message = format!("`guidance_interval` [{from}, {to}] holds none of the steps that are run");
                let note =
                    "step i of n is guided if from <= i/n < to; a start from an image leaves out the first steps";
                conflict(place("guidance_interval"), message, note);
            }
        }
    }
}

/// An image and its strength come together.
fn lacks_its_half(draft: &SampleDraft, diagnostics: &mut Diagnostics) -> bool {
    let place = |name| draft.all_settings().find(|setting| setting.value.name() == name).map(|setting| setting.place);
    let (place, given, lacking) = match (place("init_image"), place("strength")) {
        (Some(image), None) => (image, "init_image", "strength"),
        (None, Some(strength)) => (strength, "strength", "init_image"),
        _ => return false,
    };
    diagnostics
        .mistake(place, format!("`{given}` without `{lacking}`"))
        .note("`strength` is the share of the schedule that is run from the image: above 0, at most 1");
    true
}
