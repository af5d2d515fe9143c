//! Reading NumPy's `.npy` files, versions 1.0 to 3.0 (NumPy Enhancement Proposal 1).

use super::array::{Array, Type};
use super::error::{ImportError, Problem};
use std::path::Path;

const MAGIC: &[u8] = b"\x93NUMPY";

/// Reads the file `path`.
///
/// # Errors
/// It can't be read, is no NumPy file of numbers, or is truncated; the error names it.
pub fn read(path: &Path) -> Result<Array, ImportError> {
    let file = std::fs::read(path).map_err(|source| Problem::Read(source).of(path))?;
    parse(file).map_err(|problem| problem.of(path))
}

/// The array in the bytes of a file.
///
/// # Errors
/// As [`read`].
pub fn parse(mut file: Vec<u8>) -> Result<Array, Problem> {
    let (header, end) = header(&file)?;
    let (of, is_fortran, shape) = describe(header)?;
    file.drain(..end);
    Array::new(of, shape, is_fortran, file)
}

/// The pickle in the bytes of a file of Python objects.
///
/// # Errors
/// They are no NumPy file, or one of numbers.
pub fn pickle(file: &[u8]) -> Result<&[u8], Problem> {
    let (header, end) = header(file)?;
    match describe(header) {
        Err(Problem::Objects) => Ok(&file[end..]),
        Err(problem) => Err(problem),
        Ok(_) => Err(Problem::unexpected("an array of numbers", "a pickled dictionary, as numpy.save writes it")),
    }
}

/// The header of a file, and where it ends.
fn header(file: &[u8]) -> Result<(&str, usize), Problem> {
    let bad = |what: &str| Problem::NoNpy(what.to_owned());
    if !file.starts_with(MAGIC) {
        return Err(bad("it does not begin as one does"));
    }
    let (start, length) = match (file.get(6), file.get(8..10), file.get(8..12)) {
        (Some(1), Some(&[a, b]), _) => (10, usize::from(u16::from_le_bytes([a, b]))),
        (Some(2 | 3), _, Some(&[a, b, c, d])) => (12, u32::from_le_bytes([a, b, c, d]) as usize),
        _ => return Err(bad("its version is none of 1.0, 2.0 and 3.0, or it ends in its header")),
    };
    let end = start + length;
    let header = file.get(start..end).and_then(|header| str::from_utf8(header).ok());
    Ok((header.ok_or_else(|| bad("it ends in its header"))?, end))
}

/// Type, order and shape that a header says: a dictionary as Python writes it.
fn describe(header: &str) -> Result<(Type, bool, Vec<usize>), Problem> {
    let bad = |what: &str| Problem::NoNpy(format!("its header {what}: {header:.200?}"));
    let value = |key: &str| {
        let (_, rest) = header.split_once(key)?;
        Some(rest.trim_start().strip_prefix(':')?.trim_start())
    };
    let descr = value("'descr'").ok_or_else(|| bad("has no `descr`"))?;
    let code = descr.strip_prefix('\'').and_then(|code| code.split_once('\'')).map(|(code, _)| code);
    let code = code.ok_or_else(|| bad("describes records, expected one type"))?;
    if code.contains('O') {
        return Err(Problem::Objects);
    }
    let of = Type::parse(code).ok_or_else(|| {
        Problem::unexpected(format!("elements of type {code:?}"), "booleans, integers or floats of up to 64 bits")
    })?;
    let order = value("'fortran_order'").ok_or_else(|| bad("has no `fortran_order`"))?;
    let is_fortran = match (order.starts_with("True"), order.starts_with("False")) {
        (true, _) => true,
        (_, true) => false,
        _ => return Err(bad("has a `fortran_order` that is neither True nor False")),
    };
    let shape = value("'shape'").and_then(|shape| shape.strip_prefix('(')?.split_once(')'));
    let (lengths, _) = shape.ok_or_else(|| bad("has no `shape`"))?;
    let lengths = lengths.split(',').map(str::trim).filter(|length| !length.is_empty());
    let shape = lengths.map(str::parse).collect::<Result<Vec<usize>, _>>();
    Ok((of, is_fortran, shape.map_err(|_| bad("has a `shape` that is no tuple of lengths"))?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(header: &str, elements: &[u8]) -> Vec<u8> {
        let mut file = b"\x93NUMPY\x01\x00".to_vec();
        file.extend((header.len() as u16).to_le_bytes());
        file.extend(header.as_bytes());
        file.extend(elements);
        file
    }

    fn refusal(file: Vec<u8>) -> String {
        parse(file).unwrap_err().to_string()
    }

    #[test]
    fn both_orders_and_both_ends_read_the_same() {
        let c = file(
            "{'descr': '<i2', 'fortran_order': False, 'shape': (2, 3), }\n",
            &[1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 1],
        );
        let f =
            file("{'descr': '>i2', 'fortran_order': True, 'shape': (2, 3), }\n", &[0, 1, 0, 4, 0, 2, 0, 5, 0, 3, 1, 6]);
        let array = parse(c).unwrap();
        assert_eq!(array, parse(f).unwrap());
        assert_eq!((array.shape.as_slice(), array.floats()), (&[2, 3][..], vec![1.0, 2.0, 3.0, 4.0, 5.0, 262.0]));
    }

    #[test]
    fn what_is_no_array_of_numbers_says_what_it_is() {
        let header = |descr: &str| format!("{{'descr': {descr}, 'fortran_order': False, 'shape': (2,), }}\n");
        assert!(refusal(file(&header("'|O'"), b"\x80\x04.")).contains("never loaded"));
        assert!(refusal(file(&header("'<U5'"), &[0; 40])).contains("\"<U5\""));
        assert!(refusal(file(&header("[('x', '<f4')]"), &[0; 8])).contains("records"));
        assert!(refusal(file(&header("'<f4'"), &[0; 7])).contains("7 bytes of elements, expected 8"));
        assert!(refusal(b"PK\x03\x04".to_vec()).contains("begin"));
        let huge = "{'descr': '<f8', 'fortran_order': False, 'shape': (4611686018427387904, 4611686018427387904), }\n";
        assert!(refusal(file(huge, &[])).contains("fits into memory"));
    }

    proptest! {
        #[test]
        fn arbitrary_headers_are_no_panic(header in "[{}'a-z:_<>|(),0-9 TFO]{0,80}", elements in proptest::collection::vec(any::<u8>(), 0..32)) {
            let _ = parse(file(&header, &elements));
            let _ = parse(file(&format!("{{'descr': '<i2', 'fortran_order': True, 'shape': ({header}), }}"), &elements));
        }
    }
}
