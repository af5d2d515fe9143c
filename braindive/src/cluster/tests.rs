//! Fits against a NumPy implementation (`tests/reference/README.md`), planted clusters, and what can't be clustered.

use super::*;
use candle_core::safetensors::MmapedSafetensors;
use candle_core::{DType, Device, Tensor};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;

struct Golden(MmapedSafetensors);

impl Golden {
    fn open() -> Self {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/reference/vmf/vmf.safetensors");
        // SAFETY: nobody changes the file.
        Self(unsafe { MmapedSafetensors::new(path).unwrap() })
    }

    fn tensor(&self, name: &str) -> Tensor {
        self.0.load(name, &Device::Cpu).unwrap()
    }

    fn numbers(&self, name: &str) -> Vec<f64> {
        self.tensor(name).to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    fn indices(&self, name: &str) -> Vec<usize> {
        self.numbers(name).into_iter().map(|number| number as usize).collect()
    }

    fn rows(&self, set: &str) -> UnitRows {
        let values = self.tensor(&format!("{set}.W"));
        UnitRows::new(values.dims()[1], values.flatten_all().unwrap().to_vec1().unwrap()).unwrap()
    }
}

fn settings(k: &[usize]) -> Settings {
    Settings { k: k.to_vec(), ..Settings::default() }
}

fn found(rows: &UnitRows, settings: &Settings) -> Result<Clustering, ClusterError> {
    cluster(rows, settings, &mut |_, _| ControlFlow::Continue(()))
}

/// Rows that are `labels`' centres with something of their own; the i-th row is the same whatever rows there are beside it.
fn planted(width: usize, labels: &[usize], spread: f32) -> UnitRows {
    let noise = |row: usize, at: usize| ((row * 7919 + at * 104_729 + row * at * 31) % 1009) as f32 / 504.0 - 1.0;
    let value = |row: usize, at: usize| f32::from(u8::from(at % 4 == labels[row])) + spread * noise(row + 17, at + 3);
    let values = (0..labels.len()).flat_map(|row| (0..width).map(move |at| value(row, at))).collect();
    UnitRows::new(width, values).unwrap()
}

#[track_caller]
fn assert_near(found: &[f64], expected: &[f64], relative: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= relative * expected.abs().max(1.0), "{what}: {found}, expected {expected}");
    }
}

#[test]
fn fits_from_given_starts_are_those_of_the_reference() {
    let golden = Golden::open();
    for set in ["easy_d32", "overlap_d16", "uneven_d64", "weights_d512"] {
        let rows = golden.rows(set);
        let start = Mixture::around(&rows, &golden.indices(&format!("{set}.init_index")));
        for (assign, mode) in [(Assign::Soft, "soft"), (Assign::Hard, "hard")] {
            let name = |what: &str| format!("{set}.{mode}.{what}");
            let fitted = start.clone().fit(&rows, &Settings { assign, ..Settings::default() }).unwrap();
            assert_eq!(fitted.labels, golden.indices(&name("labels")), "{set} {mode}");
            assert_near(&fitted.mixture.kappa, &golden.numbers(&name("kappa")), 1e-9, &name("kappa"));
            assert_near(&fitted.mixture.alpha, &golden.numbers(&name("alpha")), 1e-10, &name("alpha"));
            assert_near(&fitted.mixture.centres, &golden.numbers(&name("mu")), 1e-11, &name("mu"));
            let history = golden.numbers(&name("loglik"));
            assert_eq!(fitted.iterations, history.len(), "{set} {mode}");
            assert_near(&[fitted.log_likelihood], &history[history.len() - 1..], 1e-9, &name("loglik"));
        }
    }
}

#[test]
fn random_starts_find_the_references_clusters_the_larger_first() {
    let golden = Golden::open();
    for set in ["easy_d32", "uneven_d64", "weights_d512"] {
        let rows = golden.rows(set);
        let planted = golden.indices(&format!("{set}.planted"));
        let larger = usize::from(2 * planted.iter().sum::<usize>() > planted.len());
        let expected: Vec<usize> = planted.iter().map(|&label| usize::from(label != larger)).collect();
        for seed in 0..3 {
            let Clustering { fitted, .. } = found(&rows, &Settings { seed, ..settings(&[2]) }).unwrap();
            assert_eq!(fitted.labels, expected, "{set}, seed {seed}");
            assert!(fitted.mixture.alpha.is_sorted_by(|a, b| a >= b));
        }
    }
}

#[test]
fn held_out_likelihood_chooses_the_planted_number() {
    let labels: Vec<usize> = (0..240).map(|row| [0, 1, 2, 0, 1, 0][row % 6]).collect();
    let rows = planted(24, &labels, 0.5);
    let clustering = found(&rows, &settings(&[1, 2, 3, 4, 5])).unwrap();
    assert_eq!(clustering.fitted.mixture.k(), 3, "{:?}", clustering.held_out);
    assert_eq!(clustering.fitted.labels, labels);
    assert_eq!(clustering.held_out.keys().copied().collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let labels: Vec<usize> = (0..1500).map(|row| row % 3).collect();
    let rows = planted(40, &labels, 1.5);
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| found(&rows, &Settings { starts: 2, ..settings(&[2, 3]) }).unwrap())
    };
    assert_eq!(on(1), on(3));
}

#[test]
fn what_cannot_be_clustered_is_told() {
    let rows = |values: Vec<f32>| UnitRows::new(8, values).unwrap();
    let one = [1.0, 2.0, 0.5, -1.0, 3.0, 0.0, 0.25, 1.0];
    assert_eq!(found(&rows(one.to_vec()), &settings(&[2])), Err(ClusterError::TooFewRows { rows: 1, k: 2 }));
    let scaled: Vec<f32> = [1.0, 2.0, 0.1].iter().flat_map(|scale| one.map(|value| value * scale)).collect();
    assert_eq!(found(&rows(scaled), &settings(&[2])), Err(ClusterError::Identical { rows: 3 }));
    // Two directions can't be three clusters.
    let two: Vec<f32> = (0..6).flat_map(|row| one.map(|value| if row % 2 == 0 { value } else { 1.0 })).collect();
    assert_eq!(found(&rows(two), &settings(&[3])), Err(ClusterError::Empty { k: 3, starts: 10 }));
    assert!(matches!(UnitRows::new(2, vec![1.0, 0.0, 0.0, 0.0]), Err(ClusterError::NoDirection { row: 1, .. })));
    assert!(matches!(UnitRows::new(2, vec![f32::NAN, 1.0]), Err(ClusterError::NoDirection { row: 0, .. })));
    let narrow = UnitRows::new(3, vec![1.0; 9]).unwrap();
    assert_eq!(found(&narrow, &settings(&[2])), Err(ClusterError::Narrow { found: 3, expected: 8 }));
    let stopped = cluster(&planted(8, &[0, 1, 0, 1], 0.3), &settings(&[2]), &mut |done, _| match done {
        3 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    assert_eq!(stopped, Err(ClusterError::Stopped));
}

#[test]
fn settings_take_one_number_or_several_and_refuse_the_rest() {
    let read = |text: &str| serde_json::from_str::<Settings>(text).map_err(|error| error.to_string());
    assert_eq!(read("{}").unwrap().k, [2]);
    assert_eq!(read(r#"{"k": 4, "assign": "hard"}"#).unwrap(), Settings { assign: Assign::Hard, ..settings(&[4]) });
    assert_eq!(read(r#"{"k": [2, 3, 5]}"#).unwrap().k, [2, 3, 5]);
    assert!(read(r#"{"k": "two"}"#).unwrap_err().contains("a number of clusters or a list"));
    assert!(read(r#"{"clusters": 2}"#).unwrap_err().contains("clusters"));
    for wrong in [settings(&[]), settings(&[0]), settings(&[3, 2]), Settings { starts: 0, ..settings(&[2]) }] {
        assert!(matches!(wrong.check(), Err(ClusterError::Setting { .. })), "{wrong:?}");
    }
}

/// A head of 60 voxels in a 5 × 4 × 3 volume: region `food` has two clusters of directions.
fn write_encoder(folder: &std::path::Path) -> (Vec<usize>, Vec<usize>) {
    use crate::volume::{Grid, write_map};
    use std::collections::HashMap;
    let food: Vec<usize> = (0..60).filter(|row| row % 3 != 0).collect();
    let labels: Vec<usize> = (0..60).map(|row| if row % 3 == 0 { 3 } else { usize::from(row % 7 < 3) }).collect();
    let rows = planted(16, &labels, 0.4);
    let weight: Vec<f32> = (0..60).flat_map(|row| rows.row(row)).map(|value| value as f32).collect();
    let places: Vec<i64> = (0..60).flat_map(|row| [row / 12, row / 3 % 4, row % 3]).collect();
    let tensors = HashMap::from([
        ("weight", Tensor::from_vec(weight, (60, 16), &Device::Cpu).unwrap()),
        ("bias", Tensor::zeros(60, DType::F32, &Device::Cpu).unwrap()),
        ("voxel_ijk", Tensor::from_vec(places, (60, 3), &Device::Cpu).unwrap()),
    ]);
    candle_core::safetensors::save(&tensors, folder.join("head.safetensors")).unwrap();
    let config = serde_json::json!({ "rois": { "food": food, "rest": [0, 3, 6] } });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let grid = Grid::new([5, 4, 3], [[2.0, 0.0, 0.0, -5.0], [0.0, 2.0, 0.0, 1.0], [0.0, 0.0, 2.0, 7.0]]).unwrap();
    write_map(&folder.join("voxels.nii.gz"), &grid, &[1.0; 60]).unwrap();
    (food, labels)
}

#[test]
fn an_encoders_region_becomes_a_folder_of_named_clusters() {
    let place = tempfile::tempdir().unwrap();
    let (food, labels) = write_encoder(place.path());
    let out = place.path().join("clusters");
    let region = Region::from("food".to_owned());
    let job = Job { encoder: place.path(), region: &region, out: &out, identity: "a" };
    let stored = run(&job, &settings(&[2]), &mut |_, _| ControlFlow::Continue(())).unwrap();

    let of = |label: usize| food.iter().copied().filter(|&row| labels[row] == label).collect::<Vec<_>>();
    let expected = [of(0), of(1)];
    assert!(expected[0].len() > expected[1].len());
    assert_eq!(
        stored.report.clusters,
        BTreeMap::from([
            ("food/cluster:1".to_owned(), expected[0].clone()),
            ("food/cluster:2".to_owned(), expected[1].clone())
        ])
    );
    let volume = crate::volume::Volume::read(&out.join(LABELS)).unwrap();
    // Rows are the volume's voxels in order.
    for (number, rows) in (1..).zip(&expected) {
        let labelled: Vec<usize> = (0..60).filter(|&voxel| volume.values[voxel] == f64::from(number)).collect();
        assert_eq!(labelled, *rows);
    }
    assert_eq!(volume.grid.affine()[2], [0.0, 0.0, 2.0, 7.0]);
    assert_eq!(std::fs::read_to_string(out.join(CTAB)).unwrap(), "1 food/cluster:1\n2 food/cluster:2\n");
    let inputs: Vec<_> = stored.manifest.inputs.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(inputs, ["head.safetensors", "config.json", "voxels.nii.gz"]);
    stored.manifest.verify(&out).unwrap();
    // A second try finds it.
    assert_eq!(run(&job, &settings(&[2]), &mut |_, _| ControlFlow::Break(())).unwrap(), stored);
}

#[test]
fn a_region_may_be_a_union_and_has_to_be_the_heads() {
    let place = tempfile::tempdir().unwrap();
    let (food, _) = write_encoder(place.path());
    let head = crate::encoder::Head::load(place.path(), DType::F32, &Device::Cpu).unwrap();
    let rows = |region: &str| Region::from(region.to_owned()).rows(&head);
    let both = rows("food + rest").unwrap();
    assert_eq!(both.len(), food.len() + 3);
    assert!(both.is_sorted());
    let message = rows("food+faces").unwrap_err().to_string();
    assert!(message.contains("`faces`") && message.contains("food, rest"), "{message}");
}
