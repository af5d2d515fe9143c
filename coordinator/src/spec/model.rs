//! The `models` section, and where a model's folder is: on disk, or in the Hugging Face cache.

use super::diagnose::Diagnostics;
use super::fields::{Fields, Located};
use super::node::Node;
use std::path::{self, Component, Path, PathBuf};
use std::{env, fs};

/// Stands in a path for the subject's name.
pub const SUBJECT: &str = "{subject}";
/// Stands in the path of what a job makes for the region's name.
pub const REGION: &str = "{region}";

/// The `models` section; what is `None` is missing or wrong, and has been told.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ModelNames {
    pub diffusion: Option<Located<String>>,
    pub backbone: Option<Located<String>>,
    pub encoder: Option<Located<String>>,
    pub probe: Option<Located<String>>,
    /// Folder of the subject's functional volumes, for regions that are volume masks.
    pub volumes: Option<Located<String>>,
    /// Folder with the clusters of the subject's regions, each in a folder of its own, for regions that are clusters.
    pub clusters: Option<Located<String>>,
}

/// Reads the `models` section, in which the models of `required` must stand and other keys may be among `optional`.
pub fn read(node: &Node, required: &[&str], optional: &[&str], diagnostics: &mut Diagnostics) -> ModelNames {
    let keys = [required, optional].concat();
    let Some(fields) = Fields::of(node, "`models`", &keys, diagnostics) else { return ModelNames::default() };
    let mut named = |key: &str| {
        let node = if required.contains(&key) { fields.required(key, diagnostics) } else { fields.get(key) };
        node.and_then(|node| path_name(node, key, &[SUBJECT], diagnostics))
    };
    ModelNames {
        diffusion: named("diffusion"),
        backbone: named("backbone"),
        encoder: named("encoder"),
        probe: named("probe"),
        volumes: named("volumes"),
        clusters: named("clusters"),
    }
}

/// A path or hub name that has no placeholders but those of `valid`.
pub fn path_name(node: &Node, key: &str, valid: &[&str], diagnostics: &mut Diagnostics) -> Option<Located<String>> {
    let text = node.text(&format!("`{key}`"), diagnostics)?;
    let rest = valid.iter().fold(text.clone(), |rest, placeholder| rest.replace(placeholder, ""));
    if text.is_empty() || text.contains('\0') {
        diagnostics.mistake(node.place, format!("`{key}` cannot be empty")).note("expected a folder or a hub name");
        return None;
    }
    if rest.contains(['{', '}']) {
        let only = match valid {
            [one] => format!("the only placeholder is {one}"),
            _ => format!("the placeholders are {}", valid.join(", ")),
        };
        diagnostics.mistake(node.place, format!("`{text}` has a placeholder that means nothing here")).note(only);
        return None;
    }
    Some(Located { place: node.place, value: text })
}

/// Where the Hugging Face libraries keep what they have downloaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubCache(Option<PathBuf>);

impl HubCache {
    /// The cache below `folder`.
    pub fn at(folder: &Path) -> Self {
        Self(Some(folder.to_owned()))
    }

    /// `$HF_HUB_CACHE`, else `$HF_HOME/hub`, else `~/.cache/huggingface/hub`.
    pub fn from_env() -> Self {
        // Workers may run in another folder, so that a relative path would mean another place to them.
        let folder = |name: &str| path::absolute(env::var_os(name)?).ok();
        Self(
            folder("HF_HUB_CACHE")
                .or_else(|| folder("HF_HOME").map(|home| home.join("hub")))
                .or_else(|| folder("HOME").map(|home| home.join(".cache/huggingface/hub"))),
        )
    }

    /// The cache's folder of the model `org/name`.
    fn model(&self, name: &str) -> Option<PathBuf> {
        Some(self.0.as_ref()?.join(format!("models--{}", name.replace('/', "--"))))
    }

    /// The snapshot that `main` of the model `org/name` points to.
    fn snapshot(&self, name: &str) -> Option<PathBuf> {
        let model = self.model(name)?;
        let revision = fs::read_to_string(model.join("refs/main")).ok()?;
        let snapshot = model.join("snapshots").join(revision.trim());
        snapshot.is_dir().then_some(snapshot)
    }
}

/// Where relative paths start, and where hub names are looked up.
#[derive(Debug, Clone)]
pub struct Whereabouts {
    /// The experiment file's folder, absolute.
    pub base: PathBuf,
    pub hub: HubCache,
}

impl Whereabouts {
    /// The file or folder that `name` means for `subject`, whether it exists or not.
    pub fn path(&self, name: &str, subject: &str) -> PathBuf {
        let path = self.base.join(name.replace(SUBJECT, subject));
        // A link's own name is kept: it may say what its target's does not, for example `.nii.gz`.
        match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => canonical(parent).join(name),
            _ => canonical(&path),
        }
    }

    /// The folder that `name` means for `subject`: below the experiment file, or a model of the hub. It may lack; only a
    /// hub's model that is not in the cache is told here.
    pub fn folder(
        &self,
        name: &Located<String>,
        key: &str,
        subject: &str,
        diagnostics: &mut Diagnostics,
    ) -> Option<PathBuf> {
        let path = self.path(&name.value, subject);
        if path.is_dir() {
            return Some(path);
        }
        let name_here = name.value.replace(SUBJECT, subject);
        if !is_hub_name(&name_here) {
            return Some(path);
        }
        if let Some(snapshot) = self.hub.snapshot(&name_here) {
            return Some(snapshot);
        }
        let cache =
            self.hub.0.as_ref().map_or("(none: set HF_HUB_CACHE)".to_owned(), |cache| cache.display().to_string());
        let lacking = self.hub.model(&name_here).unwrap_or_else(|| path.clone());
        diagnostics
            .missing(name.place, format!("`{key}`: the model `{name_here}` is not on this machine"))
            .note(format!("looked for the folder {} and in the Hugging Face cache {cache}", path.display()))
            .note(format!("download it with `hf download {name_here}`, or name a folder"))
            .missing
            .push(lacking);
        None
    }
}

/// `path` with links followed and `..` worked out as far as it exists: it stays the same when the rest comes to exist.
fn canonical(path: &Path) -> PathBuf {
    if let Ok(path) = fs::canonicalize(path) {
        return path;
    }
    let plain = without_dots(path);
    match (plain.parent(), plain.file_name()) {
        (Some(parent), Some(name)) => canonical(parent).join(name),
        _ => plain,
    }
}

/// `path` with `.` and `..` worked out by name, for paths that do not exist.
fn without_dots(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut plain, component| {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                plain.pop();
            }
            other => plain.push(other),
        }
        plain
    })
}

/// Whether `text` looks like `org/name`.
fn is_hub_name(text: &str) -> bool {
    let part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    text.split_once('/').is_some_and(|(org, name)| part(org) && part(name))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::diagnose::Place;
    use super::*;

    #[test]
    fn a_hub_name_is_found_in_the_cache_and_a_folder_of_that_name_comes_first() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().canonicalize().unwrap();
        let model = root.join("hub/models--org--net");
        fs::create_dir_all(model.join("snapshots/abc")).unwrap();
        fs::create_dir_all(model.join("refs")).unwrap();
        fs::write(model.join("refs/main"), "abc\n").unwrap();
        let places = Whereabouts { base: root.join("here"), hub: HubCache::at(&root.join("hub")) };
        let name = Located { place: Place::default(), value: "org/net".to_owned() };
        let mut diagnostics = Diagnostics::new(Path::new("x.yaml"), "");
        let mut find = || places.folder(&name, "probe", "s", &mut diagnostics);
        assert_eq!(find(), Some(model.join("snapshots/abc")));
        fs::create_dir_all(root.join("here/org/net")).unwrap();
        assert_eq!(find(), Some(root.join("here/org/net")));
        assert!(diagnostics.is_empty());
    }

    #[test]
    fn paths_are_not_taken_for_hub_names() {
        assert!(is_hub_name("laion/CLIP-ViT-B-16-laion2B-s34B-b88K"));
        for path in ["../data", "data", "a/b/c", "/abs", "./x", "org/"] {
            assert!(!is_hub_name(path), "{path}");
        }
    }
}
