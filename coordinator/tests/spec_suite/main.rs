//! Experiment files from text to plan and job table, on the miniature's real model folders.
#![allow(clippy::unwrap_used)]

mod diagnostics;
mod files;
mod folders;
mod plan;
mod simulate;
mod submit;

use coordinator::spec::files::Digests;
use coordinator::spec::known::Known;
use coordinator::spec::model::HubCache;
use coordinator::spec::{Loaded, Opened};
use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

fn no_hub() -> HubCache {
    HubCache::at(Path::new("/nonexistent/hub"))
}

/// Reads `text` as the experiment file `x.yaml` in `base`.
fn read_in(base: &Path, text: &str) -> Loaded {
    thread_local!(static DIGESTS: RefCell<Digests> = RefCell::new(Digests::default()));
    let opened = Opened::read(Path::new("x.yaml"), text, base);
    DIGESTS.with_borrow_mut(|digests| opened.plan(&no_hub(), &Known::default(), digests))
}

/// Reads `text` as an experiment file beside the miniature's.
fn read(text: &str) -> Loaded {
    read_in(&repository().join("experiments"), text)
}

/// A correct experiment on the miniature, with `sections` instead of a grid.
fn miniature(sections: &str) -> String {
    format!(
        "name: mini
kind: sample
models:
  diffusion: ../miniature/bundle/sd
  backbone: ../miniature/bundle/clip
  encoder: ../miniature/bundle/encoder
  probe: ../miniature/bundle/coca
{sections}"
    )
}

/// The findings as text, without the colours of a terminal.
fn findings(loaded: &Loaded) -> String {
    loaded.diagnostics.render(false)
}

/// A folder with a copy of the miniature's bundle in `miniature/bundle` and an empty folder `experiments`. Files are links
/// until [`Copy::replace`] puts another file in the place of one.
struct Copy {
    root: TempDir,
}

impl Copy {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        link_all(&repository().join("miniature/bundle"), &root.path().join("miniature/bundle"));
        fs::create_dir(root.path().join("experiments")).unwrap();
        Self { root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().canonicalize().unwrap().join("miniature/bundle").join(name)
    }

    fn replace(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let _ = fs::remove_file(self.path(name));
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), bytes).unwrap();
    }

    fn read(&self, text: &str) -> Loaded {
        read_in(&self.root.path().canonicalize().unwrap().join("experiments"), text)
    }
}

fn link_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            link_all(&entry.path(), &target);
        } else {
            std::os::unix::fs::symlink(entry.path(), target).unwrap();
        }
    }
}

/// A safetensors file.
fn safetensors(tensors: &[(&str, &str, &[usize], Vec<u8>)]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, dtype, shape, bytes) in tensors {
        let begin = data.len();
        data.extend_from_slice(bytes);
        let entry = serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": [begin, data.len()] });
        header.insert((*name).to_owned(), entry);
    }
    let header = serde_json::to_vec(&header).unwrap();
    [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
}

/// A head of `voxels` × `features` zeros, and `voxel_ijk` if given.
fn head(voxels: usize, features: usize, voxel_ijk: Option<&[[i16; 3]]>) -> Vec<u8> {
    let mut tensors: Vec<(&str, &str, &[usize], Vec<u8>)> = Vec::new();
    let (weight, bias, ijk) = ([voxels, features], [voxels], [voxels, 3]);
    tensors.push(("weight", "F32", &weight, vec![0; 4 * voxels * features]));
    tensors.push(("bias", "F32", &bias, vec![0; 4 * voxels]));
    if let Some(voxel_ijk) = voxel_ijk {
        let bytes = voxel_ijk.iter().flatten().flat_map(|at| at.to_le_bytes()).collect();
        tensors.push(("voxel_ijk", "I16", &ijk, bytes));
    }
    safetensors(&tensors)
}
