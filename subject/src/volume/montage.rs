//! A volume as a picture: its axial slices side by side, with a legend. The colours of real numbers are Green's cubehelix (2011, Bulletin
//! of the Astronomical Society of India 39), whose brightness grows with the value, so that it also reads in print.

use super::digits;
use super::{Grid, VolumeError};
use crate::image::{ImageError, RgbImage8};

type Rgb = [u8; 3];

/// Pixels between slices and around them.
const GAP: usize = 4;
/// A slice is drawn at least this wide, by whole pixels a voxel.
const SLICE_WIDTH: usize = 80;
/// Height of the legend's colours.
const LEGEND: usize = 12;
const PAPER: Rgb = [0; 3];
const INK: Rgb = [255; 3];

/// How to draw a volume. Slices run from the lowest to the highest, left is left and anterior is up as far as the axes of the grid tell;
/// slices with nothing to show are left out.
#[derive(Debug, Clone, Copy)]
pub struct Montage<'a> {
    pub grid: &'a Grid,
    /// What is drawn in grey where a voxel has no value: the whole volume in C order.
    pub anatomy: Option<&'a [f32]>,
}

/// A legend's entry: colours from left to right, a number at its left and perhaps one at its right end.
struct Entry {
    colours: Vec<Rgb>,
    left: String,
    right: String,
}

impl Montage<'_> {
    /// A map of real numbers, NaN where there is none; `range` are the values at both ends of the colours, those of the map if
    /// left out.
    ///
    /// # Errors
    /// The values are not the grid's.
    pub fn map(&self, values: &[f32], range: Option<[f32; 2]>) -> Result<RgbImage8, MontageError> {
        self.check(values.len())?;
        let finite = || values.iter().copied().filter(|value| value.is_finite());
        let [low, high] =
            range.unwrap_or_else(|| [finite().fold(f32::NAN, f32::min), finite().fold(f32::NAN, f32::max)]);
        let scale = if high > low { 1.0 / (high - low) } else { 0.0 };
        let shown = |voxel: usize| {
            values[voxel].is_finite().then(|| cubehelix(f64::from(((values[voxel] - low) * scale).clamp(0.0, 1.0))))
        };
        let colours = (0..128).map(|at| cubehelix(f64::from(at) / 127.0)).collect();
        let legend =
            if low.is_nan() { Vec::new() } else { vec![Entry { colours, left: number(low), right: number(high) }] };
        self.draw(&shown, &legend)
    }

    /// A map of labels, 0 where there is none: every label in a colour of its own.
    ///
    /// # Errors
    /// The labels are not the grid's.
    pub fn labels(&self, labels: &[i16]) -> Result<RgbImage8, MontageError> {
        self.check(labels.len())?;
        let mut present: Vec<i16> = labels.iter().copied().filter(|&label| label > 0).collect();
        present.sort_unstable();
        present.dedup();
        let legend: Vec<_> = present
            .into_iter()
            .map(|label| Entry {
                colours: vec![label_colour(label); LEGEND],
                left: label.to_string(),
                right: String::new(),
            })
            .collect();
        self.draw(&|voxel| (labels[voxel] > 0).then(|| label_colour(labels[voxel])), &legend)
    }

    fn check(&self, found: usize) -> Result<(), MontageError> {
        let shape = self.grid.shape();
        for found in [found, self.anatomy.map_or(found, <[f32]>::len)] {
            if found != self.grid.voxels() {
                return Err(VolumeError::Length { shape, found }.into());
            }
        }
        Ok(())
    }

    fn draw(&self, shown: &dyn Fn(usize) -> Option<Rgb>, legend: &[Entry]) -> Result<RgbImage8, MontageError> {
        let [x, y, z] = self.grid.shape();
        let at = |i: usize, j: usize, k: usize| (i * y + j) * z + k;
        let mut slices: Vec<usize> =
            (0..z).filter(|&k| (0..x).any(|i| (0..y).any(|j| shown(at(i, j, k)).is_some()))).collect();
        if slices.is_empty() {
            slices.push(z / 2);
        }
        let affine = self.grid.affine();
        let (flip_x, flip_y) = (affine[0][0] < 0.0, affine[1][1] >= 0.0);
        if affine[2][2] < 0.0 {
            slices.reverse();
        }

        let scale = SLICE_WIDTH.div_ceil(x.max(y));
        let (width, height) = (scale * x + GAP, scale * y + GAP);
        let columns = (1..slices.len()).find(|&columns| columns * width >= slices.len().div_ceil(columns) * height);
        let columns = columns.unwrap_or(slices.len());
        let entries: Vec<usize> = legend.iter().map(Entry::width).collect();
        let page = (GAP + columns * width).max(GAP + entries.iter().copied().max().unwrap_or(0));
        let mut places = Vec::with_capacity(entries.len());
        let (mut left, mut top) = (GAP, GAP + slices.len().div_ceil(columns) * height);
        for entry in entries {
            if left > GAP && left + entry > page {
                (left, top) = (GAP, top + LEGEND + GAP);
            }
            places.push((left, top));
            left += entry;
        }
        let mut sheet = Sheet::new(page, top + LEGEND + GAP);

        let anatomy = self.anatomy.map(Grey::new);
        for (place, &k) in slices.iter().enumerate() {
            let (left, top) = (GAP + place % columns * width, GAP + place / columns * height);
            for i in 0..x {
                for j in 0..y {
                    let voxel = at(i, j, k);
                    let colour = shown(voxel).or_else(|| Some(anatomy.as_ref()?.colour(voxel)));
                    let (column, row) = (if flip_x { x - 1 - i } else { i }, if flip_y { y - 1 - j } else { j });
                    if let Some(colour) = colour {
                        sheet.fill(left + scale * column, top + scale * row, [scale, scale], colour);
                    }
                }
            }
        }
        for (entry, (left, top)) in legend.iter().zip(places) {
            entry.draw(&mut sheet, left, top);
        }
        Ok(RgbImage8::new(sheet.width, sheet.pixels.len() / sheet.width, sheet.pixels.into_flattened())?)
    }
}

/// Why a volume can't be drawn.
#[derive(Debug, thiserror::Error)]
pub enum MontageError {
    #[error(transparent)]
    Volume(#[from] VolumeError),
    #[error(transparent)]
    Image(#[from] ImageError),
}

impl Entry {
    /// With the space up to the next.
    fn width(&self) -> usize {
        digits::width(&self.left) + self.colours.len() + digits::width(&self.right) + 5 * GAP
    }

    fn draw(&self, sheet: &mut Sheet, left: usize, top: usize) {
        let baseline = top + (LEGEND - digits::HEIGHT) / 2;
        sheet.write(left, baseline, &self.left);
        let left = left + digits::width(&self.left) + GAP;
        for (column, &colour) in self.colours.iter().enumerate() {
            sheet.fill(left + column, top, [1, LEGEND], colour);
        }
        sheet.write(left + self.colours.len() + GAP, baseline, &self.right);
    }
}

struct Sheet {
    width: usize,
    pixels: Vec<Rgb>,
}

impl Sheet {
    fn new(width: usize, height: usize) -> Self {
        Self { width, pixels: vec![PAPER; width * height] }
    }

    fn fill(&mut self, left: usize, top: usize, [width, height]: [usize; 2], colour: Rgb) {
        for row in top..top + height {
            self.pixels[row * self.width + left..][..width].fill(colour);
        }
    }

    fn write(&mut self, left: usize, top: usize, number: &str) {
        for (column, row) in digits::pixels(number) {
            self.fill(left + column, top + row, [1, 1], INK);
        }
    }
}

/// The anatomy in shades of grey, dark enough for colours to stand out.
struct Grey<'a> {
    values: &'a [f32],
    low: f32,
    scale: f32,
}

impl<'a> Grey<'a> {
    fn new(values: &'a [f32]) -> Self {
        let finite = || values.iter().copied().filter(|value| value.is_finite());
        let (low, high) = (finite().fold(f32::NAN, f32::min), finite().fold(f32::NAN, f32::max));
        Self { values, low, scale: if high > low { 110.0 / (high - low) } else { 0.0 } }
    }

    fn colour(&self, voxel: usize) -> Rgb {
        // NaN becomes 0.
        [((self.values[voxel] - self.low) * self.scale) as u8; 3]
    }
}

/// Cubehelix from start 0.5 by −1.5 rotations with full hue (Green 2011, equation 2), without its darkest fifth, which is lost on black.
fn cubehelix(value: f64) -> Rgb {
    let lightness = 0.2 + 0.8 * value;
    let angle = std::f64::consts::TAU * (0.5 / 3.0 + 1.0 - 1.5 * lightness);
    let amplitude = lightness * (1.0 - lightness) / 2.0;
    let (sine, cosine) = angle.sin_cos();
    [(-0.14861, 1.78277), (-0.29227, -0.90649), (1.97294, 0.0)].map(|(of_cosine, of_sine)| {
        (255.0 * (lightness + amplitude * (of_cosine * cosine + of_sine * sine))).clamp(0.0, 255.0).round() as u8
    })
}

/// Hues a golden angle apart: labels that follow each other differ most, and no two are equal.
fn label_colour(label: i16) -> Rgb {
    let hue = (f64::from(label) * 137.508).rem_euclid(360.0) / 60.0;
    [5.0, 3.0, 1.0].map(|channel: f64| {
        let k = (channel + hue).rem_euclid(6.0);
        (255.0 * (1.0 - 0.75 * k.min(4.0 - k).clamp(0.0, 1.0))).round() as u8
    })
}

/// Three significant digits, as short as they can be.
fn number(value: f32) -> String {
    let value = f64::from(value);
    if value != 0.0 && !(1e-3..1e5).contains(&value.abs()) {
        return format!("{value:.1e}");
    }
    let whole = value.abs().max(1.0).log10() as usize;
    let text = format!("{value:.*}", 2usize.saturating_sub(whole));
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(x_direction: f32) -> Grid {
        Grid::new([3, 4, 2], [[x_direction, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0], [0.0, 0.0, 2.0, 0.0]]).unwrap()
    }

    fn pixel(image: &RgbImage8, x: usize, y: usize) -> Rgb {
        let at = 3 * (y * image.width() + x);
        [image.pixels()[at], image.pixels()[at + 1], image.pixels()[at + 2]]
    }

    #[test]
    fn left_is_left_and_anterior_is_up() {
        for (direction, column) in [(2.0, 0), (-2.0, 2)] {
            let grid = grid(direction);
            let mut labels = vec![0; 24];
            labels[grid.position([0, 3, 1]).unwrap()] = 5;
            let image = Montage { grid: &grid, anatomy: None }.labels(&labels).unwrap();
            let scale = SLICE_WIDTH.div_ceil(4);
            // One slice has something to show, and the voxel is the topmost of its column.
            assert_eq!(pixel(&image, GAP + scale * column, GAP), label_colour(5), "{direction}");
            let coloured = image.pixels().as_chunks::<3>().0.iter().filter(|pixel| **pixel == label_colour(5)).count();
            assert_eq!(coloured, scale * scale + LEGEND * LEGEND);
        }
    }

    #[test]
    fn a_larger_value_is_brighter_and_voxels_without_a_value_show_the_anatomy() {
        let brightness = |colour: Rgb| {
            colour.iter().zip([0.30, 0.59, 0.11]).map(|(&channel, weight)| weight * f64::from(channel)).sum::<f64>()
        };
        let bar: Vec<f64> = (0..=64).map(|at| brightness(cubehelix(f64::from(at) / 64.0))).collect();
        assert!(bar.is_sorted(), "{bar:?}");

        let grid = grid(2.0);
        let mut values = vec![f32::NAN; 24];
        values[0] = -1.0;
        values[2] = 3.0;
        let anatomy: Vec<f32> = (0..24).map(|voxel| voxel as f32).collect();
        let image = Montage { grid: &grid, anatomy: Some(&anatomy) }.map(&values, None).unwrap();
        let scale = SLICE_WIDTH.div_ceil(4);
        assert_eq!(pixel(&image, GAP, GAP + 3 * scale), cubehelix(0.0));
        assert_eq!(pixel(&image, GAP, GAP + 2 * scale), cubehelix(1.0));
        assert_eq!(pixel(&image, GAP + 2 * scale, GAP), [(22.0f32 * 110.0 / 23.0) as u8; 3]);
    }

    #[test]
    fn labels_have_colours_of_their_own_and_a_map_without_values_is_drawn() {
        let mut colours: Vec<Rgb> = (1..=180).map(label_colour).collect();
        colours.sort_unstable();
        colours.dedup();
        assert_eq!(colours.len(), 180);
        let grid = grid(2.0);
        let montage = Montage { grid: &grid, anatomy: None };
        montage.map(&[f32::NAN; 24], None).unwrap();
        let error = montage.map(&[0.0; 23], None).unwrap_err();
        assert!(error.to_string().contains("24 voxels, 23 values"), "{error}");
    }

    #[test]
    fn numbers_are_short() {
        let numbers = [0.0, 1.0, -0.25, 12.345, 130.0, 0.00012, 1e7, 99.96].map(number);
        assert_eq!(numbers, ["0", "1", "-0.25", "12.3", "130", "1.2e-4", "1.0e7", "100"]);
    }
}
