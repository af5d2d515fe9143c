//! What the labels of an ROI volume are called: NSD's colour tables, lines of a number and a name, and the names of the data manual where
//! a table is missing.

use super::NsdError;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Label to name; 0, cortex without label, is not among them.
pub type Labels = BTreeMap<i32, String>;

/// Where the table of the labels in the file `masks` lies: NSD has `floc-faces.mgz.ctab` beside `lh.floc-faces.mgz`.
pub fn beside(masks: &Path) -> PathBuf {
    masks.with_file_name(format!("{}.ctab", both_sides(masks)))
}

/// The names of the labels in the file `masks`: of the table beside it, else of the data manual.
///
/// # Errors
/// As [`read`].
pub fn of(masks: &Path) -> Result<Labels, NsdError> {
    let (table, file) = (beside(masks), both_sides(masks));
    let roi = file.split_once('.').map_or(&*file, |(roi, _)| roi);
    match table.is_file() {
        true => read(&table),
        false => Ok(known(roi.trim_end_matches("_challenge_space")).unwrap_or_default()),
    }
}

/// A file's name without its hemisphere.
fn both_sides(file: &Path) -> String {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    ["lh.", "rh."].iter().find_map(|side| name.strip_prefix(side)).unwrap_or(&name).to_owned()
}

/// The labels that the file at `path` names.
///
/// # Errors
/// It can't be read, or a line does not begin with a number and a name.
pub fn read(path: &Path) -> Result<Labels, NsdError> {
    let bytes = std::fs::read(path).map_err(|source| NsdError::Read { path: path.to_owned(), source })?;
    parse(&String::from_utf8_lossy(&bytes)).map_err(|(line, found)| NsdError::Unexpected {
        path: path.to_owned(),
        what: format!("line {line}"),
        found,
        expected: "a label's number and its name, each label once".to_owned(),
    })
}

/// Number and text of the first line that is wrong.
pub fn parse(text: &str) -> Result<Labels, (usize, String)> {
    let mut labels = Labels::new();
    for (at, line) in text.lines().enumerate() {
        let mut words = line.split_whitespace();
        let Some(number) = words.next() else { continue };
        let wrong = || (at + 1, format!("{line:?}"));
        let number: i32 = number.parse().map_err(|_| wrong())?;
        let name = words.next().ok_or_else(wrong)?;
        if number > 0 && labels.insert(number, name.to_owned()).is_some() {
            return Err(wrong());
        }
    }
    Ok(labels)
}

/// The names in NSD's data manual of the labels of the ROI volume `roi`, counted from 1.
pub fn known(roi: &str) -> Option<Labels> {
    let names: &[&str] = match roi {
        "floc-faces" => &["OFA", "FFA-1", "FFA-2", "mTL-faces", "aTL-faces"],
        "floc-bodies" => &["EBA", "FBA-1", "FBA-2", "mTL-bodies"],
        "floc-places" => &["OPA", "PPA", "RSC"],
        "floc-words" => &["OWFA", "VWFA-1", "VWFA-2", "mfs-words", "mTL-words"],
        "prf-visualrois" => &["V1v", "V1d", "V2v", "V2d", "V3v", "V3d", "hV4"],
        "prf-eccrois" => &["ecc0pt5", "ecc1", "ecc2", "ecc4", "ecc4+"],
        "streams" => &["early", "midventral", "midlateral", "midparietal", "ventral", "lateral", "parietal"],
        "nsdgeneral" => &["nsdgeneral"],
        "Kastner2015" => &[
            "V1v", "V1d", "V2v", "V2d", "V3v", "V3d", "hV4", "VO1", "VO2", "PHC1", "PHC2", "TO2", "TO1", "LO2", "LO1",
            "V3B", "V3A", "IPS0", "IPS1", "IPS2", "IPS3", "IPS4", "IPS5", "SPL1", "FEF",
        ],
        _ => return None,
    };
    Some((1..).zip(names.iter().map(|&name| name.to_owned())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_gives_names_by_number() {
        let table = "0 Unknown\n1 OFA\n2 FFA-1 120 0 0 0\n\n  3 FFA-2\n";
        let labels = parse(table).unwrap();
        assert_eq!(labels.get(&2).map(String::as_str), Some("FFA-1"));
        assert_eq!(labels.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(parse("1 OFA\nFFA 2\n").unwrap_err(), (2, "\"FFA 2\"".to_owned()));
        assert_eq!(parse("1 OFA\n1 FFA\n").unwrap_err().0, 2);
        assert_eq!(parse("1\n").unwrap_err().0, 1);
    }

    #[test]
    fn the_manual_names_what_has_no_table() {
        assert_eq!(known("floc-places").unwrap()[&3], "RSC");
        assert_eq!(known("Kastner2015").unwrap()[&25], "FEF");
        assert_eq!(known("HCP_MMP1"), None);
    }

    #[test]
    fn a_mask_has_the_table_beside_it_or_the_manuals_names() {
        let folder = tempfile::tempdir().unwrap();
        let masks = folder.path().join("rh.floc-places.mgz");
        assert_eq!(of(&masks).unwrap()[&2], "PPA");
        assert_eq!(of(&folder.path().join("lh.prf-visualrois_challenge_space.npy")).unwrap()[&7], "hV4");
        std::fs::write(folder.path().join("floc-places.mgz.ctab"), "2 mine\n").unwrap();
        assert_eq!(of(&masks).unwrap(), Labels::from([(2, "mine".to_owned())]));
        assert_eq!(of(&folder.path().join("lh.unknown.mgz")).unwrap(), Labels::new());
    }
}
