//! Images that one encoder guided, scored by another: an experiment that needs the images of the experiment submitted with it.

use end_to_end::table::{Delivered, Table};
use end_to_end::{Campaign, binary, copy_folder, experiment, miniature, read_json};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

/// Another head on the miniature's backbone: every weight and bias of the first halved and shifted by its place.
fn perturb(head: &Path) {
    let mut file = std::fs::read(head).expect("the head can be read");
    let start = 8 + u64::from_le_bytes(file[..8].try_into().expect("eight bytes")) as usize;
    let header: Value = serde_json::from_slice(&file[8..start]).expect("a header is JSON");
    assert_eq!(header["weight"]["dtype"], "F32");
    for (place, bytes) in file[start..].as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let value = 0.5 * f32::from_le_bytes(*bytes) + 0.01 * (place as f32 * 0.37).sin();
        *bytes = value.to_le_bytes();
    }
    std::fs::write(head, file).expect("the head can be written");
}

/// What a worker says by hand of an unguided image, which no encoder has a part in, with this encoder.
fn by_hand(campaign: &Campaign, encoder: &Path, seed: i64) -> Value {
    let bundle = miniature();
    let folder = |name: &str| bundle.join(name).display().to_string();
    let request = json!({
        "models": { "diffusion": folder("sd"), "backbone": folder("clip"), "head": encoder.display().to_string(), "probe": folder("coca") },
        "objective": { "terms": [{ "roi": "face" }] }, "seed": seed, "size": [32, 32], "steps": 5, "gamma": 0, "sag_scale": 0.75,
        "probes": { "face": ["a face"], "scene": ["a house"] },
    });
    let file = campaign.write("request.json", &request.to_string());
    let out = campaign.path("by-hand");
    let sampled = Command::new(binary("worker")).arg("sample").arg(&file).arg("--out").arg(&out).output();
    let sampled = sampled.expect("the worker starts");
    assert!(sampled.status.success(), "{}", String::from_utf8_lossy(&sampled.stderr));
    read_json(&out.join("result.json"))
}

#[test]
fn another_encoder_scores_every_image_as_if_it_had_been_there() {
    let campaign = Campaign::new();
    let encoder = campaign.path("other/encoder");
    copy_folder(&miniature().join("encoder"), &encoder).expect("the encoder can be copied");
    perturb(&encoder.join("head.safetensors"));
    let sections = "grid: { subject: sim01, region: [face, text], gamma: [0, 14], seed: { count: 3 } }
sampling: { steps: 5, size: 32 }
probes: { face: [a face], scene: [a house] }
";
    let images = campaign.write("images.yaml", &experiment("images", &miniature(), sections));
    let scores = format!(
        "name: scores\nkind: score\nimages: images\nmodels: {{ backbone: {}, encoder: {} }}\n",
        miniature().join("clip").display(),
        encoder.display()
    );
    let scores = campaign.write("scores.yaml", &scores);
    let text = |path: &Path| path.to_str().expect("a readable path").to_owned();
    let submitted = campaign.run(&["submit", &text(&images), &text(&scores)]);
    assert!(submitted.status.success(), "{}", String::from_utf8_lossy(&submitted.stderr));

    let mut coordinator = campaign.serve(&[]);
    let mut worker = campaign.worker_with("one", &["--batch", "3"]);
    let table = Table::open(&campaign.database());
    table.wait_until_done(24);
    table.assert_sound();
    worker.terminate();
    assert_eq!(worker.wait(), 0, "{}", worker.log());
    coordinator.terminate();
    assert_eq!(coordinator.wait(), 0, "{}", coordinator.log());

    let (sampled, scored) = (table.delivered("images"), table.delivered("scores"));
    assert_eq!((sampled.len(), scored.len(), campaign.images().len()), (12, 12, 12), "no image is stored twice");
    for (image, score) in sampled.iter().zip(&scored) {
        let Delivered { region, axes, seed, body } = score;
        assert_eq!((region, axes, seed), (&image.region, &image.axes, &image.seed));
        assert_eq!(body["image_sha256"], image.body["image_sha256"]);
        assert_eq!(body["effective_gamma"], image.body["effective_gamma"]);
        assert_ne!(body["activation"], image.body["activation"], "another encoder says another thing");
        assert_eq!(body["probe"], image.body["probe"], "the probe is the same");
        assert_ne!(body["models"]["encoder"], image.body["models"]["encoder"]);
        if region == "face" && axes == r#"{"gamma":0.0}"# {
            let hand = by_hand(&campaign, &encoder, *seed);
            for key in ["activation", "roi_activation", "probe"] {
                assert_eq!(body[key], hand[key], "{key} of seed {seed}");
            }
        }
    }
}
