//! The section of a kind that makes folders: a table of settings, each checked where it stands, all together of the kind's own type.

use super::diagnose::{Diagnostics, Place};
use super::fields::{Fields, Located};
use super::model::{self, SUBJECT};
use super::node::{Node, Value as Written};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// What a setting may be.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    /// A whole number from the first to the second.
    Count(i128, i128),
    /// A list of such numbers, or one.
    Counts(i128, i128),
    /// A number for which this holds, in words and in code.
    Number(&'static str, fn(f64) -> bool),
    /// A list of such numbers, or one.
    Numbers(&'static str, fn(f64) -> bool),
    Choice(&'static [&'static str]),
    Name,
    /// A list of names, or one; it may be empty.
    Names,
    /// A path, relative to the experiment file, in which `{subject}` stands for the subject's name.
    Path,
}

/// The settings of a kind of work, by their names.
pub type Table = [(&'static str, Shape)];

/// The paper's preparation of a subject's data, and what may be otherwise.
pub const PREPARE: &Table = &[
    ("betas", Shape::Name),
    ("sessions", Shape::Count(1, 1000)),
    ("voxels", Shape::Names),
    ("parcels", Shape::Count(0, 1000)),
    ("ranked_by", Shape::Counts(1, 8)),
    ("parcel_ids", Shape::Counts(1, u16::MAX as i128)),
    ("exclude", Shape::Names),
    ("food", Shape::Path),
    ("t_above", Shape::Number("a finite number", |_| true)),
    ("split", Shape::Path),
    ("image_size", Shape::Count(1, 8192)),
    ("stimuli", Shape::Path),
];

/// How a head is fitted.
pub const FIT: &Table = &[
    ("head", Shape::Choice(&["adamw", "ridge"])),
    ("features", Shape::Choice(&["exact", "cached"])),
    ("copies", Shape::Count(1, 1000)),
    ("epochs", Shape::Count(1, 1_000_000)),
    ("batch", Shape::Count(1, 1 << 20)),
    ("learning_rate", Shape::Number("a number above 0", |rate| rate > 0.0)),
    ("weight_decay", Shape::Number("a number, 0 or more", |decay| decay >= 0.0)),
    ("init_scale", Shape::Number("a number, 0 or more", |scale| scale >= 0.0)),
    ("brightness", Shape::Number("a number from 0 to 1", |share| (0.0..=1.0).contains(&share))),
    ("shift", Shape::Count(0, 1000)),
    ("noise", Shape::Number("a number, 0 or more", |noise| noise >= 0.0)),
    ("lambdas", Shape::Numbers("a number above 0", |lambda| lambda > 0.0)),
    ("folds", Shape::Count(2, 1000)),
];

/// How a region is clustered.
pub const CLUSTER: &Table = &[
    ("k", Shape::Counts(1, 1000)),
    ("assign", Shape::Choice(&["soft", "hard"])),
    ("starts", Shape::Count(1, 10_000)),
    ("folds", Shape::Count(2, 1000)),
];

/// What a section sets.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings {
    values: Map<String, Value>,
    /// Those that are paths, as they are written.
    pub paths: Vec<(&'static str, Located<String>)>,
}

impl Settings {
    /// Reads the section `name`.
    pub fn read(node: &Node, name: &str, table: &Table, diagnostics: &mut Diagnostics) -> Self {
        let mut settings = Self::default();
        let keys: Vec<&str> = table.iter().map(|(key, _)| *key).collect();
        let Some(fields) = Fields::of(node, &format!("`{name}`"), &keys, diagnostics) else { return settings };
        for (key, shape) in table {
            let Some(node) = fields.get(key) else { continue };
            if let Shape::Path = shape {
                settings.paths.extend(model::path_name(node, key, &[SUBJECT], diagnostics).map(|path| (*key, path)));
            } else if let Some(value) = read(node, key, *shape, diagnostics) {
                settings.values.insert((*key).to_owned(), value);
            }
        }
        settings
    }

    /// The same, with what is not set at its default.
    ///
    /// # Panics
    /// The table and the type differ, which a test excludes.
    pub fn typed<T: DeserializeOwned>(&self) -> T {
        serde_json::from_value(Value::Object(self.values.clone())).expect("tables have the keys of their types")
    }

    /// The place of a path.
    pub fn place(&self, key: &str) -> Place {
        self.paths.iter().find(|(name, _)| *name == key).map(|(_, path)| path.place).unwrap_or_default()
    }
}

fn read(node: &Node, key: &str, shape: Shape, diagnostics: &mut Diagnostics) -> Option<Value> {
    let what = format!("`{key}`");
    match shape {
        Shape::Count(least, most) => node.integer::<u32>(&what, least, most, diagnostics).map(Value::from),
        Shape::Counts(least, most) => {
            let read = node.distinct(&what, diagnostics, |item, d| item.integer::<u32>(&what, least, most, d));
            Some(read.into_iter().map(|number| number.value).collect())
        }
        Shape::Number(expected, fits) => node.number(&what, expected, fits, diagnostics).map(Value::from),
        Shape::Numbers(expected, fits) => {
            let read = node.distinct(&what, diagnostics, |item, d| item.number(&what, expected, fits, d));
            Some(read.into_iter().map(|number| number.value).collect())
        }
        Shape::Choice(names) => {
            let valid: Vec<(&str, &str)> = names.iter().map(|name| (*name, *name)).collect();
            node.choice(&what, &valid, diagnostics).map(Value::from)
        }
        Shape::Name => node.name(&what, diagnostics).map(Value::from),
        Shape::Names => {
            if matches!(&node.value, Written::List(items) if items.is_empty()) {
                return Some(Value::Array(Vec::new()));
            }
            let read = node.distinct(&what, diagnostics, |item, d| item.name(&what, d));
            Some(read.into_iter().map(|name| name.value).collect())
        }
        Shape::Path => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use protocol::job::{ClusterSettings, FitSettings, PrepareSettings};
    use serde::Serialize;
    use std::collections::BTreeSet;

    fn keys<T: Default + Serialize>() -> BTreeSet<String> {
        let Value::Object(map) = serde_json::to_value(T::default()).unwrap() else { panic!("a struct is a map") };
        map.into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn tables_have_the_keys_of_their_types_and_values_that_fit_them() {
        let of = |table: &Table| table.iter().map(|(key, _)| (*key).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(of(FIT), keys::<FitSettings>());
        assert_eq!(of(CLUSTER), keys::<ClusterSettings>());
        let mut prepare = keys::<PrepareSettings>();
        prepare.remove("root");
        assert_eq!(of(PREPARE), prepare);
        for (table, typed) in [
            (PREPARE, (|settings: &Settings| drop(settings.typed::<PrepareSettings>())) as fn(&Settings)),
            (FIT, |settings| drop(settings.typed::<FitSettings>())),
            (CLUSTER, |settings| drop(settings.typed::<ClusterSettings>())),
        ] {
            for (key, shape) in table {
                let values: Vec<Value> = match shape {
                    Shape::Count(least, most) => [least, most].map(|n| Value::from(*n as u64)).into(),
                    Shape::Counts(least, most) => vec![[*least as u64, *most as u64].into_iter().collect()],
                    Shape::Number(..) => vec![Value::from(1.5), Value::from(2.0)],
                    Shape::Numbers(..) => vec![[1.5, 2.0].into_iter().collect()],
                    Shape::Choice(names) => names.iter().map(|name| Value::from(*name)).collect(),
                    Shape::Name => vec![Value::from("a")],
                    Shape::Names => vec![Value::Array(Vec::new()), ["subj01"].into_iter().collect()],
                    Shape::Path => continue,
                };
                for value in values {
                    typed(&Settings { values: Map::from_iter([((*key).to_owned(), value)]), paths: Vec::new() });
                }
            }
        }
    }
}
