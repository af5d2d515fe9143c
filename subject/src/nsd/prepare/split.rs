//! Which images are held out. There are at least five test sets that people call "the shared 1000"; here each has a name and a digest.

use crate::nsd::{Design, IMAGES, NsdError};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::path::Path;

/// The held-out images by name: `sharedN` of those that all eight subjects were to see, or a file's.
///
/// # Errors
/// The name is neither, or the file can't be read or holds something else than ids.
pub fn held_out(split: &str, design: &Design) -> Result<BTreeSet<u32>, NsdError> {
    match split {
        "shared1000" => Ok(design.shared().clone()),
        "shared907" => Ok(design.shared_and_seen(1)),
        "shared766" => Ok(design.shared_and_seen(2)),
        "shared515" => Ok(design.shared_and_seen(3)),
        path => of_file(Path::new(path)),
    }
}

fn of_file(path: &Path) -> Result<BTreeSet<u32>, NsdError> {
    if !path.is_file() {
        return Err(NsdError::Setting {
            setting: "split",
            found: format!("`{}`", path.display()),
            expected: "shared1000, shared907, shared766, shared515, or a file of ids".to_owned(),
        });
    }
    let text = std::fs::read_to_string(path).map_err(|source| NsdError::Read { path: path.to_owned(), source })?;
    let mut ids = BTreeSet::new();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        match line.trim().parse() {
            Ok(id) if (id as usize) < IMAGES => ids.insert(id),
            _ => {
                return Err(NsdError::Unexpected {
                    path: path.to_owned(),
                    what: format!("line {}", at + 1),
                    found: format!("{line:?}"),
                    expected: format!("an image's 73k id counted from 0, below {IMAGES}"),
                });
            }
        };
    }
    Ok(ids)
}

/// sha256 of ids in ascending order, one a line.
pub fn digest(ids: &BTreeSet<u32>) -> String {
    let text: String = ids.iter().map(|id| format!("{id}\n")).collect();
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}
