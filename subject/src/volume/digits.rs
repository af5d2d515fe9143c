//! Digits of 5 × 7 pixels, for the numbers in a picture.

pub const WIDTH: usize = 5;
pub const HEIGHT: usize = 7;

/// Rows from the top; the leftmost pixel is the highest of five bits. What is no part of a number is blank.
fn rows(character: char) -> [u8; HEIGHT] {
    match character {
        '0' => [0b01110, 0b10001, 0b10011, 0b10101, 0b11001, 0b10001, 0b01110],
        '1' => [0b00100, 0b01100, 0b00100, 0b00100, 0b00100, 0b00100, 0b01110],
        '2' => [0b01110, 0b10001, 0b00001, 0b00110, 0b01000, 0b10000, 0b11111],
        '3' => [0b01110, 0b10001, 0b00001, 0b00110, 0b00001, 0b10001, 0b01110],
        '4' => [0b00010, 0b00110, 0b01010, 0b10010, 0b11111, 0b00010, 0b00010],
        '5' => [0b11111, 0b10000, 0b11110, 0b00001, 0b00001, 0b10001, 0b01110],
        '6' => [0b00110, 0b01000, 0b10000, 0b11110, 0b10001, 0b10001, 0b01110],
        '7' => [0b11111, 0b00001, 0b00010, 0b00100, 0b01000, 0b01000, 0b01000],
        '8' => [0b01110, 0b10001, 0b10001, 0b01110, 0b10001, 0b10001, 0b01110],
        '9' => [0b01110, 0b10001, 0b10001, 0b01111, 0b00001, 0b00010, 0b01100],
        '-' => [0, 0, 0, 0b11111, 0, 0, 0],
        '.' => [0, 0, 0, 0, 0, 0b01100, 0b01100],
        'e' => [0, 0, 0b01110, 0b10001, 0b11111, 0b10000, 0b01110],
        _ => [0; HEIGHT],
    }
}

/// Pixels (column, row) that a number covers; characters are a pixel apart.
pub fn pixels(number: &str) -> impl Iterator<Item = (usize, usize)> + '_ {
    number.chars().enumerate().flat_map(|(at, character)| {
        let rows = rows(character);
        let cells = (0..HEIGHT).flat_map(|row| (0..WIDTH).map(move |column| (column, row)));
        cells
            .filter(move |&(column, row)| rows[row] >> (WIDTH - 1 - column) & 1 == 1)
            .map(move |(column, row)| (at * (WIDTH + 1) + column, row))
    })
}

/// Pixels from the left end of a number to its right end.
pub fn width(number: &str) -> usize {
    (number.chars().count() * (WIDTH + 1)).saturating_sub(1)
}
