//! Arrays of numbers as NumPy stores them.

use super::error::Problem;
use half::f16;
use std::ops::Range;

/// What the elements are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Bool,
    Signed,
    Unsigned,
    Float,
}

/// NumPy's type of an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Type {
    pub kind: Kind,
    /// Bytes of an element.
    pub width: usize,
    pub is_big_endian: bool,
}

impl Type {
    /// From NumPy's code, for example `<f4`, or `f4` with `<` told otherwise.
    pub fn parse(code: &str) -> Option<Self> {
        let (order, code) = match code.as_bytes().first()? {
            b'<' | b'>' | b'|' | b'=' => code.split_at(1),
            _ => ("<", code),
        };
        let kind = match code.as_bytes().first()? {
            b'b' => Kind::Bool,
            b'i' => Kind::Signed,
            b'u' => Kind::Unsigned,
            b'f' => Kind::Float,
            _ => return None,
        };
        let width = code.get(1..)?.parse().ok()?;
        let known = match kind {
            Kind::Bool => width == 1,
            Kind::Signed | Kind::Unsigned => [1, 2, 4, 8].contains(&width),
            Kind::Float => [2, 4, 8].contains(&width),
        };
        known.then_some(Self { kind, width, is_big_endian: order == ">" })
    }

    /// In words.
    fn name(self) -> String {
        match self.kind {
            Kind::Bool => "booleans".to_owned(),
            Kind::Signed | Kind::Unsigned => format!("integers of {} bits", 8 * self.width),
            Kind::Float => format!("floats of {} bits", 8 * self.width),
        }
    }
}

/// An array, the last axis fastest, little-endian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Array {
    pub shape: Vec<usize>,
    of: Type,
    bytes: Vec<u8>,
}

impl Array {
    /// The array of `shape` in `bytes`, whose first axis is the fastest if `is_fortran`.
    ///
    /// # Errors
    /// The bytes are more or fewer than the shape says.
    pub fn new(of: Type, shape: Vec<usize>, is_fortran: bool, mut bytes: Vec<u8>) -> Result<Self, Problem> {
        let length = shape.iter().try_fold(of.width, |product, &length| product.checked_mul(length));
        if length != Some(bytes.len()) {
            let expected = length.map_or("less than fits into memory".to_owned(), |length| length.to_string());
            return Err(Problem::unexpected(
                format!("{} bytes of elements", bytes.len()),
                format!("{expected} for the shape {shape:?}; is it truncated?"),
            ));
        }
        if of.is_big_endian {
            bytes.chunks_exact_mut(of.width).for_each(<[u8]>::reverse);
        }
        if is_fortran && shape.len() > 1 {
            bytes = row_major(&bytes, of.width, &shape);
        }
        Ok(Self { shape, of: Type { is_big_endian: false, ..of }, bytes })
    }

    pub fn kind(&self) -> Kind {
        self.of.kind
    }

    pub fn len(&self) -> usize {
        self.bytes.len() / self.of.width
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What it is, for messages: type and shape.
    pub fn describe(&self) -> String {
        format!("{} of shape {:?}", self.of.name(), self.shape)
    }

    /// All elements; large integers lose their last digits.
    pub fn floats(&self) -> Vec<f64> {
        self.floats_in(0..self.len())
    }

    /// The elements of these numbers, as [`Array::floats`].
    ///
    /// # Panics
    /// If there are fewer.
    pub fn floats_in(&self, elements: Range<usize>) -> Vec<f64> {
        fn each<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f64) -> Vec<f64> {
            bytes.as_chunks::<N>().0.iter().map(|&word| value(word)).collect()
        }
        let bytes = &self.bytes[elements.start * self.of.width..elements.end * self.of.width];
        match (self.of.kind, self.of.width) {
            (Kind::Float, 2) => each(bytes, |word| f16::from_le_bytes(word).into()),
            (Kind::Float, 4) => each(bytes, |word| f32::from_le_bytes(word).into()),
            (Kind::Float, _) => each(bytes, f64::from_le_bytes),
            (Kind::Signed, 1) => each(bytes, |[byte]| f64::from(byte as i8)),
            (Kind::Signed, 2) => each(bytes, |word| i16::from_le_bytes(word).into()),
            (Kind::Signed, 4) => each(bytes, |word| i32::from_le_bytes(word).into()),
            (Kind::Signed, _) => each(bytes, |word| i64::from_le_bytes(word) as f64),
            (Kind::Unsigned, 2) => each(bytes, |word| u16::from_le_bytes(word).into()),
            (Kind::Unsigned, 4) => each(bytes, |word| u32::from_le_bytes(word).into()),
            (Kind::Unsigned, 8) => each(bytes, |word| u64::from_le_bytes(word) as f64),
            (Kind::Bool | Kind::Unsigned, _) => each(bytes, |[byte]| byte.into()),
        }
    }

    /// All elements, or the first that is no number of 0, 1, 2, …
    pub fn indices(&self) -> Result<Vec<usize>, f64> {
        let index = |value: f64| match value.fract() == 0.0 && (0.0..9e15).contains(&value) {
            true => Ok(value as usize),
            false => Err(value),
        };
        self.floats().into_iter().map(index).collect()
    }

    /// The elements if they are single bytes.
    pub fn bytes(&self) -> Option<&[u8]> {
        (self.of.kind == Kind::Unsigned && self.of.width == 1).then_some(&self.bytes)
    }
}

/// The elements of an array whose first axis is the fastest in the order in which the last one is.
fn row_major(bytes: &[u8], width: usize, shape: &[usize]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = vec![0; shape.len()];
    for _ in 0..bytes.len() / width {
        let at = index.iter().zip(shape).rev().fold(0, |at, (index, length)| at * length + index) * width;
        out.extend_from_slice(&bytes[at..at + width]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            if index[axis] < shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    out
}
