//! What a user sees when an experiment file is wrong.

use super::{findings, miniature, read};
use coordinator::spec::diagnose::Severity;
use coordinator::spec::model::HubCache;
use coordinator::spec::{self, files::Digests};
use proptest::prelude::*;
use std::fs;

#[test]
fn three_mistakes_are_all_told_with_line_caret_and_the_nearest_name() {
    let text = miniature(
        "grid:
  subject: sim01
  region: [fase, body]
  gama: [14, 0]
  seed: { start: 0, count: 16 }
sampling: { preset: papper, size: 32 }
",
    );
    let loaded = read(&text);
    let rois = super::repository().join("miniature/bundle/encoder/config.json");
    let expected = format!(
        "\
x.yaml:10:12: there is no region `fase` for subject sim01
 10 |   region: [fase, body]
    |            ^^^^
    = did you mean `face`?
    = expected one of body, face, food, scene, text, unselective
    = a region stands under `regions`, or is an ROI of {}

x.yaml:11:3: unknown key `gama` in `grid`
 11 |   gama: [14, 0]
    |   ^^^^
    = did you mean `gamma`?
    = expected one of subject, region, seed, preset, steps, gamma, sag_scale, size, prompt, final_sigma, solver, noise, text_guidance, init_image, strength, guidance_interval, gradient, precision

x.yaml:13:21: `preset` cannot be `papper`
 13 | sampling: {{ preset: papper, size: 32 }}
    |                     ^^^^^^
    = did you mean `paper`?
    = expected one of paper, default
",
        rois.display()
    );
    assert_eq!(findings(&loaded), expected);
    assert!(loaded.plan.is_none() && loaded.draft.is_none());
    assert!(loaded.diagnostics.found().iter().all(|found| found.severity == Severity::Mistake));
}

#[test]
fn a_repeated_key_is_refused_and_the_first_place_named() {
    let text = miniature("grid: { subject: s, region: face, seed: 1 }\nsampling: { size: 32 }\nname: again\n");
    let expected = "\
x.yaml:10:1: `name` is given twice in an experiment
 10 | name: again
    | ^^^^
    = first on line 1
";
    assert_eq!(findings(&read(&text)), expected);
}

#[test]
fn a_tab_in_the_indentation_is_one_finding_at_the_tab() {
    let expected = "\
x.yaml:2:2: not valid YAML: the line is indented with a tab
 2 |   kind: sample
   |  ^
   = expected blanks: YAML allows no tabs there
";
    assert_eq!(findings(&read("name: x\n \tkind: sample\n")), expected);
}

#[test]
fn no_is_a_text_and_true_is_no_text() {
    let good =
        read(&miniature("grid: { subject: no, region: face, seed: 1 }\nsampling: { size: 32 }\ndescription: off\n"));
    assert_eq!(good.plan.unwrap().conditions[0].subject, "no");
    let expected = "\
x.yaml:8:18: expected text for the name of a subject, found the boolean `true`
 8 | grid: { subject: true, region: face, seed: 1 }
   |                  ^^^^
   = write it in quotes to make it text
";
    let wrong = read(&miniature("grid: { subject: true, region: face, seed: 1 }\nsampling: { size: 32 }\n"));
    assert_eq!(findings(&wrong), expected);
}

#[test]
fn a_syntax_error_is_one_finding_of_the_same_look() {
    let expected = "\
x.yaml:2:7: not valid YAML: unclosed bracket '['
 2 | grid: [1, 2
   |       ^
";
    assert_eq!(findings(&read("name: x\ngrid: [1, 2\n")), expected);
}

#[test]
fn a_placeholder_that_yaml_takes_for_a_map_is_explained() {
    let text = "regions: { R: { mask: masks/{subject}.nii.gz } }\n";
    let expected = "\
x.yaml:1:29: not valid YAML: while parsing a flow mapping, did not find expected ',' or '}'
 1 | regions: { R: { mask: masks/{subject}.nii.gz } }
   |                             ^
   = inside [ ] and { }, a path with {subject} must stand in quotes
";
    assert_eq!(findings(&read(text)), expected);
}

/// Each value is out of range or of the wrong kind, and is the only mistake.
#[test]
fn every_value_out_of_range_is_a_mistake_at_its_place() {
    let grid = "grid: { subject: s, region: face, seed: 1 }";
    let cases = [
        ("steps: 0", "`steps` cannot be the number 0"),
        ("steps: 2.5", "`steps` cannot be the number 2.5"),
        ("gamma: .nan", "`gamma` cannot be the number NaN"),
        ("gamma: .inf", "`gamma` cannot be the number inf"),
        ("gamma: high", "`gamma` cannot be the text `high`"),
        ("sag_scale: -0.5", "`sag_scale` cannot be the number -0.5"),
        ("final_sigma: one", "`final_sigma` cannot be `one`"),
        ("size: [32, 30]", "images of 32 × 30 pixels are no whole number of latents"),
        ("size: [32]", "`size` cannot be a list"),
        ("size: 0", "`size` cannot be the number 0"),
        ("preset:", "expected text for `preset`, found nothing"),
        ("gamma: [1, 2]", "`gamma` has a list of values"),
        ("solver: heun", "`solver` cannot be `heun`"),
        ("noise: numpy", "`noise` cannot be `numpy`"),
        ("text_guidance: 0.5", "`text_guidance` cannot be the number 0.5"),
        ("text_guidance: 7.5", "`text_guidance` is 7.5 and `prompt` is empty"),
        ("init_image: 3", "expected text for `init_image`, found the number 3"),
        ("strength: 0", "`strength` cannot be the number 0"),
        ("strength: 1.5", "`strength` cannot be the number 1.5"),
        ("strength: 0.5", "`strength` without `init_image`"),
        ("guidance_interval: 0.5", "`guidance_interval` cannot be the number 0.5"),
        ("guidance_interval: [0, .nan]", "`guidance_interval` cannot be from 0 to NaN"),
        ("guidance_interval: [0.5, 0.5]", "`guidance_interval` cannot be from 0.5 to 0.5"),
        ("guidance_interval: [0, 1.5]", "`guidance_interval` cannot be from 0 to 1.5"),
        (
            "guidance_interval: [0.501, 0.519]",
            "`guidance_interval` [0.501, 0.519] holds none of the steps that are run",
        ),
        ("gradient: x0", "`gradient` cannot be `x0`"),
        ("precision: f16", "`precision` cannot be `f16`"),
    ];
    for (setting, message) in cases {
        let size = if setting.starts_with("size") { "" } else { "  size: 32\n" };
        only_mistake(&format!("{grid}\nsampling:\n  {setting}\n{size}"), message);
    }
    let sections = [
        ("seed: { count: -1 }", "`count` cannot be the number -1"),
        ("seed: { count: 0 }", "`count` cannot be the number 0"),
        ("seed: { start: 18446744073709551615, count: 2 }", "the last seed does not fit into 64 bits"),
        ("seed: [1, 2, 1]", "seed 1 is listed twice"),
        ("seed: []", "the list of seeds is empty"),
        ("seed: [-1]", "a seed cannot be the number -1"),
        ("seed: 1, gamma: []", "the list of `gamma` is empty"),
        ("seed: 1, gamma: [14, 14.0]", "the number 14 is listed twice in `gamma`"),
        ("seed: { count: 10000000 }, gamma: [1, 2]", "the grid asks for 20000000 jobs"),
    ];
    for (seed, message) in sections {
        only_mistake(&format!("grid: {{ subject: s, region: face, {seed} }}\nsampling: {{ size: 32 }}\n"), message);
    }
    let others = [
        ("retries: -1", "`retries` cannot be the number -1"),
        ("budget: { gpu_hours: 0 }", "`gpu_hours` cannot be the number 0"),
        ("priority: 1.5", "`priority` cannot be the number 1.5"),
        ("probes: { face: [] }", "the list of prompts of `face` is empty"),
        ("probes: {}", "`probes` names no class"),
        ("regions: { face: { roi: face, prefers: faces } }", "there is no probe class `faces`"),
        ("regions: { face: { prefers: face } }", "region `face` does not say which voxels it means"),
        (
            "regions: { face: { roi: face, voxels: [1] } }",
            "region `face` names its voxels in several ways: roi, voxels",
        ),
        ("regions: { face: { roi: face, labels: [1] } }", "`labels` means nothing beside `roi`"),
        ("regions: { face: { mask: m.nii.gz, t_above: 2 } }", "`t_above` without `t_map`"),
        ("regions: { face: { roi: face, weight: 0 } }", "`weight` cannot be the number 0"),
        ("regions: { face: [] }", "the list of terms of region `face` is empty"),
        ("regions: { face: [{ roi: face, prefers: face }] }", "unknown key `prefers` in a term of region `face`"),
        ("sampling: { size: 32, gamma: 3 }\nextra: 1", "unknown key `extra` in an experiment"),
    ];
    for (section, message) in others {
        let size = if section.starts_with("sampling") { "" } else { "\nsampling: { size: 32 }" };
        only_mistake(&format!("{grid}{size}\n{section}\n"), message);
    }
}

fn only_mistake(sections: &str, message: &str) {
    let loaded = read(&miniature(sections));
    let found: Vec<_> = loaded.diagnostics.found().iter().map(|found| found.message.as_str()).collect();
    assert_eq!(found, [message], "{sections}");
    let place = loaded.diagnostics.found()[0].place;
    assert!(place.line >= 8 && place.column >= 1, "{place:?} for {sections}");
}

#[test]
fn a_parameter_both_swept_and_set_is_a_mistake() {
    only_mistake(
        "grid: { subject: s, region: face, seed: 1, gamma: [1, 2] }\nsampling: { size: 32, gamma: 3 }\n",
        "`gamma` stands both under `sampling` and under `grid`",
    );
}

/// Only some cells of the sweep are wrong; each mistake is told once, at the value that makes it.
#[test]
fn a_conflict_in_a_cell_of_the_grid_is_a_mistake() {
    let grid =
        |axes: &str| format!("grid: {{ subject: s, region: face, seed: 1, {axes} }}\nsampling: {{ size: 32 }}\n");
    only_mistake(
        &grid("text_guidance: [1, 7.5], prompt: [\"\", a cat], gamma: [0, 1]"),
        "`text_guidance` is 7.5 and `prompt` is empty",
    );
    let interval = "`guidance_interval` [0.3, 0.5] holds none of the steps that are run";
    only_mistake(&grid("guidance_interval: [[0.3, 0.5], [0.5, 1]], steps: [2, 10]"), interval);
}

#[test]
fn missing_sections_are_all_told() {
    let loaded = read("description: nothing else\n");
    let found: Vec<_> = loaded.diagnostics.found().iter().map(|found| found.message.as_str()).collect();
    let missing = ["name", "kind", "models", "grid"].map(|key| format!("`{key}` is missing in an experiment"));
    assert_eq!(found, missing);
}

#[test]
fn a_file_that_is_missing_or_no_text_is_told() {
    let scratch = tempfile::tempdir().unwrap();
    let hub = HubCache::at(scratch.path());
    let path = scratch.path().join("x.yaml");
    let loaded = spec::load(&path, &hub, &mut Digests::default());
    assert!(findings(&loaded).contains("x.yaml: cannot read the experiment file"), "{}", findings(&loaded));
    fs::write(&path, b"name: x\nkind: \xff\n").unwrap();
    let loaded = spec::load(&path, &hub, &mut Digests::default());
    assert!(findings(&loaded).contains("x.yaml:2:7: not UTF-8 text"), "{}", findings(&loaded));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_read_without_a_panic_and_a_refusal_has_findings(text in "\\PC*|([\\[\\]{}:,&*!|>'\"%@`#?\\- \n\t\ra-f0-9.])*") {
        let loaded = read(&text);
        prop_assert_eq!(loaded.plan.is_none(), !loaded.diagnostics.is_empty());
        let _ = loaded.diagnostics.render(true);
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("x.yaml");
        fs::write(&path, bytes).unwrap();
        let loaded = spec::load(&path, &HubCache::at(scratch.path()), &mut Digests::default());
        prop_assert!(!loaded.diagnostics.is_empty());
    }

    /// The experiment with a piece cut out or put twice: never a panic, and a plan only without findings.
    #[test]
    fn a_damaged_experiment_is_read_without_a_panic(from in 0_usize..900, length in 0_usize..60, twice: bool) {
        let text = fs::read_to_string(super::repository().join("experiments/miniature.yaml")).unwrap();
        let characters: Vec<char> = text.chars().collect();
        let from = from.min(characters.len());
        let to = (from + length).min(characters.len());
        let again = if twice { to - from } else { 0 };
        let damaged: String = characters[..from + again].iter().chain(&characters[if twice { from } else { to }..]).collect();
        let loaded = read(&damaged);
        prop_assert_eq!(loaded.plan.is_none(), !loaded.diagnostics.is_empty());
        let _ = loaded.diagnostics.render(true);
    }
}
