//! From a subject's data to clusters as jobs: a simulated subject goes through `prepare`, `fit` and `cluster` in one submission, and a
//! sample is guided by a cluster of an encoder that was not there when it was submitted.

use checkpoint::Checkpoint;
use end_to_end::table::Table;
use end_to_end::{Campaign, binary, experiment, miniature, read_json, repository};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use subject::dataset::Dataset;

fn simulate(root: &Path, more: &[&str]) {
    let made = Command::new(binary("worker"))
        .arg("simulate-subject")
        .args(more)
        .arg("--backbone")
        .arg(miniature().join("clip"))
        .arg("--out")
        .arg(root)
        .output()
        .expect("the worker starts");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

#[test]
fn a_chain_that_is_submitted_before_anything_is_made_runs_to_its_samples() {
    let campaign = Campaign::new();
    simulate(&campaign.path("nsd"), &["--sessions", "2"]);
    let clip = miniature().join("clip").display().to_string();
    let prepared = "name: prepared\nkind: prepare\ndata: { nsd: nsd }\nprepare: { sessions: 2, food: nsd/food/food_s1.nii.gz }\ngrid: { subject: subj01 }\nout: prepared/{subject}\n";
    let encoders = format!(
        "name: encoders\nkind: fit\nneeds: prepared\ndata: prepared/{{subject}}\nmodels: {{ backbone: {clip} }}\n\
         fit: {{ features: cached, copies: 1, epochs: 3 }}\ngrid: {{ subject: subj01 }}\nout: encoders/{{subject}}\n"
    );
    let clusters = "name: clusters\nkind: cluster\nneeds: encoders\nencoder: encoders/{subject}\n\
                    grid: { subject: subj01, region: food }\nout: clusters/{subject}/{region}\n";
    let sections = "needs: [encoders, clusters]\ngrid: { subject: subj01, region: [food, \"food/cluster:1\"], seed: 1 }\n\
                    sampling: { steps: 3, size: 32, gamma: 5 }\n";
    let images = experiment("images", &miniature(), sections).replace(
        &format!("encoder: {}/encoder", miniature().display()),
        "encoder: encoders/{subject}\n  clusters: clusters/{subject}",
    );
    let files = [("prepare", prepared), ("encoders", &encoders), ("clusters", clusters), ("images", &images)];
    let files = files.map(|(name, text)| campaign.write(&format!("{name}.yaml"), text).display().to_string());
    let submit: Vec<&str> = ["submit"].into_iter().chain(files.iter().map(String::as_str)).collect();
    let submitted = campaign.run(&submit);
    assert!(submitted.status.success(), "{}", String::from_utf8_lossy(&submitted.stderr));

    let mut coordinator = campaign.serve(&[]);
    let mut worker = campaign.worker("one");
    let table = Table::open(&campaign.database());
    table.wait_until_done(5);
    table.assert_sound();
    worker.terminate();
    assert_eq!(worker.wait(), 0, "{}", worker.log());
    coordinator.terminate();
    assert_eq!(coordinator.wait(), 0, "{}", coordinator.log());

    let one = |experiment: &str| table.delivered(experiment).remove(0).body;
    let (prepared, encoder, cluster) = (one("prepared"), one("encoders"), one("clusters"));
    for (result, folder) in
        [(&prepared, "prepared/subj01"), (&encoder, "encoders/subj01"), (&cluster, "clusters/subj01/food")]
    {
        let manifest = read_json(&campaign.path(folder).join("manifest.json"));
        assert_eq!(result["files"], manifest["files"]);
        assert!(manifest["identity"].as_str().is_some_and(|identity| identity.ends_with("/0")), "{manifest}");
    }
    let samples = table.delivered("images");
    let digest = &samples[0].body["models"]["encoder"];
    assert_eq!(*digest, cluster["inputs"]["encoder"], "a sample says which encoder guided it, by content");
    assert_ne!(samples[0].body["activation"], samples[1].body["activation"], "a cluster is not its region");

    // Submitting again after all of it is made adds nothing.
    let again = campaign.json(&submit);
    for file in again["files"].as_array().expect("a list") {
        assert_eq!(file["submitted"]["new_jobs"], 0, "{file}");
    }
}

/// The experiments of the repository, on the simulated subject that they name.
#[test]
fn what_was_planted_in_a_simulated_subject_comes_back_through_the_shipped_experiments() {
    let campaign = Campaign::new();
    simulate(&campaign.path("derived/nsd"), &[]);
    std::os::unix::fs::symlink(repository().join("miniature"), campaign.path("miniature")).expect("a link can be made");
    std::fs::create_dir(campaign.path("experiments")).expect("a folder can be made");
    let files = ["prepare", "encoders", "clusters"].map(|name| {
        let (name, shipped) =
            (format!("experiments/{name}.yaml"), repository().join(format!("experiments/{name}.yaml")));
        std::fs::copy(shipped, campaign.path(&name)).expect("a file can be copied");
        campaign.path(&name).display().to_string()
    });
    let submit: Vec<&str> = ["submit"].into_iter().chain(files.iter().map(String::as_str)).collect();
    let submitted = campaign.run(&submit);
    assert!(submitted.status.success(), "{}", String::from_utf8_lossy(&submitted.stderr));
    let _coordinator = campaign.serve(&[]);
    let _worker = campaign.worker("one");
    let table = Table::open(&campaign.database());
    table.wait_until_done(3);
    table.assert_sound();

    let prepared = Dataset::open(&campaign.path("derived/prepared/subj01")).expect("prepared data");
    let ceiling = prepared.noise_ceiling();
    let ceiling = ceiling.iter().map(|per_cent| f64::from(*per_cent) / 100.0).sum::<f64>() / ceiling.len() as f64;
    let evaluation = read_json(&campaign.path("derived/encoders/subj01/evaluation.json"));
    let r2 = evaluation["regions"]["all"]["r2"]["mean"].as_f64().expect("a mean R²");
    assert!((r2 - ceiling).abs() < 0.02, "R² {r2:.4}, planted ceiling {ceiling:.4}");

    let truth = Checkpoint::open(&campaign.path("derived/nsd/truth/subj01.safetensors")).expect("what was planted");
    let integers = |name: &str| truth.integers(&truth.tensors()[name]).expect("integers");
    let places = integers("voxel_ijk");
    let planted: BTreeMap<[i64; 3], i64> = places.as_chunks::<3>().0.iter().copied().zip(integers("cluster")).collect();
    let found = read_json(&campaign.path("derived/clusters/subj01/food/clusters.json"));
    let voxel_ijk = prepared.voxel_ijk();
    // voxels[found][planted]
    let mut voxels = [[0_usize; 2]; 2];
    for (name, rows) in found["clusters"].as_object().expect("clusters by name") {
        let cluster = usize::from(name.ends_with(":2"));
        for row in rows.as_array().expect("rows of the head") {
            let voxel = voxel_ijk[row.as_u64().expect("a number") as usize];
            voxels[cluster][planted[&voxel] as usize - 1] += 1;
        }
    }
    let [[a, b], [c, d]] = voxels;
    let (right, all) = ((a + d).max(b + c), a + b + c + d);
    assert!(all > 50 && right * 100 >= all * 95, "{right} of {all} voxels are in their planted cluster: {voxels:?}");
    eprintln!("R² {r2:.4}, planted ceiling {ceiling:.4}; {right} of {all} voxels in their planted cluster");
}
