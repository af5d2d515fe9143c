//! The folders that a job reads: compared with what the coordinator said of them, by content or by origin.

use super::models::{ShelfError, sha256};
use protocol::ids::Digest;
use protocol::job::{Input, MadeFolder, ModelFolder};
use sha2::{Digest as _, Sha256};
use std::path::Path;
use subject::folder::{MANIFEST, Manifest};

/// Checks every file of a folder against the digest that the experiment was submitted with.
pub fn verify(folder: &ModelFolder) -> Result<(), ShelfError> {
    verify_where(folder, |_| true)
}

/// As [`verify`], of the files whose names fit.
pub fn verify_where(folder: &ModelFolder, fits: impl Fn(&str) -> bool) -> Result<(), ShelfError> {
    for file in folder.files.iter().filter(|file| fits(&file.name)) {
        unchanged(&folder.path.join(&file.name), &file.sha256)?;
    }
    Ok(())
}

/// The file must have the content that was submitted.
pub fn unchanged(path: &Path, expected: &Digest) -> Result<(), ShelfError> {
    let found = sha256(path)?;
    if found == *expected {
        return Ok(());
    }
    Err(ShelfError::Changed { path: path.to_owned(), found, expected: expected.clone() })
}

/// Checks every file of a folder: against its digest, or that it comes from the job that was to make it and is as that left it.
pub fn check(input: &Input) -> Result<(), ShelfError> {
    match input {
        Input::Content(folder) => verify(folder),
        Input::Made(folder) => Ok(manifest(folder)?.verify(&folder.path)?),
    }
}

/// Whether the folder comes from the job that was to make it, or is the one that was submitted: by its manifest, which says what its
/// files should be.
pub fn origin(input: &Input) -> Result<(), ShelfError> {
    match input {
        Input::Made(folder) => manifest(folder).map(drop),
        Input::Content(folder) => {
            let found = content(&Manifest::read(&folder.path)?);
            match found == folder.digest {
                true => Ok(()),
                false => {
                    let path = folder.path.join(MANIFEST);
                    Err(ShelfError::Changed { path, found, expected: folder.digest.clone() })
                }
            }
        }
    }
}

/// sha256 over the lines `<sha256>  <name>\n` of a folder's files, as of every [`ModelFolder`]; of one that was made, as its manifest
/// says.
pub fn digest(input: &Input) -> Result<Digest, ShelfError> {
    match input {
        Input::Content(folder) => Ok(folder.digest.clone()),
        Input::Made(folder) => Ok(content(&manifest(folder)?)),
    }
}

/// As [`digest`].
pub fn content(manifest: &Manifest) -> Digest {
    let mut files: Vec<_> = manifest.files.iter().collect();
    files.sort_by(|a, b| a.name.cmp(&b.name));
    let mut whole = Sha256::new();
    files.iter().for_each(|file| whole.update(format!("{}  {}\n", file.sha256, file.name)));
    Digest::from_bytes(&whole.finalize().into())
}

/// The manifest of a folder that must come from the job that was to make it.
fn manifest(folder: &MadeFolder) -> Result<Manifest, ShelfError> {
    if !folder.path.is_dir() {
        return Err(ShelfError::NotMade { path: folder.path.clone(), origin: folder.made_by.to_string() });
    }
    let manifest = Manifest::read(&folder.path)?;
    let expected = folder.made_by.to_string();
    if manifest.identity == expected {
        return Ok(manifest);
    }
    Err(ShelfError::Origin { path: folder.path.clone(), found: manifest.identity, expected })
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::ids::Seed;
    use protocol::job::{ModelFile, Origin};
    use std::collections::BTreeMap;
    use std::fs;
    use subject::folder::{Draft, Opened, Provenance};

    #[test]
    fn a_file_that_changed_or_vanished_since_the_submit_is_named() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("weights");
        fs::write(&path, "abc").unwrap();
        let sha256 = sha256(&path).unwrap();
        let files = vec![ModelFile { name: "weights".into(), bytes: 3, sha256: sha256.clone() }];
        let submitted = ModelFolder { path: place.path().to_owned(), digest: sha256, files };
        assert!(verify(&submitted).is_ok());
        fs::write(&path, "abd").unwrap();
        assert!(matches!(verify(&submitted), Err(ShelfError::Changed { path: named, .. }) if named == path));
        assert!(verify_where(&submitted, |name| name != "weights").is_ok());
        fs::remove_file(&path).unwrap();
        assert!(matches!(verify(&submitted), Err(ShelfError::Missing { path: named }) if named == path));
    }

    #[test]
    fn a_made_folder_must_come_from_its_job_and_be_as_that_left_it() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("encoder");
        let origin = |seed| Origin { condition: Digest::from_bytes(&[7; 32]), seed: Seed(seed) };
        let input = |seed| Input::Made(MadeFolder { path: path.clone(), made_by: origin(seed) });
        assert!(matches!(check(&input(0)), Err(ShelfError::NotMade { .. })));
        let Ok(Opened::Draft(draft)) = Draft::open(&path, &origin(0).to_string()) else { panic!("nothing is there") };
        fs::write(draft.path().join("head"), "abc").unwrap();
        let provenance = Provenance {
            kind: "fit".to_owned(),
            subject: "sim01".to_owned(),
            settings: serde_json::json!({}),
            inputs: Vec::new(),
            summary: BTreeMap::new(),
            software: "test".to_owned(),
        };
        draft.publish(provenance).unwrap();
        assert!(check(&input(0)).is_ok());
        let files = [ModelFile { name: "head".into(), bytes: 3, sha256: sha256(&path.join("head")).unwrap() }];
        let line = format!("{}  head\n", files[0].sha256);
        assert_eq!(
            digest(&input(0)).unwrap(),
            Digest::from_bytes(&Sha256::digest(line).into()),
            "as a submit names it"
        );
        assert!(matches!(check(&input(1)), Err(ShelfError::Origin { found, .. }) if found == origin(0).to_string()));
        fs::write(path.join("head"), "abd").unwrap();
        assert!(check(&input(0)).unwrap_err().to_string().contains("has changed since it was made"));
    }
}
