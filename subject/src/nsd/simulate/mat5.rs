//! Writing MAT files of version 5 as MATLAB does with `-v7`: every variable compressed, doubles stored in the smallest integer type
//! that holds them (MathWorks, MAT-File Format, 2023, chapter 1).

use flate2::Compression;
use flate2::write::ZlibEncoder;
use std::io::{self, Write};
use std::path::Path;

const INT8: u32 = 1;
const UINT8: u32 = 2;
const UINT16: u32 = 4;
const INT32: u32 = 5;
const UINT32: u32 = 6;
const MATRIX: u32 = 14;
const COMPRESSED: u32 = 15;
const DOUBLE_CLASS: u32 = 6;

/// A numeric variable of class double whose values are whole numbers.
#[derive(Debug)]
pub struct Variable {
    pub name: &'static str,
    /// Fastest axis first.
    pub shape: Vec<usize>,
    pub values: Vec<u32>,
}

/// Writes `variables` to the file `path`.
pub fn write(path: &Path, variables: &[Variable]) -> io::Result<()> {
    let mut file = format!("{:124}", "MATLAB 5.0 MAT-file, simulated").into_bytes();
    file.extend([0x00, 0x01]);
    file.extend(b"IM");
    for variable in variables {
        let mut packed = ZlibEncoder::new(Vec::new(), Compression::default());
        packed.write_all(&matrix(variable))?;
        let packed = packed.finish()?;
        file.extend([COMPRESSED, packed.len() as u32].iter().flat_map(|word| word.to_le_bytes()));
        file.extend(packed);
    }
    std::fs::write(path, file)
}

fn matrix(variable: &Variable) -> Vec<u8> {
    let words = |values: &[u32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
    let shape: Vec<u32> = variable.shape.iter().map(|&length| length as u32).collect();
    let (kind, data) = match variable.values.iter().max().copied().unwrap_or(0) {
        0..=0xff => (UINT8, variable.values.iter().map(|&value| value as u8).collect()),
        0x100..=0xffff => (UINT16, variable.values.iter().flat_map(|&value| (value as u16).to_le_bytes()).collect()),
        _ => (INT32, words(&variable.values)),
    };
    let mut body = Vec::new();
    element(&mut body, UINT32, &words(&[DOUBLE_CLASS, 0]));
    element(&mut body, INT32, &words(&shape));
    element(&mut body, INT8, variable.name.as_bytes());
    element(&mut body, kind, &data);
    let mut matrix = words(&[MATRIX, body.len() as u32]);
    matrix.extend(body);
    matrix
}

/// Appends a data element, in the small format where its data fit into four bytes, padded to eight bytes.
fn element(body: &mut Vec<u8>, kind: u32, data: &[u8]) {
    match data.len() {
        length @ 1..=4 => body.extend((kind | (length as u32) << 16).to_le_bytes()),
        length => body.extend([kind, length as u32].iter().flat_map(|word| word.to_le_bytes())),
    }
    body.extend(data);
    body.resize(body.len().next_multiple_of(8), 0);
}
