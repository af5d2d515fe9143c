//! Numeric arrays of MATLAB's MAT-files of level 5 (versions 5 to 7, "MAT-File Format", MathWorks R2023b), plain and compressed. Arrays of
//! other classes (text, cells, structures, sparse) are passed over.

use super::NsdError;
use flate2::read::ZlibDecoder;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

const HEADER: usize = 128;
const MI_COMPRESSED: u32 = 15;
const MI_MATRIX: u32 = 14;
/// Classes mxDOUBLE to mxUINT64 hold numbers.
const NUMERIC_CLASSES: std::ops::RangeInclusive<u8> = 6..=15;
/// What a compressed array may unpack to.
const MOST_BYTES: u64 = 1 << 30;

/// A numeric array. As in MATLAB the first index runs fastest.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    pub shape: Vec<usize>,
    /// MATLAB stores whole numbers in the smallest integer that holds them, whatever the array's class.
    pub values: Vec<f64>,
}

/// Why bytes are no MAT-file.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Mat5Error {
    #[error("it is shorter than a header of {HEADER} bytes or not of version 5 to 7 (`save` without -v7.3)")]
    Header,
    #[error("at byte {at} {needed} more bytes are announced, {left} are left: it is truncated")]
    Truncated { at: usize, needed: usize, left: usize },
    #[error("the compressed array at byte {at} does not unpack")]
    Packed { at: usize },
    #[error("the array at byte {at} is malformed: {what}")]
    Malformed { at: usize, what: &'static str },
}

/// All numeric arrays of the file at `path`, by name.
///
/// # Errors
/// The file can't be read or is malformed, or is of version 7.3, which is HDF5.
pub fn read(path: &Path) -> Result<BTreeMap<String, Array>, NsdError> {
    let bytes = std::fs::read(path).map_err(|source| NsdError::Read { path: path.to_owned(), source })?;
    parse(&bytes).map_err(|source| NsdError::Mat5 { path: path.to_owned(), source })
}

/// All numeric arrays of a file, by name.
///
/// # Errors
/// The bytes are no MAT-file of level 5.
pub fn parse(bytes: &[u8]) -> Result<BTreeMap<String, Array>, Mat5Error> {
    let header = bytes.first_chunk::<HEADER>().ok_or(Mat5Error::Header)?;
    let order = match &header[124..] {
        [0, 1, b'I', b'M'] => Order::Little,
        [1, 0, b'M', b'I'] => Order::Big,
        _ => return Err(Mat5Error::Header),
    };
    let mut arrays = BTreeMap::new();
    let mut elements = Elements { bytes, at: HEADER, order };
    while let Some(element) = elements.next()? {
        let unpacked;
        let matrix = match element.kind {
            MI_MATRIX => element.data,
            MI_COMPRESSED => {
                unpacked = unpack(element.data).ok_or(Mat5Error::Packed { at: element.at })?;
                let mut inside = Elements { bytes: &unpacked, at: 0, order };
                match inside.next()? {
                    Some(Element { kind: MI_MATRIX, data, .. }) => data,
                    _ => continue,
                }
            }
            _ => continue,
        };
        let malformed = |what| Mat5Error::Malformed { at: element.at, what };
        if let Some((name, array)) = numeric(matrix, order, malformed)? {
            arrays.insert(name, array);
        }
    }
    Ok(arrays)
}

fn unpack(packed: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    ZlibDecoder::new(packed).take(MOST_BYTES).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Name and content of a matrix element; `None` if it is not of a real numeric class.
fn numeric(
    matrix: &[u8],
    order: Order,
    malformed: impl Fn(&'static str) -> Mat5Error,
) -> Result<Option<(String, Array)>, Mat5Error> {
    let mut parts = Elements { bytes: matrix, at: 0, order };
    let mut part = |what| parts.next()?.ok_or_else(|| malformed(what));
    let flags = part("it has no flags")?;
    let Some(flags) = flags.data.first_chunk::<4>() else { return Err(malformed("it has no flags")) };
    let flags = order.u32(*flags);
    let (class, complex) = (flags as u8, flags & 0x800 != 0);
    if !NUMERIC_CLASSES.contains(&class) || complex {
        return Ok(None);
    }
    let shape: Vec<usize> =
        part("it has no dimensions")?.numbers(order, &malformed)?.map(|side| side as usize).collect();
    let name = String::from_utf8_lossy(part("it has no name")?.data).into_owned();
    let values: Vec<f64> = part("it has no values")?.numbers(order, &malformed)?.collect();
    let expected = shape.iter().try_fold(1usize, |all, &side| all.checked_mul(side));
    match expected == Some(values.len()) {
        true => Ok(Some((name, Array { shape, values }))),
        false => Err(malformed("its dimensions do not multiply to the number of its values")),
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Order {
    Little,
    Big,
}

impl Order {
    fn u32(self, bytes: [u8; 4]) -> u32 {
        match self {
            Self::Little => u32::from_le_bytes(bytes),
            Self::Big => u32::from_be_bytes(bytes),
        }
    }
}

/// A tagged piece of the file.
#[derive(Debug)]
struct Element<'a> {
    at: usize,
    kind: u32,
    data: &'a [u8],
}

struct Elements<'a> {
    bytes: &'a [u8],
    at: usize,
    order: Order,
}

impl<'a> Elements<'a> {
    fn next(&mut self) -> Result<Option<Element<'a>>, Mat5Error> {
        let at = self.at;
        let Some(tag) = self.bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) else { return Ok(None) };
        let [first, second] = [[tag[0], tag[1], tag[2], tag[3]], [tag[4], tag[5], tag[6], tag[7]]];
        let word = self.order.u32(first);
        // A small element has its length in the upper half of the first word and its data in the second.
        let (kind, start, length, end) = match word >> 16 {
            0 => {
                let length = self.order.u32(second) as usize;
                let padding = if word == MI_COMPRESSED { 0 } else { length.wrapping_neg() % 8 };
                (word, at + 8, length, at.saturating_add(8).saturating_add(length).saturating_add(padding))
            }
            length => (word & 0xffff, at + 4, (length as usize).min(4), at + 8),
        };
        let left = self.bytes.len() - start;
        let data = self.bytes.get(start..start.saturating_add(length)).ok_or(Mat5Error::Truncated {
            at,
            needed: length,
            left,
        })?;
        self.at = end.min(self.bytes.len());
        Ok(Some(Element { at, kind, data }))
    }
}

impl<'a> Element<'a> {
    /// The data as numbers, whatever they are stored as.
    fn numbers(
        &self,
        order: Order,
        malformed: &impl Fn(&'static str) -> Mat5Error,
    ) -> Result<Box<dyn Iterator<Item = f64> + 'a>, Mat5Error> {
        macro_rules! numbers {
            ($number:ty) => {{
                let (values, rest) = self.data.as_chunks::<{ size_of::<$number>() }>();
                if !rest.is_empty() {
                    return Err(malformed("its values do not fill its bytes"));
                }
                Box::new(values.iter().map(move |bytes| match order {
                    Order::Little => <$number>::from_le_bytes(*bytes) as f64,
                    Order::Big => <$number>::from_be_bytes(*bytes) as f64,
                }))
            }};
        }
        Ok(match self.kind {
            1 => numbers!(i8),
            2 => numbers!(u8),
            3 => numbers!(i16),
            4 => numbers!(u16),
            5 => numbers!(i32),
            6 => numbers!(u32),
            7 => numbers!(f32),
            9 => numbers!(f64),
            12 => numbers!(i64),
            13 => numbers!(u64),
            _ => return Err(malformed("its numbers are stored as no known type")),
        })
    }
}
