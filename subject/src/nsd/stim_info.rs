//! NSD's table of images: which image of COCO each one is and how it was cropped.

use super::{IMAGES, NsdError};
use serde::Deserialize;
use std::path::Path;

/// An image's row.
#[derive(Debug, Clone, PartialEq)]
pub struct StimInfo {
    pub coco_id: u64,
    /// `train2017` or `val2017`: the folder of COCO that holds it.
    pub coco_split: String,
    /// Fractions that were cut off at the top, bottom, left and right.
    pub crop: [f64; 4],
    /// Whether all eight subjects were to see it.
    pub shared: bool,
}

impl StimInfo {
    /// First and last row, then first and last column (both ends exclusive) that are kept of `height` × `width` pixels; fractions of
    /// a pixel are cut off as NumPy's slicing by `int` does.
    pub fn kept(&self, height: usize, width: usize) -> [usize; 4] {
        let [top, bottom, left, right] = self.crop;
        let at = |side: usize, fraction: f64| (side as f64 * fraction) as usize;
        [at(height, top), at(height, 1.0 - bottom), at(width, left), at(width, 1.0 - right)]
    }
}

/// The columns that are used; the table has more.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    coco_id: u64,
    coco_split: String,
    crop_box: String,
    nsd_id: usize,
    shared1000: String,
}

/// The rows in the order of the images' ids.
///
/// # Errors
/// The file can't be read, a column is missing, a value is no number, or an id is out of range or in the wrong place.
pub fn read(path: &Path) -> Result<Vec<StimInfo>, NsdError> {
    let file = std::fs::File::open(path).map_err(|source| NsdError::Read { path: path.to_owned(), source })?;
    parse(std::io::BufReader::new(file)).map_err(|problem| match problem {
        Problem::Csv(source) => NsdError::Csv { path: path.to_owned(), source },
        Problem::Value { row, what, found, expected } => NsdError::Unexpected {
            path: path.to_owned(),
            what: format!("{what} of row {row}"),
            found,
            expected: expected.to_owned(),
        },
    })
}

/// Why a table can't be used.
#[derive(Debug)]
pub enum Problem {
    Csv(csv::Error),
    Value { row: usize, what: &'static str, found: String, expected: &'static str },
}

/// [`read`] of a file's content.
///
/// # Errors
/// As there.
pub fn parse(reader: impl std::io::Read) -> Result<Vec<StimInfo>, Problem> {
    let mut rows = Vec::new();
    for (at, row) in csv::Reader::from_reader(reader).into_deserialize().enumerate() {
        let row: Row = row.map_err(Problem::Csv)?;
        let value = |what, found: &dyn std::fmt::Debug, expected| Problem::Value {
            row: at + 1,
            what,
            found: format!("{found:?}"),
            expected,
        };
        if row.nsd_id != at || at >= IMAGES {
            return Err(value("nsdId", &row.nsd_id, "the rows in order of their ids, 0 to 72999"));
        }
        if !matches!(row.coco_split.as_str(), "train2017" | "val2017") {
            return Err(value("cocoSplit", &row.coco_split, "train2017 or val2017"));
        }
        let crop = crop_box(&row.crop_box).ok_or_else(|| {
            value("cropBox", &row.crop_box, "(top, bottom, left, right), fractions of less than 1 in all")
        })?;
        let shared = match row.shared1000.as_str() {
            "True" | "true" | "TRUE" | "1" => true,
            "False" | "false" | "FALSE" | "0" => false,
            _ => return Err(value("shared1000", &row.shared1000, "True or False")),
        };
        rows.push(StimInfo { coco_id: row.coco_id, coco_split: row.coco_split, crop, shared });
    }
    Ok(rows)
}

fn crop_box(text: &str) -> Option<[f64; 4]> {
    let inner = text.trim().strip_prefix(['(', '['])?.strip_suffix([')', ']'])?;
    let fractions: Vec<f64> = inner.split(',').map(|number| number.trim().parse().ok()).collect::<Option<_>>()?;
    let crop: [f64; 4] = fractions.try_into().ok()?;
    let [top, bottom, left, right] = crop;
    let inside = crop.iter().all(|fraction| (0.0..1.0).contains(fraction));
    (inside && top + bottom < 1.0 && left + right < 1.0).then_some(crop)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = ",cocoId,cocoSplit,cropBox,loss,nsdId,flagged,BOLD5000,shared1000,subject1\n";

    fn table(rows: &str) -> Result<Vec<StimInfo>, Problem> {
        parse(format!("{HEADER}{rows}").as_bytes())
    }

    #[test]
    fn rows_are_read_and_crops_cut_fractions_of_pixels_off() {
        let rows = "0,532481,val2017,\"(0, 0, 0.1671875, 0.1671875)\",0.1,0,False,False,False,0\n\
                    1,245764,val2017,\"(0, 0.3, 0, 0)\",0.1,1,False,False,True,0\n";
        let rows = table(rows).unwrap();
        assert_eq!((rows[0].coco_id, rows[0].shared, rows[1].shared), (532_481, false, true));
        assert_eq!(rows[0].kept(425, 640), [0, 425, 107, 533]);
        // 480 · (1 − 0.3) is 336 exactly, 481 · 0.7 = 336.7.
        assert_eq!(rows[1].kept(481, 480), [0, 336, 0, 480]);
    }

    #[test]
    fn a_row_that_cannot_be_used_is_named() {
        for (row, what) in [
            ("0,1,val2017,\"(0, 0, 0.5, 0.5)\",0,0,0,0,0,0\n", "cropBox"),
            ("0,1,val2017,\"(0, 0, nan, 0)\",0,0,0,0,0,0\n", "cropBox"),
            ("0,1,val2017,\"(0, 0, 0)\",0,0,0,0,0,0\n", "cropBox"),
            ("0,1,val2017,\"(0, 0, 0, 0)\",0,1,0,0,0,0\n", "nsdId"),
            ("0,1,../..,\"(0, 0, 0, 0)\",0,0,0,0,0,0\n", "cocoSplit"),
            ("0,1,val2017,\"(0, 0, 0, 0)\",0,0,0,0,maybe,0\n", "shared1000"),
        ] {
            assert!(matches!(table(row), Err(Problem::Value { row: 1, what: found, .. }) if found == what), "{row}");
        }
        assert!(matches!(table("0,x,val2017,\"(0, 0, 0, 0)\",0,0,0,0,0,0\n"), Err(Problem::Csv(_))));
    }
}
