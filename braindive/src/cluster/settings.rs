//! How to cluster.

use super::ClusterError;
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;

/// What decides the clusters beside the rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Number of clusters; of several, ascending, the one whose mixture gives rows it has not seen the highest likelihood. One number or a
    /// list.
    #[serde(deserialize_with = "one_or_several")]
    pub k: Vec<usize>,
    pub assign: Assign,
    /// Random starts, of which the most likely counts.
    pub starts: usize,
    pub seed: u64,
    /// At most so many from one start.
    pub iterations: usize,
    /// A fit has settled when the mean log-likelihood changes by less than this part of itself.
    pub tolerance: f64,
}

/// How an iteration shares rows out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Assign {
    /// Each row to every cluster by its posterior probability.
    #[default]
    Soft,
    /// Each row to its most probable cluster.
    Hard,
}

impl Default for Settings {
    fn default() -> Self {
        Self { k: vec![2], assign: Assign::Soft, starts: 10, seed: 0, iterations: 200, tolerance: 1e-10 }
    }
}

impl Settings {
    /// # Errors
    /// A number is out of its range.
    pub fn check(&self) -> Result<(), ClusterError> {
        let setting = |key, found: String, expected| Err(ClusterError::Setting { key, found, expected });
        let ascends = self.k.is_sorted_by(|a, b| a < b);
        if self.k.is_empty() || !ascends || !self.k.iter().all(|k| (1..=1000).contains(k)) {
            return setting("k", format!("{:?}", self.k), "numbers from 1 to 1000, ascending");
        }
        if !(1..=10_000).contains(&self.starts) {
            return setting("starts", self.starts.to_string(), "a number from 1 to 10000");
        }
        if self.iterations == 0 {
            return setting("iterations", "0".to_owned(), "at least 1");
        }
        if !(0.0..1.0).contains(&self.tolerance) {
            return setting("tolerance", self.tolerance.to_string(), "a number from 0 to 1");
        }
        Ok(())
    }
}

fn one_or_several<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<usize>, D::Error> {
    struct Numbers;

    impl<'de> Visitor<'de> for Numbers {
        type Value = Vec<usize>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number of clusters or a list of numbers")
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self::Value, E> {
            let wrong = |_| E::invalid_value(de::Unexpected::Unsigned(number), &self);
            Ok(vec![usize::try_from(number).map_err(wrong)?])
        }

        fn visit_i64<E: de::Error>(self, number: i64) -> Result<Self::Value, E> {
            let wrong = |_| E::invalid_value(de::Unexpected::Signed(number), &self);
            Ok(vec![usize::try_from(number).map_err(wrong)?])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut numbers = Vec::new();
            while let Some(number) = list.next_element()? {
                numbers.push(number);
            }
            Ok(numbers)
        }
    }

    deserializer.deserialize_any(Numbers)
}
