//! A request's objective as its file writes it: `voxels` and `denominator` for one mean, or weighted `terms`.

use braindive::encoder::{self, Encoder, Threshold, VolumeMask};
use braindive::{Error, Result};
use serde::Deserialize;
use std::path::PathBuf;

/// What guidance maximises: the weighted sum of the terms' means.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "Written")]
pub struct Objective {
    pub terms: Vec<Term>,
}

/// A weighted mean over voxels.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "WrittenTerm")]
pub struct Term {
    /// Negative to suppress.
    pub weight: f64,
    pub voxels: Voxels,
    /// What the voxels' sum is divided by; their number if absent.
    pub denominator: Option<u32>,
}

/// Which of the head's voxels a term averages.
#[derive(Debug, Clone, PartialEq)]
pub enum Voxels {
    /// Row numbers of the head.
    Rows(Vec<usize>),
    /// A name under `rois` in the encoder's `config.json`.
    Roi(String),
    /// A name under `clusters`.
    Cluster(String),
    Mask(VolumeMask),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    voxels: Option<Vec<usize>>,
    denominator: Option<u32>,
    terms: Option<Vec<Term>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenTerm {
    weight: Option<f64>,
    voxels: Option<Vec<usize>>,
    roi: Option<String>,
    cluster: Option<String>,
    mask: Option<PathBuf>,
    labels: Option<Vec<i32>>,
    t_map: Option<PathBuf>,
    t_above: Option<f64>,
    denominator: Option<u32>,
}

impl TryFrom<Written> for Objective {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, &'static str> {
        match written {
            Written { voxels: Some(rows), denominator, terms: None } => {
                Ok(Self { terms: vec![Term { weight: 1.0, voxels: Voxels::Rows(rows), denominator }] })
            }
            Written { voxels: None, denominator: None, terms: Some(terms) } => Ok(Self { terms }),
            _ => Err("an objective is either `voxels`, perhaps with `denominator`, or `terms`"),
        }
    }
}

impl TryFrom<WrittenTerm> for Term {
    type Error = &'static str;

    fn try_from(written: WrittenTerm) -> Result<Self, &'static str> {
        let WrittenTerm { weight, voxels, roi, cluster, mask, labels, t_map, t_above, denominator } = written;
        if mask.is_none() && (labels.is_some() || t_map.is_some() || t_above.is_some()) {
            return Err("`labels`, `t_map` and `t_above` narrow a `mask`");
        }
        let voxels = match (voxels, roi, cluster, mask) {
            (Some(rows), None, None, None) => Voxels::Rows(rows),
            (None, Some(roi), None, None) => Voxels::Roi(roi),
            (None, None, Some(cluster), None) => Voxels::Cluster(cluster),
            (None, None, None, Some(mask)) => {
                let threshold = match (t_map, t_above) {
                    (None, None) => None,
                    (Some(map), Some(above)) => Some(Threshold { map, above }),
                    _ => return Err("a threshold needs both `t_map` and `t_above`"),
                };
                Voxels::Mask(VolumeMask { mask, labels: labels.unwrap_or_default(), threshold })
            }
            _ => return Err("a term names its voxels in exactly one way: `voxels`, `roi`, `cluster` or `mask`"),
        };
        Ok(Self { weight: weight.unwrap_or(1.0), voxels, denominator })
    }
}

impl Objective {
    /// The files that it names.
    pub fn files(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        self.terms.iter_mut().flat_map(|term| match &mut term.voxels {
            Voxels::Mask(mask) => {
                let map = mask.threshold.as_mut().map(|threshold| &mut threshold.map);
                Some(&mut mask.mask).into_iter().chain(map)
            }
            _ => None.into_iter().chain(None),
        })
    }

    /// In rows of the head.
    pub fn resolve(&self, encoder: &Encoder) -> Result<encoder::Objective> {
        let head = &encoder.head;
        let named = |kind, name: &String, lists: &std::collections::BTreeMap<String, Vec<usize>>| {
            lists.get(name).cloned().ok_or_else(|| Error::NoSuchRegion {
                head: head.path().to_owned(),
                kind,
                name: name.clone(),
                known: lists.keys().cloned().collect(),
            })
        };
        let terms = self.terms.iter().map(|term| {
            let (region, voxels) = match &term.voxels {
                Voxels::Rows(rows) => ("of the request".to_owned(), rows.clone()),
                Voxels::Roi(name) => (name.clone(), named("ROI", name, head.rois())?),
                Voxels::Cluster(name) => (name.clone(), named("cluster", name, head.clusters())?),
                Voxels::Mask(mask) => (mask.mask.display().to_string(), mask.rows_of(head)?.rows),
            };
            let denominator = term.denominator.map_or(voxels.len(), |n| n as usize);
            Ok(encoder::Term { region, weight: term.weight, voxels, denominator })
        });
        Ok(encoder::Objective { terms: terms.collect::<Result<_>>()? })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Objective, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn one_mean_and_weighted_terms_both_read() {
        let rows =
            |weight, rows: &[usize], denominator| Term { weight, voxels: Voxels::Rows(rows.to_vec()), denominator };
        assert_eq!(read(r#"{"voxels": [3, 1], "denominator": 5}"#).unwrap().terms, [rows(1.0, &[3, 1], Some(5))]);
        let text = r#"{"terms": [{"voxels": [3]}, {"weight": -0.5, "voxels": [1, 2], "denominator": 4}, {"roi": "face"},
            {"cluster": "food_1"}, {"mask": "m.nii", "labels": [2], "t_map": "t.nii", "t_above": 2}]}"#;
        let mut objective = read(text).unwrap();
        assert_eq!(objective.terms[..2], [rows(1.0, &[3], None), rows(-0.5, &[1, 2], Some(4))]);
        assert_eq!(objective.terms[2].voxels, Voxels::Roi("face".to_owned()));
        assert_eq!(objective.terms[3].voxels, Voxels::Cluster("food_1".to_owned()));
        assert_eq!(
            objective.files().map(|file| file.clone()).collect::<Vec<_>>(),
            ["m.nii", "t.nii"].map(PathBuf::from)
        );
    }

    #[test]
    fn an_objective_that_says_too_much_or_too_little_is_refused() {
        for (text, message) in [
            ("{}", "an objective is either `voxels`"),
            (r#"{"voxels": [1], "terms": []}"#, "an objective is either `voxels`"),
            (r#"{"terms": [{"weight": 1}]}"#, "in exactly one way"),
            (r#"{"terms": [{"roi": "a", "voxels": [1]}]}"#, "in exactly one way"),
            (r#"{"terms": [{"roi": "a", "labels": [1]}]}"#, "narrow a `mask`"),
            (r#"{"terms": [{"mask": "a", "t_above": 1}]}"#, "both `t_map` and `t_above`"),
            (r#"{"terms": [{"rio": "a"}]}"#, "unknown field `rio`"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(message), "{text}: {error}");
        }
    }
}
