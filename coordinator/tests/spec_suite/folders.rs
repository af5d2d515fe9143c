//! Experiments whose jobs make folders, and those that read what is not there yet.

use super::submit::execute;
use super::{findings, no_hub, repository};
use coordinator::cli::submit::{MISSING, OK, REFUSED};
use coordinator::plan::Plan;
use coordinator::spec::files::Digests;
use coordinator::spec::known::Known;
use coordinator::spec::{Loaded, Opened};
use protocol::ids::{Digest, Seed};
use protocol::job::{Condition, FitSettings, HeadMethod, Input, Kind, Origin, VoxelSet};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const PREPARED: &str = "name: prepared
kind: prepare
data: { nsd: nsd }
grid: { subject: [subj01, subj02] }
out: derived/prepared/{subject}
";

/// A folder with a dataset's root and the experiments of a whole campaign, of which nothing is made yet.
struct Place {
    root: TempDir,
    digests: RefCell<Digests>,
}

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("nsd")).unwrap();
        Self { root, digests: RefCell::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().canonicalize().unwrap().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    fn load(&self, text: &str, known: &Known) -> Loaded {
        let opened = Opened::read(Path::new("x.yaml"), text, &self.path(""));
        opened.plan(&no_hub(), known, &mut self.digests.borrow_mut())
    }

    fn plan(&self, text: &str, known: &Known) -> Plan {
        let loaded = self.load(text, known);
        loaded.plan.as_ref().cloned().unwrap_or_else(|| panic!("{}", findings(&loaded)))
    }

    /// Plans files one after the other, each with those before it known.
    fn plans(&self, texts: &[&str]) -> (Vec<Plan>, Known) {
        let mut known = Known::default();
        let plans = texts.iter().map(|text| {
            let plan = self.plan(text, &known);
            known.insert(plan.experiment.name.clone(), (&plan).into());
            plan
        });
        (plans.collect(), known)
    }
}

fn bundle(name: &str) -> String {
    repository().join("miniature/bundle").join(name).display().to_string()
}

fn encoders(sections: &str) -> String {
    format!(
        "name: encoders\nkind: fit\nneeds: prepared\ndata: derived/prepared/{{subject}}\nmodels: {{ backbone: {} }}\n\
         grid: {{ subject: [subj01, subj02] }}\nout: derived/encoders/{{subject}}\n{sections}",
        bundle("clip")
    )
}

const CLUSTERS: &str = "name: clusters
kind: cluster
needs: encoders
encoder: derived/encoders/{subject}
grid: { subject: [subj01, subj02], region: [food, faces] }
cluster: { k: [2, 3], assign: hard }
out: derived/clusters/{subject}/{region}
";

fn images(sections: &str) -> String {
    format!(
        "name: images\nkind: sample\nneeds: [encoders, clusters]\nmodels:\n  diffusion: {}\n  backbone: {}\n  probe: {}\n  \
         encoder: derived/encoders/{{subject}}\n  clusters: derived/clusters/{{subject}}\nsampling: {{ size: 32 }}\n{sections}",
        bundle("sd"),
        bundle("clip"),
        bundle("coca")
    )
}

const GRID: &str = "grid: { subject: [subj01, subj02], region: [FFA, \"food/cluster:1\"], seed: 1 }\n";

fn scores(sections: &str) -> String {
    format!(
        "name: scores\nkind: score\nimages: images\nmodels: {{ backbone: {}, encoder: {} }}\n{sections}",
        bundle("clip"),
        bundle("encoder")
    )
}

fn origin(plan: &Plan, condition: usize) -> Origin {
    Origin { condition: plan.conditions[condition].key.clone(), seed: Seed(0) }
}

fn made(input: &Input) -> (&Path, &Origin) {
    let Input::Made(folder) = input else { panic!("{input:?}") };
    (&folder.path, &folder.made_by)
}

#[test]
fn a_whole_chain_is_planned_before_anything_of_it_is_made() {
    let place = Place::new();
    let (plans, _) = place.plans(&[PREPARED, &encoders(""), CLUSTERS, &images(GRID)]);
    let [prepared, encoders, clusters, images] = &plans[..] else { panic!("four plans") };
    assert_eq!((prepared.experiment.kind, prepared.jobs(), clusters.jobs()), (Kind::Prepare, 2, 4));
    let Condition::Prepare(prepare) = &prepared.conditions[1].spec else { panic!("{prepared:?}") };
    assert_eq!((prepare.subject.as_str(), prepared.conditions[1].region.as_str()), ("subj02", ""));
    assert_eq!(prepare.settings.root, place.path("nsd"));
    assert_eq!(prepared.conditions[1].spec.out(Seed(0)), Some(place.path("derived/prepared/subj02")));

    let Condition::Fit(fit) = &encoders.conditions[1].spec else { panic!("{encoders:?}") };
    assert_eq!(made(&fit.data), (place.path("derived/prepared/subj02").as_path(), &origin(prepared, 1)));
    assert_eq!(fit.settings, FitSettings::default());
    assert!(!fit.backbone.files.is_empty());

    let Condition::Cluster(cluster) = &clusters.conditions[3].spec else { panic!("{clusters:?}") };
    assert_eq!(
        (cluster.subject.as_str(), cluster.region.as_str(), &cluster.settings.k[..]),
        ("subj02", "faces", &[2, 3][..])
    );
    assert_eq!(made(&cluster.encoder).1, &origin(encoders, 1));

    let Condition::Sample(sample) = &images.conditions[2].spec else { panic!("{images:?}") };
    assert_eq!(made(&sample.models.encoder).1, &origin(encoders, 1));
    let roi = VoxelSet::Roi { name: "FFA".to_owned(), whole_mask_mean: false };
    assert_eq!(sample.objective.terms[0].voxels, roi, "the worker knows the rows");
    let Condition::Sample(sample) = &images.conditions[3].spec else { panic!("{images:?}") };
    let VoxelSet::Cluster { clusters: read, number } = &sample.objective.terms[0].voxels else { panic!("{sample:?}") };
    assert_eq!(
        (made(read), *number),
        ((place.path("derived/clusters/subj02/food").as_path(), &origin(clusters, 2)), 1)
    );
    let reads: BTreeSet<&Digest> = images.conditions[3].spec.reads().into_iter().collect();
    assert_eq!(reads, BTreeSet::from([&encoders.conditions[1].key, &clusters.conditions[2].key]));
}

#[test]
fn the_published_chain_is_planned_before_anything_of_it_is_made() {
    let copy = super::Copy::new();
    let root = copy.root.path().canonicalize().unwrap();
    fs::create_dir_all(root.join("derived/nsd/food")).unwrap();
    fs::write(root.join("derived/nsd/food/food_s1.nii.gz"), "a mask").unwrap();
    let mut known = Known::default();
    for (file, kind) in [("prepare", Kind::Prepare), ("encoders", Kind::Fit), ("clusters", Kind::Cluster)] {
        let text = fs::read_to_string(repository().join(format!("experiments/{file}.yaml"))).unwrap();
        let opened = Opened::read(Path::new("x.yaml"), &text, &root.join("experiments"));
        let loaded = opened.plan(&no_hub(), &known, &mut Digests::default());
        let plan = loaded.plan.as_ref().unwrap_or_else(|| panic!("{}", findings(&loaded)));
        assert_eq!((plan.experiment.kind, plan.jobs()), (kind, 1));
        known.insert(plan.experiment.name.clone(), plan.into());
    }
}

#[test]
fn a_key_follows_what_decides_the_content_down_the_chain_and_no_path() {
    let place = Place::new();
    let last = |prepared: &str, encoders: &str| {
        let (plans, _) = place.plans(&[prepared, encoders, CLUSTERS]);
        plans[2].conditions[0].key.clone()
    };
    let moved = |text: &str| text.replace("derived/prepared", "elsewhere");
    let key = last(PREPARED, &encoders(""));
    assert_eq!(key, last(&moved(PREPARED), &moved(&encoders(""))), "moved");
    assert_eq!(key, last(PREPARED, &encoders("fit: { epochs: 100, head: adamw }\n")), "a default is written out");
    fs::create_dir_all(place.path("derived/prepared/subj01")).unwrap();
    assert_eq!(key, last(PREPARED, &encoders("")), "whether it is there already");
    let food = |text: &str| {
        place.write("food.nii", text);
        *place.digests.borrow_mut() = Digests::default();
        last(&format!("{PREPARED}prepare: {{ food: food.nii }}\n"), &encoders(""))
    };
    let others = [
        last(&format!("{PREPARED}prepare: {{ t_above: 3 }}\n"), &encoders("")),
        last(&PREPARED.replace("grid: {", "grid: { seed: 1,"), &encoders("")),
        last(PREPARED, &encoders("fit: { epochs: 99 }\n")),
        food("one"),
        food("two"),
    ];
    let keys: BTreeSet<_> = others.iter().chain([&key]).collect();
    assert_eq!(keys.len(), 6);
}

#[test]
fn several_seeds_make_several_folders_and_each_has_its_own_origin() {
    let place = Place::new();
    let seeds = encoders("").replace("subj02] }", "subj02], seed: [0, 5] }");
    let loaded = place.load(&seeds, &place.plans(&[PREPARED]).1);
    assert!(findings(&loaded).contains("two jobs would write to"), "{}", findings(&loaded));
    assert!(findings(&loaded).contains("tell them apart by {subject} and {seed}"), "{}", findings(&loaded));
    let seeds = seeds.replace("encoders/{subject}", "encoders/{subject}-{seed}");
    let clusters = CLUSTERS.replace("encoders/{subject}", "encoders/{subject}-5");
    let (plans, _) = place.plans(&[PREPARED, &seeds, &clusters]);
    let Condition::Cluster(cluster) = &plans[2].conditions[0].spec else { panic!("{plans:?}") };
    let expected = Origin { condition: plans[1].conditions[0].key.clone(), seed: Seed(5) };
    assert_eq!(made(&cluster.encoder), (place.path("derived/encoders/subj01-5").as_path(), &expected));
}

/// What a job of that kind leaves.
fn finish(place: &Place, folder: &str, kind: &str, subject: &str) -> String {
    place.write(&format!("{folder}/betas"), "abc");
    let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let files = serde_json::json!([{ "name": "betas", "bytes": 3, "sha256": sha256 }]);
    let manifest = serde_json::json!({ "identity": "by hand", "kind": kind, "subject": subject, "files": files });
    place.write(&format!("{folder}/manifest.json"), &manifest.to_string());
    sha256.to_owned()
}

#[test]
fn a_folder_that_no_needed_experiment_makes_is_known_by_its_manifest() {
    let place = Place::new();
    let by_hand = encoders("").replace("needs: prepared\n", "").replace("[subj01, subj02]", "subj01");
    let nothing = Known::default();
    let loaded = place.load(&by_hand, &nothing);
    assert!(findings(&loaded).contains("`data`: files are missing"), "{}", findings(&loaded));
    assert!(findings(&loaded).contains("derived/prepared/subj01/manifest.json"), "{}", findings(&loaded));
    let sha256 = finish(&place, "derived/prepared/subj01", "prepare", "subj01");
    let plan = place.plan(&by_hand, &nothing);
    let Condition::Fit(fit) = &plan.conditions[0].spec else { panic!("{plan:?}") };
    let Input::Content(folder) = &fit.data else { panic!("{:?}", fit.data) };
    assert_eq!((folder.files[0].name.as_str(), folder.files[0].sha256.as_str()), ("betas", sha256.as_str()));
    assert!(plan.conditions[0].spec.reads().is_empty());

    for (kind, subject, message) in
        [("fit", "subj01", "another kind: fit"), ("prepare", "subj07", "another subject: subj07")]
    {
        finish(&place, "derived/prepared/subj01", kind, subject);
        let loaded = place.load(&by_hand, &nothing);
        assert!(findings(&loaded).contains(message), "{}", findings(&loaded));
    }
    finish(&place, "derived/prepared/subj01", "prepare", "subj01");
    fs::remove_file(place.path("derived/prepared/subj01/betas")).unwrap();
    let loaded = place.load(&by_hand, &nothing);
    assert_eq!(loaded.diagnostics.found()[0].missing, [place.path("derived/prepared/subj01/betas")]);
}

#[test]
fn what_was_planned_twice_for_one_folder_is_not_guessed() {
    let place = Place::new();
    let (mut before, mut known) = place.plans(&[PREPARED]);
    let changed = place.plan(&format!("{PREPARED}prepare: {{ t_above: 3 }}\n"), &known);
    before[0].conditions.extend(changed.conditions);
    known.insert("prepared".to_owned(), (&before[0]).into());
    let loaded = place.load(&encoders(""), &known);
    assert!(findings(&loaded).contains("several conditions of `prepared` make"), "{}", findings(&loaded));
    assert!(findings(&loaded).contains("name the file of `prepared` before this one"), "{}", findings(&loaded));
}

/// Each is the only mistake of its file.
#[test]
fn every_mistake_in_the_sections_is_told_at_its_place() {
    let place = Place::new();
    let (_, known) = place.plans(&[PREPARED, &encoders(""), CLUSTERS]);
    let prepare = |sections: &str| format!("{PREPARED}prepare: {{ {sections} }}\n");
    let fit = |sections: &str| encoders(&format!("fit: {{ {sections} }}\n"));
    let cases = [
        (PREPARED.replace("nsd: nsd", "bids: nsd"), "did you mean", 0),
        (PREPARED.replace("data: { nsd: nsd }", "data: nsd"), "expected a map for `data`", 1),
        (PREPARED.replace("{subject}\n", "x\n"), "two jobs would write to", 1),
        (PREPARED.replace("{subject}\n", "{subject}/{region}\n"), "a placeholder that means nothing here", 1),
        (PREPARED.replace("out: derived/prepared/{subject}\n", ""), "`out` is missing", 1),
        (
            PREPARED.replace("[subj01, subj02] }", "[subj01, subj02], region: FFA }"),
            "unknown key `region` in `grid`",
            1,
        ),
        (prepare("t_abov: 2"), "did you mean `t_above`?", 1),
        (prepare("split: shared97"), "did you mean `shared907`?", 1),
        (prepare("parcels: -1"), "`parcels` cannot be the number -1", 1),
        (prepare("ranked_by: [9]"), "`ranked_by` cannot be the number 9", 1),
        (encoders("out: x\n"), "`out` is given twice", 1),
        (fit("epoch: 3"), "did you mean `epochs`?", 1),
        (fit("head: ridg"), "did you mean `ridge`?", 1),
        (fit("learning_rate: 0"), "`learning_rate` cannot be the number 0", 1),
        (fit("lambdas: [1, -1]"), "`lambdas` cannot be the number -1", 1),
        (encoders("regions: {}\n"), "`regions` means nothing to jobs of kind fit", 1),
        (encoders("").replace("models: {", "models: { encoder: x,"), "unknown key `encoder` in `models`", 1),
        (CLUSTERS.replace("assign: hard", "assign: had"), "did you mean `hard`?", 1),
        (CLUSTERS.replace("k: [2, 3]", "k: [2, 2]"), "is listed twice in `k`", 1),
        (CLUSTERS.replace("/{region}", ""), "two jobs would write to", 2),
        (
            CLUSTERS.replace("needs: encoders", "needs: prepared").replace("encoders/", "prepared/"),
            "whose jobs are of kind prepare",
            2,
        ),
        (
            images("grid: { subject: subj01, region: \"food/cluster:0\", seed: 1 }\n"),
            "cannot be the name of a region",
            1,
        ),
        (
            images("grid: { subject: subj01, region: a, seed: 1 }\nregions: { a: { cluster: food_1 } }\n"),
            "is still to be made: it has no clusters yet",
            1,
        ),
        (images(GRID).replace("  clusters: derived/clusters/{subject}\n", ""), "needs `clusters` under `models`", 2),
        (scores("grid: { subject: subj01 }\n"), "scores are of the conditions and seeds of their images", 0),
        (scores("").replace("images: images", "images: prepared"), "makes no images: its jobs are of kind prepare", 1),
        (scores("").replace("images: images\n", ""), "`images` is missing", 1),
    ];
    for (text, expected, count) in cases {
        let loaded = place.load(&text, &known);
        let findings = findings(&loaded);
        let expected = if expected == "did you mean" { "unknown key `bids` in `data`" } else { expected };
        assert!(findings.contains(expected) && loaded.plan.is_none(), "{text}{findings}");
        assert!(count == 0 || loaded.diagnostics.found().len() == count, "{count} findings: {text}{findings}");
    }
}

#[test]
fn every_setting_reaches_the_job() {
    let place = Place::new();
    let (_, known) = place.plans(&[PREPARED]);
    let text = "fit: { head: ridge, features: cached, copies: 2, epochs: 3, batch: 8, learning_rate: 0.1, weight_decay: 0, \
                init_scale: 1, brightness: 0, shift: 1, noise: 0, lambdas: [1, 2.5], folds: 3 }\n";
    let plan = place.plan(&encoders(text), &known);
    let Condition::Fit(fit) = &plan.conditions[0].spec else { panic!("{plan:?}") };
    let expected = FitSettings {
        head: HeadMethod::Ridge,
        features: protocol::job::Features::Cached,
        copies: 2,
        epochs: 3,
        batch: 8,
        learning_rate: 0.1,
        weight_decay: 0.0,
        init_scale: 1.0,
        brightness: 0.0,
        shift: 1,
        noise: 0.0,
        lambdas: vec![1.0, 2.5],
        folds: 3,
    };
    assert_eq!(fit.settings, expected);
    let split = place.write("split.txt", "1\n2\n");
    let text =
        format!("{PREPARED}prepare: {{ split: split.txt, voxels: [floc-faces], exclude: [], parcel_ids: [3] }}\n");
    let plan = place.plan(&text, &Known::default());
    let Condition::Prepare(prepare) = &plan.conditions[0].spec else { panic!("{plan:?}") };
    assert_eq!(prepare.settings.split, split.display().to_string());
    assert_eq!((&prepare.settings.voxels[..], prepare.settings.exclude.len()), (&["floc-faces".to_owned()][..], 0));
    assert!(prepare.files.contains_key("split"));
}

#[tokio::test]
async fn a_chain_is_submitted_in_one_go_and_its_parts_alone_later() {
    let place = Place::new();
    let db = place.path("jobs.db");
    let files = [
        place.write("prepare.yaml", PREPARED),
        place.write("encoders.yaml", &encoders("")),
        place.write("clusters.yaml", CLUSTERS),
        place.write("images.yaml", &images(GRID)),
    ];
    let dry = execute(files.to_vec(), &db, true).await;
    assert_eq!((dry.exit_code, db.exists()), (OK, false), "{}", dry.findings(false));
    let report = execute(files.to_vec(), &db, false).await;
    assert_eq!(report.exit_code, OK, "{}", report.findings(false));
    let new: Vec<u64> = report.files.iter().map(|file| file.submitted.as_ref().unwrap().new_jobs).collect();
    assert_eq!(new, [2, 2, 4, 4]);
    for file in &files {
        let again = execute(vec![file.clone()], &db, false).await;
        assert_eq!(again.exit_code, OK, "{}", again.findings(false));
        assert_eq!(again.files[0].submitted.as_ref().unwrap().new_jobs, 0, "{}", file.display());
    }
    // What comes first cannot be planned: what follows is told so, and not that its folders are missing.
    let broken = place.write("prepare.yaml", &PREPARED.replace("nsd: nsd", "nsd: gone"));
    for (dry_run, code) in [(true, MISSING), (false, REFUSED)] {
        let report = execute(vec![broken.clone(), files[1].clone()], &db, dry_run).await;
        assert_eq!(report.exit_code, code);
        assert!(
            report.findings(false).contains("`prepared` cannot be planned as it stands in"),
            "{}",
            report.findings(false)
        );
    }
}

#[test]
fn scores_have_the_conditions_and_seeds_of_their_images_with_other_models() {
    let place = Place::new();
    let copy = super::Copy::new();
    let text = |encoder: &str| {
        super::miniature(
            "grid: { subject: sim01, region: [face, mix], gamma: [0, 14], seed: [3, 5] }\nsampling: { size: 32 }\n\
                          regions: { mix: [{ roi: face }, { roi: text, weight: -1 }] }\n",
        )
        .replace("name: mini", "name: images")
        .replace("../miniature/bundle/encoder", encoder)
        .replace("../miniature/bundle", &repository().join("miniature/bundle").display().to_string())
    };
    let (images, known) = place.plans(&[&text(&bundle("encoder"))]);
    let head = fs::read(repository().join("miniature/bundle/encoder/head.safetensors")).unwrap();
    let mut other = head.clone();
    *other.last_mut().unwrap() ^= 1;
    copy.replace("encoder/head.safetensors", other);
    let scores =
        |sections: &str| scores(sections).replace(&bundle("encoder"), &copy.path("encoder").display().to_string());
    let loaded = place.load(&scores(""), &known);
    assert!(findings(&loaded).contains("there is no region `mix` for subject sim01"), "{}", findings(&loaded));
    let regions = "regions: { mix: [{ roi: face }, { roi: text, weight: -1 }] }\n";
    let plan = place.plan(&scores(regions), &known);
    assert_eq!((plan.experiment.kind, &plan.experiment.needs[..]), (Kind::Score, &["images".to_owned()][..]));
    assert_eq!(plan.seeds, [Seed(3), Seed(5)]);
    for (score, image) in plan.conditions.iter().zip(&images[0].conditions) {
        let (Condition::Score(spec), Condition::Sample(sampled)) = (&score.spec, &image.spec) else {
            panic!("{score:?}")
        };
        assert_eq!((&spec.images, &score.axes, score.spec.reads()), (&image.key, &image.axes, vec![&image.key]));
        assert_eq!(spec.scored.models.probe, sampled.models.probe);
        assert_ne!(spec.scored.models.encoder, sampled.models.encoder);
        assert_eq!(spec.scored.objective, sampled.objective, "the miniature's own regions");
    }
    let keys: BTreeSet<_> =
        plan.conditions.iter().chain(&images[0].conditions).map(|condition| &condition.key).collect();
    assert_eq!(keys.len(), 8);
}
