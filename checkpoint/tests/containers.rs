//! Files that PyTorch and safetensors wrote, read back; and files that are no weights. `fixtures/make.py` made them.
#![allow(clippy::unwrap_used)]

use checkpoint::{Backbone, Checkpoint, Head, Layout, Names, Problem};
use proptest::prelude::*;
use std::fs;
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn open(name: &str) -> Checkpoint {
    Checkpoint::open(&fixture(name)).unwrap()
}

fn refusal(path: &Path) -> String {
    Checkpoint::open(path).unwrap_err().to_string()
}

fn assert_equal(found: &Checkpoint, expected: &Checkpoint) {
    let keys = |checkpoint: &Checkpoint| checkpoint.tensors().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(found), keys(expected));
    for (key, tensor) in expected.tensors() {
        let same = &found.tensors()[key];
        assert_eq!((same.dtype, &same.shape), (tensor.dtype, &tensor.shape), "{key}");
        assert_eq!(found.bytes(same), expected.bytes(tensor), "{key}");
    }
}

#[test]
fn an_archive_of_pytorch_reads_as_the_same_tensors_in_safetensors() {
    let expected = open("state.safetensors");
    for key in ["transposed", "sliced", "permuted", "half", "bfloat", "double", "long", "scalar", "empty", "column"] {
        assert!(expected.tensors().contains_key(key), "{key}");
    }
    assert_equal(&open("state.bin"), &expected);
    assert_equal(&open("module_state.pt"), &open("module_state.safetensors"));
}

#[test]
fn a_training_checkpoint_gives_the_state_dict_in_it_without_the_prefix_of_parallel_training() {
    assert_equal(&open("training.pt"), &open("module_state.safetensors"));
}

#[test]
fn integers_of_every_width_read_with_their_sign() {
    let state = open("state.bin");
    let integers = |key: &str| state.integers(&state.tensors()[key]);
    assert_eq!(integers("long"), Some(vec![1, -2, 3]));
    assert_eq!(integers("int"), Some(vec![7, -8]));
    assert_eq!(integers("short"), Some(vec![300, -300]));
    assert_eq!(integers("byte"), Some(vec![0, 255]));
    assert_eq!(integers("half"), None);
}

#[test]
fn shards_read_as_one_file_and_name_what_they_lack() {
    let folder = tempfile::tempdir().unwrap();
    let (index, first, second) = (
        folder.path().join("model.safetensors.index.json"),
        folder.path().join("model-00001-of-00002.safetensors"),
        folder.path().join("model-00002-of-00002.bin"),
    );
    fs::copy(fixture("state.safetensors"), &first).unwrap();
    fs::copy(fixture("module_state.pt"), &second).unwrap();
    let write =
        |map: &str| fs::write(&index, format!(r#"{{"metadata": {{"total_size": 1}}, "weight_map": {map}}}"#)).unwrap();
    write(
        r#"{"half": "model-00001-of-00002.safetensors", "weight": "model-00002-of-00002.bin",
            "scalar": "model-00001-of-00002.safetensors"}"#,
    );
    let shards = Names::TRANSFORMERS.open(folder.path()).unwrap();
    assert_eq!(shards.tensors().keys().collect::<Vec<_>>(), ["half", "scalar", "weight"]);
    assert_eq!(shards.files().collect::<Vec<_>>(), [index.as_path(), first.as_path(), second.as_path()]);
    let (state, module) = (open("state.safetensors"), open("module_state.safetensors"));
    assert_eq!(shards.bytes(&shards.tensors()["half"]), state.bytes(&state.tensors()["half"]));
    assert_eq!(shards.bytes(&shards.tensors()["weight"]), module.bytes(&module.tensors()["weight"]));

    write(r#"{"lost": "model-00001-of-00002.safetensors"}"#);
    assert!(refusal(&index).contains("`lost` is in model-00001-of-00002.safetensors, which is not so"));
    write(r#"{"half": "../model-00001-of-00002.safetensors"}"#);
    assert!(refusal(&index).contains("is no file beside it"));
    write(r#"{"half": "model-00003-of-00003.safetensors"}"#);
    assert!(refusal(&index).contains("model-00003-of-00003.safetensors cannot be read"));
    fs::write(&index, "{}").unwrap();
    assert!(refusal(&index).contains("is no index of shards: missing field `weight_map`"));
}

#[test]
fn a_file_cut_anywhere_is_called_truncated() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["state.safetensors", "state.bin"] {
        let whole = fs::read(fixture(name)).unwrap();
        let cut = folder.path().join(name);
        for length in [0, 3, 8, 100, whole.len() / 2, whole.len() - 1] {
            // A zip is known by its first four bytes.
            if name == "state.bin" && length < 4 {
                continue;
            }
            fs::write(&cut, &whole[..length]).unwrap();
            let error = Checkpoint::open(&cut).unwrap_err();
            assert!(matches!(error.problem, Problem::Truncated { .. }), "{length}: {error}");
            assert!(error.to_string().contains(&format!("{name} is truncated: it has {length} bytes")), "{error}");
        }
    }
}

#[test]
fn foreign_files_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    fs::write(&path, "<html>not found</html>").unwrap();
    assert!(refusal(&path).contains("is not a safetensors file"));
    fs::write(&path, "version https://git-lfs.github.com/spec/v1\n").unwrap();
    assert!(refusal(&path).contains("is a Git LFS pointer"));
    assert!(refusal(&folder.path().join("none.bin")).contains("none.bin cannot be read"));
    assert!(refusal(&fixture("whole_module.pt")).contains("it names `torch.nn.modules.linear.Linear`"));
    assert!(refusal(&fixture("repeated.pt")).contains("`repeated` of shape [100] and strides [0]"));
    assert!(refusal(&fixture("before_1_6.pt")).contains("older than 1.6"));
}

#[test]
fn a_head_of_the_trainer_is_found_by_its_subject() {
    let folder = tempfile::tempdir().unwrap();
    let refusal = || Head::open(folder.path()).unwrap_err().to_string();
    assert!(refusal().contains("holds no head; looked for head.safetensors, *.chkpt"));
    fs::copy(fixture("00100.chkpt"), folder.path().join("00100.chkpt")).unwrap();
    let head = Head::open(folder.path()).unwrap();
    assert_eq!((head.weight.as_str(), head.voxels, head.features), ("final_1_higher.weight", 4, 4));

    fs::copy(fixture("three_subjects.chkpt"), folder.path().join("three.chkpt")).unwrap();
    assert!(refusal().contains("holds several heads, 00100.chkpt, three.chkpt; keep one, or name the file"));
    fs::remove_file(folder.path().join("00100.chkpt")).unwrap();
    assert!(refusal().contains("three.chkpt holds the heads of subjects 1, 2, 5; say which with `subject`"));
    for subject in ["2", "\"2\""] {
        fs::write(folder.path().join("config.json"), format!("{{\"subject\": {subject}}}")).unwrap();
        let head = Head::open(&folder.path().join("three.chkpt")).unwrap();
        assert_eq!((head.bias.as_str(), head.voxels), ("final_2_higher.bias", 5));
    }
    fs::write(folder.path().join("config.json"), "{\"subject\": 3}").unwrap();
    assert!(refusal().contains("no head of subject 3, which config.json asks for, but of 1, 2, 5"));

    let whole = folder.path().join("head.safetensors");
    fs::copy(fixture("module_state.safetensors"), &whole).unwrap();
    let head = Head::open(folder.path()).unwrap();
    assert_eq!((head.weight.as_str(), head.voxels, head.features), ("weight", 2, 3));
    fs::copy(fixture("state.safetensors"), &whole).unwrap();
    assert!(refusal().contains("has nothing as weight and nothing as bias"));
}

#[test]
fn a_backbone_folder_says_whose_names_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    let layout = || Backbone::find(folder.path()).map(|found| found.layout).map_err(|error| error.to_string());
    assert!(layout().unwrap_err().contains("describes no image tower"));
    write("config.json", r#"{"model_type": "bert"}"#);
    assert!(layout().unwrap_err().contains("config.json describes no image tower"));
    write("config.json", r#"{"model_type": "clip"}"#);
    assert_eq!(layout(), Ok(Layout::Transformers));
    write("config.json", r#"{"model_type": "torchvision_vit"}"#);
    assert_eq!(layout(), Ok(Layout::Torchvision));
    write("config.json", r#"{"architecture": "vit_base_patch16_clip_224"}"#);
    assert_eq!(layout(), Ok(Layout::Timm));
    write("open_clip_config.json", "{}");
    assert_eq!(layout(), Ok(Layout::Timm));
    write("open_clip_pytorch_model.bin", "");
    assert_eq!(layout(), Ok(Layout::OpenClip));
}

proptest! {
    #[test]
    fn a_damaged_file_is_an_error_or_tensors_that_lie_in_it(
        name in prop::sample::select(vec!["state.bin", "state.safetensors"]),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = fs::read(fixture(name)).unwrap();
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), &bytes).unwrap();
        if let Ok(checkpoint) = Checkpoint::open(file.path()) {
            for tensor in checkpoint.tensors().values() {
                let elements: usize = tensor.shape.iter().product();
                prop_assert_eq!(checkpoint.bytes(tensor).len(), elements * tensor.dtype.bitsize() / 8);
            }
        }
    }
}
