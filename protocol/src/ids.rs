//! Typed identifiers: a job's number cannot be passed where a fence is expected.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = std::num::ParseIntError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map($name)
            }
        }
    };
}

number!(
    /// An experiment: one submitted YAML file, known by its name.
    ExperimentId(i64)
);
number!(
    /// A condition: one cell of the grid without its seeds.
    ConditionId(i64)
);
number!(
    /// A job: a condition and one seed; the unit that is claimed, retried and committed.
    JobId(i64)
);
number!(
    /// An attempt: one try at a job by one worker.
    AttemptId(i64)
);
number!(
    /// A registered worker process; a restarted process registers anew and gets a new number.
    WorkerId(i64)
);
number!(
    /// Which claim of a job a message belongs to. Every claim gives the job a larger fence; a message that carries an older
    /// one comes from a worker that lost the job, and never changes what counts.
    Fence(i64)
);
number!(
    /// Names the starting noise of a sample (science: Philox key, see `braindive::sampler::noise`).
    Seed(u64)
);

/// A sha256 digest, 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

/// A text that is not a sha256 digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a sha256 digest: expected 64 lower-case hexadecimal digits")]
pub struct NotADigest(String);

impl Digest {
    /// The digest whose 32 bytes are `bytes`.
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        use fmt::Write;
        let mut text = String::with_capacity(64);
        for byte in bytes {
            let _ = write!(text, "{byte:02x}");
        }
        Self(text)
    }

    /// The 64 hexadecimal digits. Safe to use as a file name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Digest {
    type Err = NotADigest;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() == 64 && text.bytes().all(hex) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NotADigest(text.to_owned()))
        }
    }
}

impl TryFrom<String> for Digest {
    type Error = NotADigest;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_64_lower_case_hex_digits_and_nothing_else() {
        let digest = Digest::from_bytes(&[0xab; 32]);
        assert_eq!(digest.as_str(), "ab".repeat(32));
        assert_eq!(digest.as_str().parse::<Digest>().as_ref(), Ok(&digest));
        for wrong in ["", "ab", "../../etc/passwd", &"AB".repeat(32), &"g".repeat(64), &"a".repeat(65)] {
            assert!(wrong.parse::<Digest>().is_err(), "{wrong}");
        }
    }
}
