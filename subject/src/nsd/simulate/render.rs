//! Small pictures of faces, bodies, places, words and food, drawn from a seed.

use crate::image::{ImageError, RgbImage8};
use crate::random::Random;
use std::f64::consts::TAU;

/// What a picture shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Category {
    Faces,
    Bodies,
    Places,
    Words,
    Food,
}

impl Category {
    pub const ALL: [Self; 5] = [Self::Faces, Self::Bodies, Self::Places, Self::Words, Self::Food];

    /// What image number `image` shows.
    pub fn of(image: usize, seed: u64) -> Self {
        Self::ALL[Random::new(seed, &[3, image as u64]).below(Self::ALL.len())]
    }
}

/// A picture of `side` × `side` pixels.
pub fn draw(category: Category, image: usize, side: usize, seed: u64) -> Result<RgbImage8, ImageError> {
    let mut random = Random::new(seed, &[4, image as u64]);
    // Small pictures are drawn larger and averaged, so that edges are smooth.
    let fine = if side < 128 { 3 } else { 1 };
    let mut canvas = Canvas { side: side * fine, pixels: vec![[0.0; 3]; (side * fine).pow(2)] };
    match category {
        Category::Faces => face(&mut canvas, &mut random),
        Category::Bodies => body(&mut canvas, &mut random),
        Category::Places => place(&mut canvas, &mut random),
        Category::Words => words(&mut canvas, &mut random),
        Category::Food => food(&mut canvas, &mut random),
    }
    RgbImage8::new(side, side, canvas.average(side, fine))
}

type Colour = [f64; 3];

/// Pixels; places on it are in 0..1 from the left and the top.
struct Canvas {
    side: usize,
    pixels: Vec<Colour>,
}

impl Canvas {
    fn paint(&mut self, colour: Colour, inside: impl Fn(f64, f64) -> bool) {
        let side = self.side as f64;
        for (at, pixel) in self.pixels.iter_mut().enumerate() {
            let (x, y) = ((at % self.side) as f64 + 0.5, (at / self.side) as f64 + 0.5);
            if inside(x / side, y / side) {
                *pixel = colour;
            }
        }
    }

    fn ellipse(&mut self, colour: Colour, [x, y]: [f64; 2], [a, b]: [f64; 2]) {
        self.paint(colour, |px, py| ((px - x) / a).powi(2) + ((py - y) / b).powi(2) <= 1.0);
    }

    fn rectangle(&mut self, colour: Colour, [left, top]: [f64; 2], [right, bottom]: [f64; 2]) {
        self.paint(colour, |x, y| (left..right).contains(&x) && (top..bottom).contains(&y));
    }

    /// A roof or a tree: its tip, and how far its base reaches.
    fn triangle(&mut self, colour: Colour, [x, top]: [f64; 2], half_width: f64, bottom: f64) {
        self.paint(colour, |px, py| {
            (top..bottom).contains(&py) && (px - x).abs() <= half_width * (py - top) / (bottom - top)
        });
    }

    /// A line with round ends.
    fn limb(&mut self, colour: Colour, from: [f64; 2], to: [f64; 2], thickness: f64) {
        let [dx, dy] = [to[0] - from[0], to[1] - from[1]];
        let length = dx * dx + dy * dy;
        self.paint(colour, |x, y| {
            let t = (((x - from[0]) * dx + (y - from[1]) * dy) / length).clamp(0.0, 1.0);
            (x - from[0] - t * dx).powi(2) + (y - from[1] - t * dy).powi(2) <= thickness * thickness
        });
    }

    /// 8-bit pixels, each the mean of `fine` × `fine`.
    fn average(&self, side: usize, fine: usize) -> Vec<u8> {
        let mut pixels = Vec::with_capacity(3 * side * side);
        for at in 0..side * side {
            let (x, y) = (at % side * fine, at / side * fine);
            for channel in 0..3 {
                let near = (0..fine * fine).map(|i| self.pixels[(y + i / fine) * self.side + x + i % fine][channel]);
                pixels.push((255.0 * near.sum::<f64>() / (fine * fine) as f64).round() as u8);
            }
        }
        pixels
    }
}

/// Hue, saturation and value in 0..1.
fn hsv(hue: f64, saturation: f64, value: f64) -> Colour {
    let channel = |offset: f64| {
        let k = (offset + hue.rem_euclid(1.0) * 6.0) % 6.0;
        value - value * saturation * k.min(4.0 - k).clamp(0.0, 1.0)
    };
    [channel(5.0), channel(3.0), channel(1.0)]
}

fn backdrop(canvas: &mut Canvas, random: &mut Random) {
    let colour = hsv(random.uniform(0.0, 1.0), random.uniform(0.0, 0.45), random.uniform(0.7, 1.0));
    canvas.paint(colour, |_, _| true);
}

fn skin(random: &mut Random) -> Colour {
    hsv(random.uniform(0.05, 0.1), random.uniform(0.3, 0.6), random.uniform(0.45, 0.98))
}

fn face(canvas: &mut Canvas, random: &mut Random) {
    backdrop(canvas, random);
    let [x, y] = [random.uniform(0.46, 0.54), random.uniform(0.48, 0.56)];
    let size = random.uniform(0.34, 0.44);
    let hair = hsv(random.uniform(0.0, 0.15), random.uniform(0.2, 0.7), random.uniform(0.05, 0.6));
    canvas.ellipse(hair, [x, y - 0.3 * size], [0.95 * size, 0.95 * size]);
    canvas.ellipse(skin(random), [x, y], [0.8 * size, size]);
    let (gap, eye) = (random.uniform(0.3, 0.4) * size, random.uniform(0.1, 0.16) * size);
    for side in [-1.0, 1.0] {
        let at = [x + side * gap, y - 0.15 * size];
        canvas.ellipse([1.0; 3], at, [1.5 * eye, eye]);
        canvas.ellipse([0.08, 0.06, 0.05], at, [0.7 * eye, 0.8 * eye]);
    }
    let mouth = hsv(0.98, 0.6, random.uniform(0.4, 0.8));
    canvas.ellipse(mouth, [x, y + 0.5 * size], [random.uniform(0.2, 0.4) * size, random.uniform(0.05, 0.16) * size]);
}

fn body(canvas: &mut Canvas, random: &mut Random) {
    backdrop(canvas, random);
    let x = random.uniform(0.42, 0.58);
    let skin = skin(random);
    let shirt = hsv(random.uniform(0.0, 1.0), random.uniform(0.4, 0.9), random.uniform(0.3, 0.9));
    let trousers = hsv(random.uniform(0.5, 0.75), random.uniform(0.1, 0.7), random.uniform(0.15, 0.6));
    for side in [-1.0, 1.0] {
        let foot = [x + side * random.uniform(0.06, 0.26), random.uniform(0.88, 0.96)];
        canvas.limb(trousers, [x + side * 0.06, 0.58], foot, 0.055);
        let hand = [x + side * random.uniform(0.2, 0.36), random.uniform(0.15, 0.65)];
        canvas.limb(skin, [x + side * 0.1, 0.3], hand, 0.04);
    }
    canvas.limb(shirt, [x, 0.34], [x, 0.56], 0.12);
    canvas.ellipse(skin, [x, 0.14], [0.075, 0.09]);
}

fn place(canvas: &mut Canvas, random: &mut Random) {
    let horizon = random.uniform(0.5, 0.72);
    let sky = hsv(random.uniform(0.53, 0.62), random.uniform(0.15, 0.65), random.uniform(0.75, 1.0));
    canvas.paint(sky, |_, _| true);
    let ground = hsv(random.uniform(0.2, 0.35), random.uniform(0.3, 0.7), random.uniform(0.4, 0.75));
    canvas.rectangle(ground, [0.0, horizon], [1.0, 1.0]);
    for _ in 0..random.below(3) {
        let hill = hsv(random.uniform(0.25, 0.6), 0.25, random.uniform(0.35, 0.65));
        let half_width = random.uniform(0.2, 0.45);
        let top = [random.uniform(0.0, 1.0), horizon - random.uniform(0.1, 0.35)];
        canvas.triangle(hill, top, half_width, horizon);
    }
    for _ in 0..random.below(3) {
        let (x, foot) = (random.uniform(0.1, 0.9), horizon + random.uniform(0.02, 0.2));
        canvas.rectangle(hsv(0.07, 0.6, 0.4), [x - 0.02, foot - 0.15], [x + 0.02, foot]);
        canvas.triangle(hsv(0.31, 0.65, random.uniform(0.3, 0.6)), [x, foot - 0.5], 0.13, foot - 0.1);
    }
    for _ in 0..1 + random.below(2) {
        let (x, foot) = (random.uniform(0.2, 0.8), horizon + random.uniform(0.05, 0.18));
        let [width, height] = [random.uniform(0.14, 0.26), random.uniform(0.22, 0.36)];
        let wall = hsv(random.uniform(0.0, 0.15), random.uniform(0.1, 0.5), random.uniform(0.7, 1.0));
        canvas.rectangle(wall, [x - width, foot - height], [x + width, foot]);
        let roof = hsv(random.uniform(0.0, 0.08), 0.65, random.uniform(0.35, 0.7));
        canvas.triangle(roof, [x, foot - height - 0.18], 1.2 * width, foot - height);
        canvas.rectangle(hsv(0.07, 0.6, 0.35), [x - 0.04, foot - 0.5 * height], [x + 0.04, foot]);
        for side in [-0.6, 0.6] {
            let left = x + side * width - 0.035;
            canvas.rectangle(hsv(0.55, 0.35, 0.75), [left, foot - 0.8 * height], [left + 0.07, foot - 0.5 * height]);
        }
    }
}

fn food(canvas: &mut Canvas, random: &mut Random) {
    backdrop(canvas, random);
    let (x, y) = (random.uniform(0.47, 0.53), random.uniform(0.47, 0.53));
    let plate = random.uniform(0.4, 0.48);
    canvas.ellipse([0.97; 3], [x, y], [plate, plate]);
    canvas.ellipse([0.88; 3], [x, y], [0.8 * plate, 0.8 * plate]);
    canvas.ellipse([0.95; 3], [x, y], [0.75 * plate, 0.75 * plate]);
    for _ in 0..4 + random.below(5) {
        let (angle, radius) = (random.uniform(0.0, TAU), random.uniform(0.0, 0.5) * plate);
        let hue = [0.0, 0.05, 0.09, 0.13, 0.28][random.below(5)];
        let colour = hsv(hue, random.uniform(0.6, 0.95), random.uniform(0.45, 0.95));
        let size = [random.uniform(0.08, 0.17), random.uniform(0.06, 0.14)];
        canvas.ellipse(colour, [x + radius * angle.cos(), y + radius * angle.sin()], size);
    }
}

/// Capitals of 5 × 7 dots, a row a number.
const LETTERS: [[u8; 7]; 12] = [
    [0x0e, 0x11, 0x11, 0x1f, 0x11, 0x11, 0x11], // A
    [0x1f, 0x10, 0x10, 0x1e, 0x10, 0x10, 0x1f], // E
    [0x11, 0x11, 0x11, 0x1f, 0x11, 0x11, 0x11], // H
    [0x0e, 0x04, 0x04, 0x04, 0x04, 0x04, 0x0e], // I
    [0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x1f], // L
    [0x11, 0x1b, 0x15, 0x15, 0x11, 0x11, 0x11], // M
    [0x11, 0x19, 0x15, 0x13, 0x11, 0x11, 0x11], // N
    [0x0e, 0x11, 0x11, 0x11, 0x11, 0x11, 0x0e], // O
    [0x1e, 0x11, 0x11, 0x1e, 0x14, 0x12, 0x11], // R
    [0x0f, 0x10, 0x10, 0x0e, 0x01, 0x01, 0x1e], // S
    [0x1f, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04], // T
    [0x11, 0x11, 0x0a, 0x04, 0x0a, 0x11, 0x11], // X
];

fn words(canvas: &mut Canvas, random: &mut Random) {
    let (paper, ink) = match random.below(4) {
        0 => (hsv(random.uniform(0.0, 1.0), 0.7, random.uniform(0.25, 0.55)), [0.98; 3]),
        _ => {
            let paper = hsv(random.uniform(0.0, 1.0), random.uniform(0.0, 0.2), random.uniform(0.88, 1.0));
            (paper, hsv(random.uniform(0.0, 1.0), random.uniform(0.0, 0.9), random.uniform(0.05, 0.35)))
        }
    };
    canvas.paint(paper, |_, _| true);
    let (lines, letters) = (1 + random.below(2), 1 + random.below(3));
    let dot = 0.9 / (6 * letters).max(9 * lines) as f64;
    let [left, top] = [6 * letters, 9 * lines].map(|dots| 0.5 - dot * dots as f64 / 2.0 + random.uniform(-0.03, 0.03));
    for line in 0..lines {
        for letter in 0..letters {
            let [x, y] = [left + dot * (6 * letter) as f64, top + dot * (9 * line + 1) as f64];
            let rows = LETTERS[random.below(LETTERS.len())];
            canvas.paint(ink, |px, py| {
                let (column, row) = ((px - x) / dot, (py - y) / dot);
                (0.0..5.0).contains(&column)
                    && (0.0..7.0).contains(&row)
                    && rows[row as usize] >> (4 - column as usize) & 1 == 1
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_repeat_and_differ() {
        for category in Category::ALL {
            let first = draw(category, 1, 32, 0).unwrap();
            assert_eq!(first, draw(category, 1, 32, 0).unwrap());
            assert_ne!(first, draw(category, 2, 32, 0).unwrap(), "{category:?}");
        }
    }
}
