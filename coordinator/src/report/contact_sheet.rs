//! One picture of an experiment: a row of guided images per region, highest predicted activation first.

use super::glyph;
use super::specificity::{self, Specificity};
use crate::queue::view::{Snapshot, ViewError};
use image::imageops::{self, FilterType};
use image::{ImageFormat, Rgb, RgbImage};
use protocol::ids::{Digest, ExperimentId};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Pixels between cells, and around the sheet.
pub const GAP: u32 = 6;
/// Smallest edge of a cell: smaller images are enlarged by a whole factor, larger ones shrunk to twice this.
pub const CELL: u32 = 96;
/// How large a dot of a label is.
const DOT: u32 = 2;
const PAPER: Rgb<u8> = Rgb([255, 255, 255]);
const INK: Rgb<u8> = Rgb([40, 44, 52]);

/// Why a contact sheet could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ContactSheetError {
    #[error(transparent)]
    View(#[from] ViewError),
    #[error("reading the image {digest} from the artifact store")]
    Fetch { digest: Digest, source: std::io::Error },
    #[error("decoding the image {digest}: expected a PNG")]
    Decode { digest: Digest, source: image::ImageError },
    #[error("the experiment has no images yet: wait for the first to be done")]
    Empty,
    #[error("writing the contact sheet `{}`", path.display())]
    Write { path: PathBuf, source: image::ImageError },
}

/// A line of images under one label.
#[derive(Debug, Clone)]
pub struct Row {
    pub label: String,
    pub images: Vec<RgbImage>,
}

/// The rows of an experiment's guided conditions (of all, where none is guided), each with its `columns` images of highest
/// predicted activation. `fetch` gives the bytes of a stored image.
pub async fn read(
    snapshot: &mut Snapshot,
    experiment: ExperimentId,
    columns: u32,
    fetch: impl Fn(&Digest) -> std::io::Result<Vec<u8>>,
) -> Result<Vec<Row>, ContactSheetError> {
    let mut table = specificity::read(snapshot, experiment).await?;
    if table.iter().any(|row| row.gamma != 0.0) {
        table.retain(|row| row.gamma != 0.0);
    }
    let labels = labels(&table);
    let mut rows = Vec::new();
    for (row, label) in table.iter().zip(labels) {
        let mut images = Vec::new();
        for image in snapshot.top_of(row.condition.id, columns).await? {
            let digest = image.sha256;
            let bytes = fetch(&digest).map_err(|source| ContactSheetError::Fetch { digest: digest.clone(), source })?;
            let decoded = image::load_from_memory_with_format(&bytes, ImageFormat::Png)
                .map_err(|source| ContactSheetError::Decode { digest, source })?;
            images.push(decoded.into_rgb8());
        }
        rows.push(Row { label, images });
    }
    Ok(rows)
}

/// What tells a condition from the others: its region, and subject and axes where there are several.
fn labels(table: &[Specificity]) -> Vec<String> {
    let subjects: BTreeSet<_> = table.iter().map(|row| &row.condition.subject).collect();
    let axes: BTreeSet<_> = table.iter().map(|row| row.condition.axes.to_string()).collect();
    table
        .iter()
        .map(|row| {
            let mut label = String::new();
            if subjects.len() > 1 {
                label += &row.condition.subject;
                label.push(' ');
            }
            label += &row.condition.region;
            if axes.len() > 1 {
                label += &format!(" {}", row.condition.axes);
            }
            label
        })
        .collect()
}

/// Draws the rows one under the other, labels at the left. All cells are squares of one size.
pub fn draw(rows: &[Row]) -> Result<RgbImage, ContactSheetError> {
    let columns = rows.iter().map(|row| row.images.len()).max().unwrap_or(0) as u32;
    if columns == 0 {
        return Err(ContactSheetError::Empty);
    }
    let largest = rows
        .iter()
        .flat_map(|row| &row.images)
        .map(|image| image.width().max(image.height()))
        .max()
        .unwrap_or(1)
        .max(1);
    let cell = if largest < CELL { largest * CELL.div_ceil(largest) } else { largest.min(2 * CELL) };
    let label_width = rows.iter().map(|row| text_width(&row.label)).max().unwrap_or(0);
    let left = GAP + label_width + 2 * GAP;
    let mut sheet = RgbImage::from_pixel(left + columns * (cell + GAP), GAP + rows.len() as u32 * (cell + GAP), PAPER);
    for (line, row) in rows.iter().enumerate() {
        let top = GAP + line as u32 * (cell + GAP);
        write_text(&mut sheet, GAP, top + (cell - glyph::HEIGHT * DOT) / 2, &row.label);
        for (column, image) in row.images.iter().enumerate() {
            let filter = if largest < CELL { FilterType::Nearest } else { FilterType::Triangle };
            let scaled = imageops::resize(image, cell, cell, filter);
            imageops::replace(&mut sheet, &scaled, i64::from(left + column as u32 * (cell + GAP)), i64::from(top));
        }
    }
    Ok(sheet)
}

/// Draws the rows and writes them as a PNG.
pub fn write(rows: &[Row], path: &Path) -> Result<(), ContactSheetError> {
    draw(rows)?
        .save_with_format(path, ImageFormat::Png)
        .map_err(|source| ContactSheetError::Write { path: path.to_owned(), source })
}

fn text_width(text: &str) -> u32 {
    text.chars().count() as u32 * (glyph::WIDTH + 1) * DOT
}

fn write_text(sheet: &mut RgbImage, left: u32, top: u32, text: &str) {
    for (place, character) in text.chars().enumerate() {
        let left = left + place as u32 * (glyph::WIDTH + 1) * DOT;
        for (y, row) in glyph::rows(character).into_iter().enumerate() {
            for x in (0..glyph::WIDTH).filter(|x| row >> (glyph::WIDTH - 1 - x) & 1 == 1) {
                for (dx, dy) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
                    sheet.put_pixel(left + x * DOT + dx, top + y as u32 * DOT + dy, INK);
                }
            }
        }
    }
}
