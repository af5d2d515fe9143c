//! An amount of memory on the command line.

use std::fmt;
use std::str::FromStr;

/// Bytes; `12GiB`, `500MB`, `16000000000`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes(u64);

/// A text that names no amount of memory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no amount of memory: expected a number with a unit (B, kB, MB, GB, KiB, MiB, GiB), for example 12GiB"
)]
pub struct NoAmount(String);

const UNITS: [(&str, u64); 8] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("B", 1),
    ("", 1),
];

impl Bytes {
    pub fn count(self) -> u64 {
        self.0
    }
}

impl From<u64> for Bytes {
    fn from(count: u64) -> Self {
        Self(count)
    }
}

/// In GiB, for people.
impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} GiB", self.0 as f64 / f64::from(1 << 30))
    }
}

impl FromStr for Bytes {
    type Err = NoAmount;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let amount = UNITS.iter().find_map(|(unit, bytes)| {
            let number: f64 = text.strip_suffix(unit)?.trim_end().parse().ok()?;
            (number.is_finite() && number > 0.0).then_some((number * *bytes as f64) as u64)
        });
        amount.map(Self).ok_or_else(|| NoAmount(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_read_with_their_units_and_others_are_refused() {
        let read = |text: &str| text.parse().map(Bytes::count);
        for (text, bytes) in
            [("12GiB", 12 << 30), ("0.5 GB", 500_000_000), ("64MiB", 64 << 20), ("1000", 1000), ("7 B", 7)]
        {
            assert_eq!(read(text), Ok(bytes), "{text}");
        }
        for wrong in ["", "GiB", "-1GB", "12 TB", "lots", "inf"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
