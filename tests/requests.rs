//! What an experiment asks for reaches the sampler: every kind of objective, with every optional parameter set, gives what the same
//! request gives by hand.

use end_to_end::table::Table;
use end_to_end::{Campaign, binary, copy_folder, experiment, miniature, read_json, repository, wait_for};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

/// The miniature's encoder with a cluster, and with a place for every voxel: row v lies at (v, 0, 0).
fn place_encoder(folder: &Path) {
    let mut config = read_json(&folder.join("config.json"));
    config["clusters"] = json!({ "food_1": [180, 185, 199] });
    std::fs::write(folder.join("config.json"), config.to_string()).expect("a file can be written");
    let head = folder.join("head.safetensors");
    let file = std::fs::read(&head).expect("the head can be read");
    let start = 8 + u64::from_le_bytes(file[..8].try_into().expect("eight bytes")) as usize;
    let mut header: Value = serde_json::from_slice(&file[8..start]).expect("a header is JSON");
    let (voxels, begin) = (400_i16, file.len() - start);
    header["voxel_ijk"] =
        json!({ "dtype": "I16", "shape": [voxels, 3], "data_offsets": [begin, begin + 6 * voxels as usize] });
    let header = header.to_string();
    let places = (0..voxels).flat_map(|voxel| [voxel, 0, 0]).flat_map(i16::to_le_bytes);
    let mut placed = (header.len() as u64).to_le_bytes().to_vec();
    placed.extend(header.bytes().chain(file[start..].iter().copied()).chain(places));
    std::fs::write(head, placed).expect("a file can be written");
}

/// A NIfTI-1 volume of 400 × 1 × 1 float32 values that holds 2 at `voxels`, else 0.
fn mask(voxels: &[usize]) -> Vec<u8> {
    let mut file = vec![0_u8; 352];
    file[0..4].copy_from_slice(&348_i32.to_le_bytes());
    for (index, length) in [3_u16, 400, 1, 1, 1, 1, 1, 1].into_iter().enumerate() {
        file[40 + 2 * index..42 + 2 * index].copy_from_slice(&length.to_le_bytes());
    }
    file[70..72].copy_from_slice(&16_i16.to_le_bytes());
    file[72..74].copy_from_slice(&32_i16.to_le_bytes());
    file[108..112].copy_from_slice(&352_f32.to_le_bytes());
    file[112..116].copy_from_slice(&1_f32.to_le_bytes());
    file[344..348].copy_from_slice(b"n+1\0");
    file.extend((0..400).flat_map(|voxel| if voxels.contains(&voxel) { 2_f32 } else { 0.0 }.to_le_bytes()));
    file
}

fn by_hand(folder: &Path, request: &Value) -> Value {
    let file = folder.join("request.json");
    std::fs::write(&file, request.to_string()).expect("a file can be written");
    let sampled = Command::new(binary("worker")).arg("sample").arg(&file).arg("--out").arg(folder.join("out")).output();
    let sampled = sampled.expect("the worker starts");
    assert!(sampled.status.success(), "{}", String::from_utf8_lossy(&sampled.stderr));
    read_json(&folder.join("out/result.json"))
}

#[test]
fn every_objective_and_parameter_means_the_same_in_an_experiment_and_by_hand() {
    let campaign = Campaign::new();
    let bundle = campaign.path("bundle");
    copy_folder(&miniature(), &bundle).expect("the miniature can be copied");
    place_encoder(&bundle.join("encoder"));
    std::fs::write(campaign.path("mask.nii"), mask(&[60, 61, 75])).expect("a file can be written");
    let image = repository().join("tests/reference/request/init.png");
    let sections = format!(
        "grid: {{ subject: sim01, region: [voxel, cluster, mask, contrast, suppress], seed: 3 }}
regions:
  voxel: {{ voxels: [17] }}
  cluster: {{ cluster: food_1 }}
  mask: {{ mask: mask.nii, labels: [2] }}
  contrast: [{{ roi: face }}, {{ roi: scene, weight: -0.5 }}]
  suppress: {{ roi: text, weight: -1 }}
sampling:
  steps: 5
  gamma: 14
  size: 32
  prompt: a photo of a face
  text_guidance: 3
  solver: ddim
  noise: torch_cpu
  init_image: {}
  strength: 0.8
  guidance_interval: [0.4, 1]
  gradient: pred_x0
probes: {{ face: [a face], scene: [a house] }}
",
        image.display()
    );
    let file = campaign.write("experiment.yaml", &experiment("requests", &bundle, &sections));
    let submitted = campaign.run(&["submit", file.to_str().expect("a readable path")]);
    assert!(submitted.status.success(), "{}", String::from_utf8_lossy(&submitted.stderr));
    let mut coordinator = campaign.serve(&[]);
    let mut worker = campaign.worker("one");
    let table = Table::open(&campaign.database());
    wait_for("every job to be done", || {
        assert_eq!(
            table.number("SELECT count(*) FROM job WHERE state IN ('failed', 'cancelled')"),
            0,
            "{}",
            worker.log()
        );
        (table.number("SELECT count(*) FROM job WHERE state = 'done'") == 5).then_some(())
    });
    worker.terminate();
    assert_eq!(worker.wait(), 0, "{}", worker.log());
    coordinator.terminate();
    assert_eq!(coordinator.wait(), 0, "{}", coordinator.log());

    let jobs = table.bodies();
    let folder = |name: &str| bundle.join(name).display().to_string();
    let mut request = json!({
        "models": { "diffusion": folder("sd"), "backbone": folder("clip"), "head": folder("encoder"), "probe": folder("coca") },
        "seed": 3, "size": [32, 32], "steps": 5, "gamma": 14, "sag_scale": 0.75, "prompt": "a photo of a face",
        "text_guidance": 3, "solver": "ddim", "noise": "torch_cpu", "init_image": image.display().to_string(), "strength": 0.8,
        "guidance_interval": [0.4, 1], "gradient": "pred_x0", "probes": { "face": ["a face"], "scene": ["a house"] },
    });
    let mut activations = Vec::new();
    for (region, objective) in [
        ("voxel", json!({ "voxels": [17] })),
        ("cluster", json!({ "terms": [{ "cluster": "food_1" }] })),
        ("mask", json!({ "terms": [{ "mask": "mask.nii", "labels": [2] }] })),
        ("contrast", json!({ "terms": [{ "roi": "face" }, { "roi": "scene", "weight": -0.5 }] })),
        ("suppress", json!({ "terms": [{ "roi": "text", "weight": -1 }] })),
    ] {
        request["objective"] = objective;
        let (hand, job) = (by_hand(&campaign.path(""), &request), &jobs[region]);
        for key in ["activation", "roi_activation", "probe", "effective_gamma", "deviations"] {
            assert_eq!(hand[key], job[key], "{key} of {region}");
        }
        activations.push(hand["activation"].as_f64().expect("a number"));
    }
    activations.sort_by(f64::total_cmp);
    assert!(activations.windows(2).all(|pair| pair[0] < pair[1]), "no two objectives are one: {activations:?}");
    let deviations = jobs["contrast"]["deviations"].to_string();
    for words in [
        "DDIM",
        "CPU generator",
        "text guidance of scale 3",
        "the last 0.8",
        "0.4 <= i/n < 1",
        "without the UNet",
        "weighted",
    ] {
        assert!(deviations.contains(words), "{words} is not in {deviations}");
    }
}

#[test]
fn a_voxel_that_is_listed_twice_is_refused_by_hand() {
    let campaign = Campaign::new();
    let case = repository().join("tests/reference/cases/small_s5");
    let mut request = read_json(&case.join("request.json"));
    request["objective"] = json!({ "voxels": [2, 0, 2] });
    for (_, file) in request["models"].as_object_mut().expect("a map of paths") {
        *file = json!(case.join(file.as_str().expect("a path")));
    }
    request["initial_latents"]["file"] = json!(case.join("inputs.safetensors"));
    let file = campaign.write("request.json", &request.to_string());
    let output = Command::new(binary("worker")).arg("sample").arg(file).arg("--out").arg(campaign.path("out")).output();
    let message = String::from_utf8_lossy(&output.expect("the worker starts").stderr).into_owned();
    assert!(message.contains("lists voxel 2 twice"), "{message}");
}
