//! Weights files: safetensors, their shards' index, PyTorch archives with their pickles, heads. A pickle is never executed.
#![no_main]

use checkpoint::{Checkpoint, Head};
use libfuzzer_sys::fuzz_target;

const NAMES: [&str; 5] =
    ["model.safetensors", "model.safetensors.index.json", "open_clip_pytorch_model.bin", "head.chkpt", "config.json"];

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join(NAMES[usize::from(*kind) % NAMES.len()]);
    std::fs::write(&path, bytes).expect("a file");
    if let Ok(checkpoint) = Checkpoint::open(&path) {
        for tensor in checkpoint.tensors().values() {
            let _ = checkpoint.bytes(tensor).len();
            let _ = checkpoint.integers(tensor);
        }
    }
    let _ = Head::open(&path);
    let _ = Head::open(folder.path());
    let _ = checkpoint::Backbone::find(folder.path());
});
