//! An encoder that `worker import-berg` made guides, and is clustered, like any other: by hand and as a job.

use end_to_end::table::Table;
use end_to_end::{Campaign, binary, experiment, miniature, read_json, repository};
use serde_json::json;
use std::path::Path;
use std::process::{Command, Output};

fn worker(arguments: &[&str]) -> Output {
    let output = Command::new(binary("worker")).args(arguments).output().expect("the worker starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a readable path")
}

#[test]
fn an_imported_encoder_guides_by_hand_and_as_a_job_and_is_clustered() {
    let campaign = Campaign::new();
    let place = campaign.path("berg");
    let [weights, metadata, backbone] = ["weights.npy", "metadata.npy", "vit.pth"]
        .map(|name| repository().join("braindive/tests/fixtures/berg").join(name).display().to_string());
    let said = worker(&[
        "import-berg",
        "--weights",
        &weights,
        "--metadata",
        &metadata,
        "--backbone",
        &backbone,
        "--subject",
        "subj01",
        "--region",
        "FFA-1",
        "--region",
        "OFA",
        "--resize",
        "10",
        "--heads",
        "2",
        "--out",
        text(&place),
    ]);
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("encoder: regions 2, vertices 7"), "{said}");

    let models = |experiment: String| {
        let bundle = miniature().display().to_string();
        let experiment = experiment.replace(&format!("{bundle}/clip"), "berg/backbone");
        experiment.replace(&format!("{bundle}/encoder"), "berg/encoder")
    };
    let sections = "grid: { subject: subj01, region: FFA-1, seed: 1 }\nsampling: { steps: 5, size: 32, gamma: 3 }\n\
                    probes: { face: [a face], scene: [a house] }\n";
    let file = campaign.write("experiment.yaml", &models(experiment("berg", &miniature(), sections)));
    let submitted = campaign.run(&["submit", text(&file)]);
    assert!(submitted.status.success(), "{}", String::from_utf8_lossy(&submitted.stderr));
    let _coordinator = campaign.serve(&[]);
    let _worker = campaign.worker("one");
    let table = Table::open(&campaign.database());
    table.wait_until_done(1);
    let job = table.delivered("berg").remove(0).body;

    let by_hand = |gamma: f64| {
        let bundle = miniature();
        let request = json!({
            "models": {
                "diffusion": bundle.join("sd"), "probe": bundle.join("coca"),
                "backbone": place.join("backbone"), "head": place.join("encoder"),
            },
            "objective": { "terms": [{ "roi": "FFA-1" }] },
            "seed": 1, "size": [32, 32], "steps": 5, "gamma": gamma, "sag_scale": 0.75, "prompt": "",
            "final_sigma": "zero", "probes": { "face": ["a face"], "scene": ["a house"] },
        });
        let out = campaign.path(&format!("gamma{gamma}"));
        worker(&["sample", text(&campaign.write("request.json", &request.to_string())), "--out", text(&out)]);
        read_json(&out.join("result.json"))
    };
    let (guided, free) = (by_hand(3.0), by_hand(0.0));
    for key in ["activation", "roi_activation"] {
        assert_eq!(guided[key], job[key], "{key}");
    }
    let activation = |result: &serde_json::Value| result["activation"].as_f64().expect("a number");
    assert!(
        activation(&guided) > activation(&free),
        "{} with guidance, {} without",
        guided["activation"],
        free["activation"]
    );

    let clusters = campaign.path("clusters");
    worker(&["cluster", text(&place.join("encoder")), "--region", "FFA-1+OFA", "--k", "2", "--out", text(&clusters)]);
    let clusters = read_json(&clusters.join("clusters.json"));
    let rows: usize = clusters["alpha"].as_array().map_or(0, Vec::len);
    assert_eq!(rows, 2, "{clusters}");
}
