//! How clusters are looked for.

use super::ClusterError;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;

/// The defaults are the paper's two clusters, with soft assignments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Numbers of clusters, a list or one; of several, the one with the highest likelihood of held-out voxels is taken.
    #[serde(deserialize_with = "one_or_several")]
    pub k: Vec<usize>,
    pub assign: Assignment,
    /// Starts of the search, of which the one that ends with the highest likelihood counts.
    pub starts: usize,
    /// Parts into which voxels are dealt to choose between several k: each is held out once.
    pub folds: usize,
    /// Names the starts and the parts.
    pub seed: u64,
}

/// What the E step gives to a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Assignment {
    /// The share of every voxel that its posterior says: soft-moVMF.
    #[default]
    Soft,
    /// The voxels of which it is the likeliest: hard-moVMF.
    Hard,
}

impl Default for Settings {
    fn default() -> Self {
        Self { k: vec![2], assign: Assignment::Soft, starts: 10, folds: 5, seed: 0 }
    }
}

impl Settings {
    /// # Errors
    /// A number is too small to mean anything.
    pub fn check(&self) -> Result<(), ClusterError> {
        let least = |what, least, found| match found >= least {
            true => Ok(()),
            false => Err(ClusterError::Setting { what, least, found }),
        };
        least("k", 1, self.k.iter().copied().min().unwrap_or(0))?;
        least("starts", 1, self.starts)?;
        least("folds", 2, self.folds)
    }
}

fn one_or_several<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<usize>, D::Error> {
    struct Numbers;

    impl<'de> Visitor<'de> for Numbers {
        type Value = Vec<usize>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number of clusters, or a list of such numbers")
        }

        fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
            Ok(vec![usize::try_from(number).unwrap_or(usize::MAX)])
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k_is_a_number_or_a_list() {
        let k = |text: &str| serde_json::from_str::<Settings>(text).map(|settings| settings.k);
        assert_eq!(k(r#"{ "k": 3 }"#).unwrap(), [3]);
        assert_eq!(k(r#"{ "k": [2, 3] }"#).unwrap(), [2, 3]);
        assert_eq!(k("{}").unwrap(), [2]);
        for wrong in [r#"{ "k": "two" }"#, r#"{ "k": -1 }"#, r#"{ "k": 2.5 }"#] {
            let message = k(wrong).unwrap_err().to_string();
            assert!(message.contains("a number of clusters, or a list"), "{message}");
        }
    }
}
