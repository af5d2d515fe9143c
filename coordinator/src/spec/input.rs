//! Folders that other jobs make: found as the product of a needed experiment, whether it is there yet or not, or on disk by their
//! `manifest.json`.

use super::diagnose::{Diagnostics, Place};
use super::known::{Known, Maker};
use protocol::ids::Digest;
use protocol::job::{Input, Kind, MadeFolder, ModelFile, ModelFolder};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::fs;
use std::path::{Path, PathBuf};

/// What a manifest says that is looked at here.
#[derive(Debug, Deserialize)]
struct Manifest {
    kind: String,
    subject: String,
    files: Vec<ModelFile>,
}

/// What a folder is to be.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The key that names it.
    pub key: &'a str,
    /// The kind of job that makes such folders.
    pub kind: Kind,
    pub subject: &'a str,
    pub place: Place,
}

/// Something is wrong, and the diagnostics have it.
#[derive(Debug)]
pub struct Told;

/// The folder that a needed experiment makes at `path`; `Err` if that cannot be, which is told.
pub fn made(
    path: &Path,
    wanted: Wanted<'_>,
    known: &Known,
    diagnostics: &mut Diagnostics,
) -> Result<Option<MadeFolder>, Told> {
    let makers = known.makers(path);
    let Some(Maker { experiment, kind, origin }) = makers.first() else { return Ok(None) };
    if makers.len() > 1 {
        diagnostics
            .mistake(
                wanted.place,
                format!("`{}`: several conditions of `{experiment}` make {}", wanted.key, path.display()),
            )
            .note(format!("name the file of `{experiment}` before this one, so that its present conditions count"));
        return Err(Told);
    }
    if *kind != wanted.kind {
        diagnostics
            .mistake(
                wanted.place,
                format!(
                    "`{}`: {} is made by `{experiment}`, whose jobs are of kind {kind}",
                    wanted.key,
                    path.display()
                ),
            )
            .note(format!("expected a folder that a job of kind {} makes", wanted.kind));
        return Err(Told);
    }
    Ok(Some(MadeFolder { path: path.to_owned(), made_by: origin.clone() }))
}

/// The folder at `path`, as made by a needed experiment or as it lies there.
pub fn find(path: &Path, wanted: Wanted<'_>, known: &Known, diagnostics: &mut Diagnostics) -> Option<Input> {
    match made(path, wanted, known, diagnostics) {
        Ok(Some(folder)) => Some(Input::Made(folder)),
        Ok(None) => on_disk(path, wanted, diagnostics).map(Input::Content),
        Err(Told) => None,
    }
}

/// A finished folder, known by the digests in its manifest: its files may be large, and the worker compares them.
fn on_disk(path: &Path, wanted: Wanted<'_>, diagnostics: &mut Diagnostics) -> Option<ModelFolder> {
    let Wanted { key, kind, subject, place } = wanted;
    let file = path.join("manifest.json");
    if !file.is_file() {
        let message = format!("`{key}`: files are missing");
        diagnostics.missing_file(place, &message, &file);
        return None;
    }
    let damaged = |error: &dyn std::error::Error, diagnostics: &mut Diagnostics| {
        diagnostics.missing(place, format!("`{key}`: reading {}: {error}", file.display()));
    };
    let text = fs::read(&file).map_err(|error| damaged(&error, diagnostics)).ok()?;
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|error| damaged(&error, diagnostics)).ok()?;
    for (what, found, expected) in
        [("kind", manifest.kind.as_str(), kind.as_str()), ("subject", manifest.subject.as_str(), subject)]
    {
        if found != expected {
            diagnostics
                .mistake(place, format!("`{key}`: {} was made for another {what}: {found}", path.display()))
                .note(format!("expected {expected}"));
            return None;
        }
    }
    let lacking: Vec<PathBuf> =
        manifest.files.iter().map(|file| path.join(&file.name)).filter(|file| !file.is_file()).collect();
    for file in &lacking {
        diagnostics.missing_file(place, &format!("`{key}`: files are missing"), file);
    }
    lacking.is_empty().then(|| folder(path, manifest.files))
}

/// A folder that holds `files`, sorted by name.
pub fn folder(path: &Path, mut files: Vec<ModelFile>) -> ModelFolder {
    files.sort_by(|a, b| a.name.cmp(&b.name));
    let mut whole = Sha256::new();
    for ModelFile { name, sha256, .. } in &files {
        whole.update(format!("{sha256}  {name}\n"));
    }
    ModelFolder { path: path.to_owned(), digest: Digest::from_bytes(&whole.finalize().into()), files }
}
