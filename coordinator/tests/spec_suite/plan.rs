//! Sweeps and keys.

use super::{Copy, findings, miniature, read, read_in, repository};
use coordinator::plan::Plan;
use coordinator::spec::Loaded;
use proptest::prelude::*;
use proptest::sample::subsequence;
use std::collections::BTreeSet;
use std::fs;

fn plan(loaded: Loaded) -> Plan {
    let findings = findings(&loaded);
    loaded.plan.unwrap_or_else(|| panic!("{findings}"))
}

#[test]
fn a_sweep_is_every_combination_with_the_last_axis_fastest() {
    let sections = "grid: { subject: s, region: [face, body], seed: [7, 3], steps: [10, 20], gamma: [0, 8.5], size: [32, [32, 64]] }\n";
    let plan = plan(read(&miniature(sections)));
    assert_eq!((plan.conditions.len(), plan.jobs()), (16, 32));
    assert_eq!(plan.seeds.iter().map(|seed| seed.0).collect::<Vec<_>>(), [7, 3]);
    let axes: Vec<_> = plan.conditions.iter().map(|c| serde_json::to_string(&c.axes).unwrap()).collect();
    assert_eq!(axes[0], r#"{"gamma":0.0,"size":32,"steps":10}"#);
    assert_eq!(axes[1], r#"{"gamma":0.0,"size":[32,64],"steps":10}"#);
    assert_eq!(axes[2], r#"{"gamma":8.5,"size":32,"steps":10}"#);
    assert_eq!(axes[4], r#"{"gamma":0.0,"size":32,"steps":20}"#);
    assert!(plan.conditions[..8].iter().all(|condition| condition.region == "face"));
}

#[test]
fn moving_the_models_makes_no_new_conditions_and_changing_them_does() {
    let text = miniature("grid: { subject: s, region: face, seed: 1 }\nsampling: { size: 32 }\n");
    let here = plan(read(&text));
    let copy = Copy::new();
    let there = plan(copy.read(&text));
    assert_eq!(here.conditions[0].key, there.conditions[0].key);
    assert_ne!(here.conditions[0].spec, there.conditions[0].spec);
    for file in [
        "sd/scheduler/scheduler_config.json",
        "clip/open_clip_config.json",
        "coca/open_clip_config.json",
        "encoder/config.json",
    ] {
        let copy = Copy::new();
        let bytes = fs::read(copy.path(file)).unwrap();
        copy.replace(file, [&bytes[..], b"\n"].concat());
        assert_ne!(here.conditions[0].key, plan(copy.read(&text)).conditions[0].key, "{file}");
    }
}

/// Everything of a condition that a file can say, in a small domain, so that two of them are often equal in part.
#[derive(Debug, Clone, PartialEq)]
struct Parameters {
    subject: &'static str,
    region: &'static str,
    preset: &'static str,
    steps: u32,
    gamma: f64,
    sag_scale: f64,
    size: [u32; 2],
    prompt: &'static str,
    final_sigma: &'static str,
    weight: f64,
    voxels: Vec<u32>,
    prompts: Vec<&'static str>,
    precision: &'static str,
    /// Settings that are not at their defaults.
    optional: Vec<&'static str>,
}

const OPTIONAL: [&str; 5] =
    ["solver: ddim", "noise: torch_cpu", "guidance_interval: [0, 0.5]", "gradient: pred_x0", "text_guidance: 7.5"];

prop_compose! {
    fn parameters()(
        (subject, region) in (prop::sample::select(vec!["s", "t"]), prop::sample::select(vec!["R", "Q"])),
        (preset, final_sigma) in (prop::sample::select(vec!["paper", "default"]), prop::sample::select(vec!["zero", "sigma_min"])),
        (steps, gamma, sag_scale) in (1_u32..4, prop::sample::select(vec![-1.5, 0.0, 14.0]), prop::sample::select(vec![0.0, 0.75])),
        (width, height) in (prop::sample::select(vec![32, 36]), prop::sample::select(vec![32, 36])),
        prompt in prop::sample::select(vec!["", "a cat"]),
        weight in prop::sample::select(vec![1.0, -1.0]),
        voxels in subsequence(vec![0, 1, 399], 1..=3),
        prompts in subsequence(vec!["a", "b"], 1..=2),
        (precision, optional) in (prop::sample::select(vec!["single", "half"]), subsequence(OPTIONAL.to_vec(), 0..=5)),
    ) -> Parameters {
        // Text guidance needs a prompt.
        let optional = optional.into_iter().filter(|setting| !prompt.is_empty() || !setting.starts_with("text")).collect();
        Parameters {
            subject, region, preset, steps, gamma, sag_scale, size: [width, height], prompt, final_sigma, weight, voxels, prompts,
            precision, optional,
        }
    }
}

impl Parameters {
    /// The file's text; `order` turns the order of keys, and what decides nothing follows `noise`.
    fn yaml(&self, order: usize, noise: u32) -> String {
        let turned = |mut lines: Vec<String>| {
            let by = order % lines.len();
            lines.rotate_left(by);
            lines
        };
        let sampling = turned(vec![
            format!("preset: {}", self.preset),
            format!("steps: {}", self.steps),
            format!("gamma: {}", self.gamma),
            format!("sag_scale: {:?}", self.sag_scale),
            format!("size: {:?}", self.size),
            format!("prompt: {:?}", self.prompt),
            format!("final_sigma: {}", self.final_sigma),
            format!("precision: {}", self.precision),
            self.optional.join("\n  "),
        ]);
        let mut voxels = self.voxels.clone();
        voxels.rotate_left(order % self.voxels.len());
        let prefers = if noise < 50 { "x" } else { "y" };
        let term = turned(vec![
            format!("voxels: {voxels:?}"),
            format!("weight: {}", self.weight),
            format!("prefers: {prefers}"),
        ]);
        let bundle = repository().join("miniature/bundle");
        let models = turned(
            [("diffusion", "sd"), ("backbone", "clip"), ("encoder", "encoder"), ("probe", "coca")]
                .map(|(role, folder)| format!("{role}: {}", bundle.join(folder).display()))
                .to_vec(),
        );
        let sections = turned(vec![
            format!("name: n{noise}"),
            "kind: sample".to_owned(),
            format!("description: text {noise} # and a comment {noise}"),
            format!("models:\n  {}", models.join("\n  ")),
            format!(
                "grid: {{ seed: {{ count: {} }}, subject: {}, region: {} }}",
                1 + noise % 3,
                self.subject,
                self.region
            ),
            format!("regions:\n  {}: {{ {} }}", self.region, term.join(", ")),
            format!("sampling:\n  {}", sampling.join(&format!("\n  # {noise}\n  "))),
            format!("probes: {{ x: {:?}, y: [z] }}", self.prompts),
            format!("priority: {noise}"),
            format!("retries: {}", noise % 5),
            format!("budget: {{ gpu_hours: {} }}", noise + 1),
        ]);
        sections.join("\n")
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_key_changes_with_every_parameter_and_with_nothing_else(
        a in parameters(),
        b in parameters(),
        (order_a, order_b) in (0_usize..11, 0_usize..11),
        (noise_a, noise_b) in (0_u32..100, 0_u32..100),
    ) {
        let key = |parameters: &Parameters, order, noise| plan(read(&parameters.yaml(order, noise))).conditions[0].key.clone();
        let (key_a, key_b) = (key(&a, order_a, noise_a), key(&b, order_b, noise_b));
        prop_assert_eq!(&key_a, &key(&a, order_b, noise_b));
        prop_assert_eq!(key_a == key_b, a == b);
        let single = [
            Parameters { subject: if a.subject == "s" { "t" } else { "s" }, ..a.clone() },
            Parameters { region: if a.region == "R" { "Q" } else { "R" }, ..a.clone() },
            Parameters { preset: if a.preset == "paper" { "default" } else { "paper" }, ..a.clone() },
            Parameters { steps: a.steps + 1, ..a.clone() },
            Parameters { gamma: a.gamma + 0.1, ..a.clone() },
            Parameters { sag_scale: a.sag_scale + 0.1, ..a.clone() },
            Parameters { size: [a.size[0] + 4, a.size[1]], ..a.clone() },
            Parameters { prompt: if a.prompt.is_empty() { "a cat" } else { "a dog" }, ..a.clone() },
            Parameters { precision: if a.precision == "half" { "single" } else { "half" }, ..a.clone() },
            Parameters { final_sigma: if a.final_sigma == "zero" { "sigma_min" } else { "zero" }, ..a.clone() },
            Parameters { weight: a.weight * 2.0, ..a.clone() },
            Parameters { voxels: [&a.voxels[..], &[5]].concat(), ..a.clone() },
            Parameters { prompts: [&a.prompts[..], &["c"]].concat(), ..a.clone() },
        ];
        let toggled = OPTIONAL.into_iter().filter(|setting| !a.prompt.is_empty() || !setting.starts_with("text")).map(|setting| {
            let mut optional: Vec<_> = a.optional.iter().copied().filter(|other| *other != setting).collect();
            if optional.len() == a.optional.len() {
                optional.push(setting);
            }
            Parameters { optional, ..a.clone() }
        });
        for changed in single.into_iter().chain(toggled) {
            prop_assert_ne!(&key_a, &key(&changed, order_a, noise_a), "{:?}", changed);
        }
    }

    #[test]
    fn subjects_regions_axes_and_seeds_multiply(
        subjects in subsequence(vec!["s1", "s2", "s3"], 1..=3),
        regions in subsequence(vec!["face", "body", "scene", "food"], 1..=4),
        gammas in subsequence(vec!["0", "1", "2.5", "14"], 1..=4),
        steps in subsequence(vec![5, 10, 50], 1..=3),
        (start, count) in (0_u64..1000, 1_u64..40),
    ) {
        let scratch = tempfile::tempdir().unwrap();
        let bundle = repository().join("miniature/bundle");
        for subject in &subjects {
            std::os::unix::fs::symlink(bundle.join("encoder"), scratch.path().join(subject)).unwrap();
        }
        let models = format!(
            "{{ diffusion: {0}/sd, backbone: {0}/clip, encoder: \"{{subject}}\", probe: {0}/coca }}",
            bundle.display()
        );
        let text = format!(
            "name: x\nkind: sample\nmodels: {models}\nsampling: {{ size: 32 }}\ngrid:\n  subject: [{}]\n  region: [{}]\n  gamma: [{}]\n  steps: {steps:?}\n  seed: {{ start: {start}, count: {count} }}\n",
            subjects.join(", "), regions.join(", "), gammas.join(", ")
        );
        let plan = plan(read_in(scratch.path(), &text));
        let conditions = subjects.len() * regions.len() * gammas.len() * steps.len();
        prop_assert_eq!(plan.conditions.len(), conditions);
        prop_assert_eq!(plan.jobs(), conditions as u64 * count);
        prop_assert_eq!(plan.seeds.iter().map(|seed| seed.0).collect::<Vec<_>>(), (start..start + count).collect::<Vec<_>>());
        let keys: BTreeSet<_> = plan.conditions.iter().map(|condition| &condition.key).collect();
        prop_assert_eq!(keys.len(), conditions);
    }
}
