//! Missing, damaged and mismatching model files, and regions that the files decide.

use super::{Copy, findings, head, miniature, read, repository};
use coordinator::spec::diagnose::Severity;
use coordinator::spec::files::Digests;
use coordinator::spec::summary::Summary;
use coordinator::spec::{self, Loaded, volume};
use proptest::prelude::*;
use protocol::job::{Condition, Input, Models, Preset, SampleCondition, VoxelSet};
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::fs;

const FACE: &str = "grid: { subject: s, region: face, seed: 1 }\nsampling: { size: 32 }\n";

fn sample(loaded: &Loaded, index: usize) -> SampleCondition {
    let plan = loaded.plan.as_ref().unwrap_or_else(|| panic!("{}", findings(loaded)));
    let Condition::Sample(condition) = &plan.conditions[index].spec else { panic!("a plan of samples") };
    SampleCondition::clone(condition)
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

#[test]
fn the_miniature_is_ten_conditions_and_160_jobs_with_the_digests_of_its_files() {
    let path = repository().join("experiments/miniature.yaml");
    let loaded = spec::load(&path, &super::no_hub(), &mut Digests::default());
    assert_eq!(findings(&loaded), "");
    let plan = loaded.plan.as_ref().unwrap();
    assert_eq!((plan.conditions.len(), plan.seeds.len(), plan.jobs()), (10, 16, 160));
    assert_eq!((plan.experiment.name.as_str(), plan.experiment.max_attempts), ("miniature", 3));
    assert_eq!(plan.experiment.yaml, fs::read_to_string(&path).unwrap());

    let first = sample(&loaded, 0);
    assert_eq!((first.region.as_str(), first.sampling.gamma, first.sampling.preset), ("face", 14.0, Preset::Default));
    assert_eq!(plan.conditions[0].axes["gamma"], 14.0);
    assert_eq!(plan.conditions[1].axes["gamma"], 0.0);
    assert_eq!(first.prefers.as_deref(), Some("face"));
    let VoxelSet::Rows { rows, denominator } = &first.objective.terms[0].voxels else { panic!("{first:?}") };
    assert_eq!((rows.clone(), *denominator), ((0..60).collect(), 60));

    let Models { diffusion, backbone, encoder, probe } = &first.models;
    let Input::Content(encoder) = encoder else { panic!("{encoder:?}") };
    for (role, folder) in [("diffusion", diffusion), ("backbone", backbone), ("encoder", encoder), ("probe", probe)] {
        let mut lines = String::new();
        assert!(folder.files.is_sorted_by_key(|file| &file.name), "{role}");
        for file in &folder.files {
            let bytes = fs::read(folder.path.join(&file.name)).unwrap();
            assert_eq!(file.bytes, bytes.len() as u64);
            assert_eq!(file.sha256.as_str(), sha256(&bytes), "{role} {}", file.name);
            writeln!(lines, "{}  {}", file.sha256, file.name).unwrap();
        }
        assert_eq!(folder.digest.as_str(), sha256(lines.as_bytes()), "{role}");
    }
    let names: Vec<_> = first.models.diffusion.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "model_index.json",
            "scheduler/scheduler_config.json",
            "text_encoder/config.json",
            "text_encoder/model.safetensors",
            "tokenizer/merges.txt",
            "tokenizer/vocab.json",
            "unet/config.json",
            "unet/diffusion_pytorch_model.safetensors",
            "vae/config.json",
            "vae/diffusion_pytorch_model.safetensors",
        ]
    );
}

#[test]
fn no_published_experiment_has_mistakes_and_those_on_the_miniature_run() {
    let mut names = Vec::new();
    for entry in fs::read_dir(repository().join("experiments")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let loaded = spec::load(&path, &super::no_hub(), &mut Digests::default());
            assert!(!loaded.diagnostics.has_mistakes(), "{}", findings(&loaded));
            let on_miniature = fs::read_to_string(&path).unwrap().contains("../miniature/bundle");
            let draft = loaded.draft.as_ref().unwrap();
            let alone = on_miniature && draft.needs.is_empty();
            assert!(loaded.plan.is_some() || !alone, "{}", findings(&loaded));
            names.push(draft.name.clone());
        }
    }
    names.sort();
    let published = [
        "categories",
        "clusters",
        "early_guidance",
        "encoders",
        "from_image",
        "gamma_sweep",
        "load",
        "miniature",
        "ofa_ffa",
        "ofa_ffa_scores",
        "prepared",
        "solvers",
    ];
    assert_eq!(names, published);
}

#[test]
fn every_missing_file_of_the_papers_experiment_is_listed() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().canonicalize().unwrap();
    let text = fs::read_to_string(repository().join("experiments/ofa_ffa.yaml")).unwrap();
    let loaded = super::read_in(&root.join("experiments"), &text);
    assert!(loaded.plan.is_none());
    let draft = loaded.draft.as_ref().unwrap();
    assert_eq!((draft.grid().unwrap().conditions(), draft.grid().unwrap().seeds.len()), (8, 500));
    assert!(loaded.diagnostics.found().iter().all(|found| found.severity == Severity::Missing));
    let missing: Vec<_> = loaded.diagnostics.found().iter().flat_map(|found| &found.missing).collect();
    let data = root.join("data");
    for subject in ["subj01", "subj02", "subj05", "subj07"] {
        let volumes = data.join("nsd/nsddata/ppdata").join(subject).join("func1pt8mm");
        for file in [
            data.join("encoders").join(subject).join("config.json"),
            data.join("encoders").join(subject).join("head.safetensors"),
            volumes.join("roi/floc-faces.nii.gz"),
            volumes.join("floc_facestval.nii.gz"),
        ] {
            assert_eq!(missing.iter().filter(|path| ***path == file).count(), 1, "{}", file.display());
        }
    }
    // Three models of the hub besides.
    assert_eq!(missing.len(), 4 * 4 + 3);
}

#[test]
fn all_missing_and_damaged_files_of_all_folders_are_told_together() {
    let copy = Copy::new();
    fs::remove_file(copy.path("sd/tokenizer/merges.txt")).unwrap();
    fs::remove_file(copy.path("sd/vae/diffusion_pytorch_model.safetensors")).unwrap();
    fs::remove_file(copy.path("encoder/config.json")).unwrap();
    let weights = fs::read(copy.path("sd/unet/diffusion_pytorch_model.safetensors")).unwrap();
    copy.replace("sd/unet/diffusion_pytorch_model.safetensors", &weights[..weights.len() - 1]);
    copy.replace("coca/open_clip_model.safetensors", "version https://git-lfs.github.com/spec/v1\n");
    copy.replace("clip/open_clip_config.json", "{");
    let loaded = copy.read(&miniature(FACE));
    let root = copy.path("");
    let root = root.to_str().unwrap().trim_end_matches('/');
    let expected = format!(
        "\
x.yaml:4:14: `diffusion`: files are missing
 4 |   diffusion: ../miniature/bundle/sd
   |              ^^^^^^^^^^^^^^^^^^^^^^
   = {root}/sd/tokenizer/merges.txt
   = {root}/sd/vae/diffusion_pytorch_model.safetensors

x.yaml:4:14: `diffusion`: unet/diffusion_pytorch_model.safetensors is truncated: it has {} bytes, its header promises {}
 4 |   diffusion: ../miniature/bundle/sd
   |              ^^^^^^^^^^^^^^^^^^^^^^
   = in {root}/sd

x.yaml:5:13: `backbone`: open_clip_config.json is not what it should be: EOF while parsing an object at line 1 column 1
 5 |   backbone: ../miniature/bundle/clip
   |             ^^^^^^^^^^^^^^^^^^^^^^^^
   = in {root}/clip

x.yaml:6:12: `encoder`: files are missing
 6 |   encoder: ../miniature/bundle/encoder
   |            ^^^^^^^^^^^^^^^^^^^^^^^^^^^
   = {root}/encoder/config.json

x.yaml:7:10: `probe`: open_clip_model.safetensors is a Git LFS pointer, not the file itself: run `git lfs pull`
 7 |   probe: ../miniature/bundle/coca
   |          ^^^^^^^^^^^^^^^^^^^^^^^^
   = in {root}/coca
",
        weights.len() - 1,
        weights.len()
    );
    assert_eq!(findings(&loaded), expected);
    assert!(loaded.draft.is_some() && loaded.plan.is_none());
}

#[test]
fn a_head_of_another_width_names_both_numbers() {
    let copy = Copy::new();
    copy.replace("encoder/head.safetensors", head(400, 512, None));
    copy.replace("encoder/config.json", r#"{"rois": {"face": [0]}}"#);
    let loaded = copy.read(&miniature(FACE));
    let expected = "the head of subject s reads 512 features, the backbone gives 64";
    assert_eq!(loaded.diagnostics.found()[0].message, expected, "{}", findings(&loaded));
    assert_eq!(loaded.diagnostics.found().len(), 1);
    assert!(loaded.diagnostics.has_mistakes());
}

#[test]
fn empty_regions_and_rows_beyond_the_head_are_told() {
    let copy = Copy::new();
    copy.replace("encoder/head.safetensors", head(4, 64, None));
    copy.replace("encoder/config.json", r#"{"rois": {"none": [], "far": [1, 4]}}"#);
    let sections = "grid: { subject: s, region: [none, far, rows, other], seed: 1 }
sampling: { size: 32 }
regions:
  rows: { voxels: [0, 99] }
  other: { roi: fra }
";
    let loaded = copy.read(&miniature(sections));
    let found: Vec<_> = loaded
        .diagnostics
        .found()
        .iter()
        .map(|found| (found.place.line, found.place.column, found.message.as_str()))
        .collect();
    assert_eq!(
        found,
        [
            (8, 30, "region `none` has no voxels in subject s"),
            (8, 36, "region `far` asks for voxel 4 of subject s"),
            (11, 19, "region `rows` asks for voxel 99 of subject s"),
            (12, 17, "the encoder of subject s has no ROI `fra`"),
        ]
    );
    assert_eq!(loaded.diagnostics.found()[3].notes[0], "did you mean `far`?");
}

#[test]
fn paper_takes_the_mean_over_the_whole_mask_where_it_is_known() {
    let copy = Copy::new();
    copy.replace("encoder/head.safetensors", head(4, 64, None));
    let config = r#"{"rois": {"a": [0, 1], "b": [2]}, "clusters": {"c": [3, 1]}, "mask_voxels": {"a": 5}}"#;
    copy.replace("encoder/config.json", config);
    let sections = "grid: { subject: s, region: [mix], seed: 1, preset: [paper, default] }
sampling: { size: 32 }
regions: { mix: { terms: [{ roi: a }, { roi: b, weight: -1 }, { cluster: c, weight: 0.5 }], prefers: face } }
";
    let loaded = copy.read(&miniature(sections));
    for (index, denominators) in [[5, 1, 2], [2, 1, 2]].into_iter().enumerate() {
        let condition = sample(&loaded, index);
        let terms = condition.objective.terms.iter().map(|term| match &term.voxels {
            VoxelSet::Rows { rows, denominator } => (term.weight, rows.clone(), *denominator),
            _ => panic!("{term:?}"),
        });
        let [a, b, c] = denominators;
        let expected = [(1.0, vec![0, 1], a), (-1.0, vec![2], b), (0.5, vec![1, 3], c)];
        assert_eq!(terms.collect::<Vec<_>>(), expected);
    }
    copy.replace("encoder/config.json", r#"{"rois": {"face": [0, 1]}, "mask_voxels": {"face": 1}}"#);
    let loaded = copy.read(&miniature(FACE));
    assert_eq!(loaded.diagnostics.found()[0].message, "`mask_voxels` of `face` is 1, less than its 2 rows");
}

/// A file of the checkpoints' own tests, which PyTorch wrote.
fn of_pytorch(name: &str) -> Vec<u8> {
    fs::read(repository().join("checkpoint/tests/fixtures").join(name)).unwrap()
}

#[test]
fn weights_in_half_precision_or_in_shards_are_found_and_hashed() {
    let copy = Copy::new();
    let (unet, coca) = ("sd/unet/diffusion_pytorch_model", "coca/open_clip_model");
    let rename = |from: &str, to: &str| fs::rename(copy.path(from), copy.path(to)).unwrap();
    rename(&format!("{unet}.safetensors"), &format!("{unet}.fp16.safetensors"));
    rename(&format!("{coca}.safetensors"), &format!("{coca}-00001-of-00001.safetensors"));
    let index = format!("{coca}.safetensors.index.json");
    copy.replace(&index, r#"{"weight_map": {"visual.proj": "open_clip_model-00001-of-00001.safetensors"}}"#);
    let condition = sample(&copy.read(&miniature(FACE)), 0);
    let names =
        |folder: &protocol::job::ModelFolder| folder.files.iter().map(|file| file.name.clone()).collect::<Vec<_>>();
    assert!(names(&condition.models.diffusion).contains(&"unet/diffusion_pytorch_model.fp16.safetensors".to_owned()));
    assert_eq!(
        names(&condition.models.probe),
        [
            "open_clip_config.json",
            "open_clip_model-00001-of-00001.safetensors",
            "open_clip_model.safetensors.index.json",
        ]
    );

    copy.replace(&index, r#"{"weight_map": {"visual.proj": "open_clip_model-00002-of-00002.safetensors"}}"#);
    let loaded = copy.read(&miniature(FACE));
    let told = &loaded.diagnostics.found()[0].message;
    assert!(told.starts_with("`probe`: open_clip_model-00002-of-00002.safetensors cannot be read"), "{told}");
}

#[test]
fn a_backbone_of_timm_or_transformers_is_known_by_its_configuration() {
    let copy = Copy::new();
    copy.replace("encoder/head.safetensors", head(4, 6, None));
    copy.replace("encoder/config.json", r#"{"rois": {"face": [0]}}"#);
    for name in ["open_clip_config.json", "open_clip_model.safetensors"] {
        fs::remove_file(copy.path("clip").join(name)).unwrap();
    }
    let published = repository().join("braindive/tests/fixtures");
    for (library, files) in [
        ("timm", &["config.json", "pytorch_model.bin"][..]),
        (
            "transformers",
            &[
                "config.json",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "model.safetensors.index.json",
            ],
        ),
    ] {
        for file in files {
            copy.replace(&format!("clip/{file}"), fs::read(published.join(library).join(file)).unwrap());
        }
        let condition = sample(&copy.read(&miniature(FACE)), 0);
        let names: Vec<_> = condition.models.backbone.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, files, "{library}");
    }
    copy.replace("clip/config.json", r#"{"model_type": "siglip"}"#);
    let told = findings(&copy.read(&miniature(FACE)));
    assert!(told.contains("`backbone`: config.json describes no image tower that can be read"), "{told}");
}

#[test]
fn weights_of_another_network_or_width_are_told() {
    let copy = Copy::new();
    let vae = fs::read(copy.path("sd/vae/diffusion_pytorch_model.safetensors")).unwrap();
    copy.replace("sd/unet/diffusion_pytorch_model.safetensors", vae);
    let config = fs::read_to_string(copy.path("clip/open_clip_config.json")).unwrap();
    copy.replace("clip/open_clip_config.json", config.replace("\"embed_dim\": 64", "\"embed_dim\": 65"));
    copy.replace("coca/open_clip_model.safetensors", of_pytorch("whole_module.pt"));
    let told = findings(&copy.read(&miniature(FACE)));
    for part in [
        "unet/diffusion_pytorch_model.safetensors has no tensor `time_embedding.linear_1.weight`: it is of another network",
        "open_clip_config.json says embed_dim 65, `visual.proj` in open_clip_model.safetensors makes 64",
        "`probe`: open_clip_model.safetensors is an archive of PyTorch, but it names `torch.nn.modules.linear.Linear`",
    ] {
        assert!(told.contains(part), "{part}\n{told}");
    }
}

#[test]
fn a_head_of_the_trainer_needs_its_subject_if_there_are_several() {
    let copy = Copy::new();
    fs::remove_file(copy.path("encoder/head.safetensors")).unwrap();
    fs::remove_file(copy.path("encoder/config.json")).unwrap();
    copy.replace("encoder/00100.chkpt", of_pytorch("three_subjects.chkpt"));
    let experiment = miniature(&format!("{}regions: {{ face: {{ voxels: [0, 3] }} }}\n", FACE));
    let told = findings(&copy.read(&experiment));
    assert!(told.contains("`encoder`: 00100.chkpt holds the heads of subjects 1, 2, 5; say which"), "{told}");
    copy.replace("encoder/config.json", r#"{"subject": 2}"#);
    let told = findings(&copy.read(&experiment));
    assert!(told.contains("reads 4 features, the backbone gives 64"), "{told}");
    copy.replace("encoder/00099.chkpt", of_pytorch("00100.chkpt"));
    let told = findings(&copy.read(&experiment));
    assert!(told.contains("holds several heads, 00099.chkpt, 00100.chkpt; keep one"), "{told}");
}

/// A NIfTI-1 file of float32 values, first axis fastest.
fn nifti(shape: [u16; 3], values: &[f32]) -> Vec<u8> {
    let mut header = vec![0_u8; 352];
    header[0..4].copy_from_slice(&348_i32.to_le_bytes());
    for (index, length) in [3, shape[0], shape[1], shape[2], 1, 1, 1, 1].into_iter().enumerate() {
        header[40 + 2 * index..42 + 2 * index].copy_from_slice(&length.to_le_bytes());
    }
    header[70..72].copy_from_slice(&16_i16.to_le_bytes());
    header[72..74].copy_from_slice(&32_i16.to_le_bytes());
    header[108..112].copy_from_slice(&352_f32.to_le_bytes());
    header[112..116].copy_from_slice(&1_f32.to_le_bytes());
    header[344..348].copy_from_slice(b"n+1\0");
    header.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    header
}

#[test]
fn a_volume_region_needs_its_files_and_voxels_that_the_head_predicts() {
    let copy = Copy::new();
    copy.replace("encoder/head.safetensors", head(2, 64, Some(&[[1, 0, 0], [0, 2, 0]])));
    copy.replace("encoder/config.json", "{}");
    let experiment = |region: &str| {
        miniature(&format!(
            "  volumes: ../miniature/bundle/volumes/{{subject}}
grid: {{ subject: s, region: [R], seed: 1 }}
sampling: {{ size: 32 }}
regions: {{ R: {{ mask: \"../miniature/bundle/volumes/{{subject}}/mask.nii\", {region} }} }}
"
        ))
    };
    let loaded = copy.read(&experiment("t_map: t.nii, t_above: 2"));
    let missing: Vec<_> = loaded.diagnostics.found().iter().flat_map(|found| &found.missing).collect();
    assert_eq!(missing.len(), 2, "{}", findings(&loaded));
    assert!(missing[0].ends_with("volumes/s/mask.nii") && missing[1].ends_with("experiments/t.nii"));

    // Label 2 at (1, 0, 0), which the head predicts, label 3 at (0, 1, 0), which it does not.
    let mask = nifti([2, 3, 1], &[0.0, 2.0, 3.0, -1.0, 0.0, 0.0]);
    copy.replace("volumes/s/mask.nii", &mask);
    let condition = sample(&copy.read(&experiment("labels: [3, 2]")), 0);
    let VoxelSet::Volume(volume) = &condition.objective.terms[0].voxels else { panic!("{condition:?}") };
    assert_eq!((volume.mask_sha256.as_str(), volume.labels.as_slice()), (sha256(&mask).as_str(), &[2, 3][..]));
    assert!(volume.mask.ends_with("volumes/s/mask.nii") && !volume.whole_mask_mean);

    let predicted = findings(&copy.read(&experiment("labels: [3]")));
    assert!(predicted.contains("region `R` has no voxels in subject s"), "{predicted}");
    assert!(predicted.contains("that fit: 1; the head"), "{predicted}");
    let empty = findings(&copy.read(&experiment("labels: [7]")));
    assert!(empty.contains("no voxel of"), "{empty}");

    let map = nifti([2, 3, 1], &[9.0, 1.9, 9.0, 9.0, 9.0, 9.0]);
    fs::write(copy.root.path().join("experiments/t.nii"), map).unwrap();
    assert!(copy.read(&experiment("labels: [2], t_map: t.nii, t_above: 1.5")).plan.is_some());
    assert!(copy.read(&experiment("labels: [2], t_map: t.nii, t_above: 2")).plan.is_none());

    fs::write(copy.root.path().join("experiments/t.nii"), nifti([3, 2, 1], &[9.0; 6])).unwrap();
    let space = findings(&copy.read(&experiment("labels: [2], t_map: t.nii, t_above: 2")));
    assert!(space.contains("both must be of the same space"), "{space}");
    fs::write(copy.root.path().join("experiments/t.nii"), b"no NIfTI").unwrap();
    let damaged = findings(&copy.read(&experiment("labels: [2], t_map: t.nii, t_above: 2")));
    assert!(damaged.contains("reading the volume"), "{damaged}");
}

fn png(path: &std::path::Path, size: [u32; 2], shade: u8) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    image::RgbImage::from_pixel(size[0], size[1], image::Rgb([shade; 3])).save(path).unwrap();
}

#[test]
fn an_image_to_start_from_counts_by_its_content_not_by_its_path() {
    let copy = Copy::new();
    let sections = |image: &str| {
        format!(
            "grid: {{ subject: s, region: face, seed: 1 }}\nsampling: {{ size: [32, 36], init_image: {image}, strength: 0.5 }}\n"
        )
    };
    for (name, shade) in [("a.png", 1), ("b/same.png", 1), ("other.png", 2)] {
        png(&copy.path(name), [32, 36], shade);
    }
    let read = |name| copy.read(&miniature(&sections(&format!("../miniature/bundle/{name}"))));
    let (a, same, other) = (read("a.png"), read("b/same.png"), read("other.png"));
    let key = |loaded: &Loaded| {
        loaded.plan.as_ref().unwrap_or_else(|| panic!("{}", findings(loaded))).conditions[0].key.clone()
    };
    assert_eq!(key(&a), key(&same));
    assert_ne!(key(&a), key(&other));
    let condition = sample(&a, 0);
    let start = condition.sampling.start.unwrap();
    assert_eq!((start.image.as_str(), start.strength), (sha256(&fs::read(copy.path("a.png")).unwrap()).as_str(), 0.5));
    assert_eq!(condition.init_image.unwrap(), copy.path("a.png"));
}

#[test]
fn an_image_to_start_from_that_is_missing_damaged_or_of_another_size_is_told() {
    let copy = Copy::new();
    png(&copy.path("square.png"), [32, 32], 1);
    let cut = &fs::read(copy.path("square.png")).unwrap()[..40];
    fs::write(copy.path("cut.png"), cut).unwrap();
    let read = |name: &str, sampling: &str| {
        let image = format!("init_image: ../miniature/bundle/{name}, strength: [0.5, 1]");
        copy.read(&miniature(&format!("grid: {{ subject: s, region: face, seed: 1, {image}, {sampling} }}\n")))
    };
    for (name, sampling, expected, severity) in [
        ("none.png", "size: 32", "images to start from are missing", Severity::Missing),
        ("cut.png", "size: 32", "cut.png: ", Severity::Missing),
        (
            "square.png",
            "size: [32, [32, 36]]",
            "the image to start from has 32 × 32 pixels, the samples 32 × 36",
            Severity::Mistake,
        ),
        ("square.png", "size: 32, steps: [1, 4]", "of 1 steps, a `strength` of 0.5 leaves none", Severity::Mistake),
    ] {
        let loaded = read(name, sampling);
        let found = loaded.diagnostics.found();
        assert_eq!(found.len(), 1, "{}", findings(&loaded));
        assert!(found[0].message.contains(expected), "{}", findings(&loaded));
        assert_eq!(found[0].severity, severity);
    }
    let sound = read("square.png", "size: 32");
    assert_eq!(sound.plan.as_ref().unwrap().conditions.len(), 2);
    let seconds = |loaded: &Loaded| Summary::of(loaded.draft.as_ref().unwrap(), None).assumed_seconds_per_image;
    assert_eq!(seconds(&sound), 0.75 * seconds(&super::read(&miniature(FACE))), "half and all of the steps are run");

    let vae = "sd/vae/diffusion_pytorch_model.safetensors";
    copy.replace(vae, super::safetensors(&[("post_quant_conv.weight", "F32", &[1], vec![0; 4])]));
    let no_encoder = findings(&read("square.png", "size: 32"));
    assert!(no_encoder.contains("cannot start from an image: its VAE has no encoder"), "{no_encoder}");
}

#[test]
fn a_head_shared_by_two_subjects_is_refused() {
    let loaded = read(&miniature("grid: { subject: [a, b], region: face, seed: 1 }\nsampling: { size: 32 }\n"));
    assert_eq!(loaded.diagnostics.found()[0].message, "`encoder` is the same for every subject");
}

#[test]
fn a_volume_whose_header_contradicts_itself_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("mask.nii");
    let mut file = nifti([2, 2, 2], &[1.0; 8]);
    // bitpix: the data type is f32.
    file[72..74].copy_from_slice(&8_i16.to_le_bytes());
    fs::write(&path, file).unwrap();
    let error = volume::Voxels::read(&path).unwrap_err().to_string();
    assert_eq!(error, "the header says 8 bits per voxel, its data type has 32: the file is damaged");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Other bytes anywhere in a volume: told or harmless, never a panic.
    #[test]
    fn damaged_volumes_never_panic(at in 0_usize..500, bytes in prop::collection::vec(any::<u8>(), 1..12)) {
        let scratch = tempfile::tempdir().unwrap();
        let damaged = |name: &str, mut file: Vec<u8>| {
            let at = at.min(file.len() - 1);
            let end = (at + bytes.len()).min(file.len());
            file[at..end].copy_from_slice(&bytes[..end - at]);
            let path = scratch.path().join(name);
            fs::write(&path, file).unwrap();
            path
        };
        let volume = damaged("mask.nii", nifti([2, 2, 2], &[1.0; 8]));
        if let Ok(voxels) = volume::Voxels::read(&volume) {
            prop_assert_eq!(voxels.values.len(), voxels.shape.iter().product::<usize>());
        }
    }
}
