//! Reading typed values from the tree: every reader returns what it could read and tells the rest to the diagnostics.

use super::diagnose::{Diagnostics, Place};
use super::node::{Key, Node, Value};

/// A value and the place that asked for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Located<T> {
    pub place: Place,
    pub value: T,
}

/// The entries of a map with a fixed set of keys.
#[derive(Debug)]
pub struct Fields<'n> {
    what: String,
    place: Place,
    entries: Vec<(&'n Key, &'n Node)>,
}

impl<'n> Fields<'n> {
    /// The entries of `node` whose keys are in `valid`; other and repeated keys are mistakes.
    pub fn of(node: &'n Node, what: &str, valid: &[&str], diagnostics: &mut Diagnostics) -> Option<Self> {
        let mut entries = entries(node, what, diagnostics)?;
        entries.retain(|(key, _)| {
            let known = valid.contains(&key.name.as_str());
            if !known {
                diagnostics
                    .mistake(key.place, format!("unknown key `{}` in {what}", key.name))
                    .one_of(&key.name, valid.iter().copied());
            }
            known
        });
        Some(Self { what: what.to_owned(), place: node.place, entries })
    }

    /// The value of `name`, if the file has it.
    pub fn get(&self, name: &str) -> Option<&'n Node> {
        self.entries.iter().find(|(key, _)| key.name == name).map(|(_, node)| *node)
    }

    /// The place of the key `name`.
    pub fn key(&self, name: &str) -> Option<Place> {
        self.entries.iter().find(|(key, _)| key.name == name).map(|(key, _)| key.place)
    }

    /// The value of `name`, whose absence is a mistake.
    pub fn required(&self, name: &str, diagnostics: &mut Diagnostics) -> Option<&'n Node> {
        let found = self.get(name);
        if found.is_none() {
            diagnostics.mistake(self.place, format!("`{name}` is missing in {}", self.what));
        }
        found
    }

    pub fn iter(&self) -> impl Iterator<Item = (&'n Key, &'n Node)> + '_ {
        self.entries.iter().copied()
    }
}

/// The entries of a map with free keys; repeated keys are mistakes, and the first counts.
pub fn entries<'n>(node: &'n Node, what: &str, diagnostics: &mut Diagnostics) -> Option<Vec<(&'n Key, &'n Node)>> {
    let Value::Map(map) = &node.value else {
        diagnostics.mistake(node.place, format!("expected a map for {what}, found {}", node.describe()));
        return None;
    };
    let mut first: Vec<(&Key, &Node)> = Vec::with_capacity(map.len());
    for (key, value) in map {
        if let Some((earlier, _)) = first.iter().find(|(earlier, _)| earlier.name == key.name) {
            diagnostics
                .mistake(key.place, format!("`{}` is given twice in {what}", key.name))
                .note(format!("first on line {}", earlier.place.line));
        } else {
            first.push((key, value));
        }
    }
    Some(first)
}

impl Node {
    /// The items of a list, or the value itself as the only one. An empty list is a mistake.
    pub fn items(&self, what: &str, diagnostics: &mut Diagnostics) -> &[Node] {
        match &self.value {
            Value::List(items) => {
                if items.is_empty() {
                    diagnostics
                        .mistake(self.place, format!("the list of {what} is empty"))
                        .note("expected at least one");
                }
                items
            }
            _ => std::slice::from_ref(self),
        }
    }

    /// Each item read by `read`; a value that equals an earlier one is a mistake.
    pub fn distinct<T: PartialEq>(
        &self,
        what: &str,
        diagnostics: &mut Diagnostics,
        mut read: impl FnMut(&Node, &mut Diagnostics) -> Option<T>,
    ) -> Vec<Located<T>> {
        let mut distinct: Vec<Located<T>> = Vec::new();
        for item in self.items(what, diagnostics) {
            let Some(value) = read(item, diagnostics) else { continue };
            if let Some(earlier) = distinct.iter().find(|earlier| earlier.value == value) {
                diagnostics
                    .mistake(item.place, format!("{} is listed twice in {what}", item.describe()))
                    .note(format!("first on line {}, column {}", earlier.place.line, earlier.place.column));
            } else {
                distinct.push(Located { place: item.place, value });
            }
        }
        distinct
    }

    /// A text.
    pub fn text(&self, what: &str, diagnostics: &mut Diagnostics) -> Option<String> {
        if let Value::Text(text) = &self.value {
            return Some(text.clone());
        }
        let scalar = matches!(self.value, Value::Bool(_) | Value::Integer(_) | Value::Number(_));
        let mistake = diagnostics.mistake(self.place, format!("expected text for {what}, found {}", self.describe()));
        if scalar {
            mistake.note("write it in quotes to make it text");
        }
        None
    }

    /// A name: letters, digits, `_`, `-`, `.` and `+`, beginning with a letter or digit, so that it can be part of a file name.
    pub fn name(&self, what: &str, diagnostics: &mut Diagnostics) -> Option<String> {
        let text = self.text(what, diagnostics)?;
        if is_name(&text) {
            return Some(text);
        }
        not_a_name(self.place, &text, what, diagnostics);
        None
    }

    /// A whole number from `least` to `most`.
    pub fn integer<T: TryFrom<i128>>(
        &self,
        what: &str,
        least: i128,
        most: i128,
        diagnostics: &mut Diagnostics,
    ) -> Option<T> {
        if let Value::Integer(value) = self.value
            && (least..=most).contains(&value)
            && let Ok(value) = T::try_from(value)
        {
            return Some(value);
        }
        diagnostics
            .mistake(self.place, format!("{what} cannot be {}", self.describe()))
            .note(format!("expected a whole number from {least} to {most}"));
        None
    }

    /// A finite number for which `fits` holds; `expected` says in words what that is. A zero comes back without its sign.
    pub fn number(
        &self,
        what: &str,
        expected: &str,
        fits: impl Fn(f64) -> bool,
        diagnostics: &mut Diagnostics,
    ) -> Option<f64> {
        let value = match self.value {
            Value::Integer(value) => Some(value as f64),
            Value::Number(value) => Some(value),
            _ => None,
        };
        if let Some(value) = value.filter(|value| value.is_finite() && fits(*value)) {
            return Some(value + 0.0);
        }
        diagnostics
            .mistake(self.place, format!("{what} cannot be {}", self.describe()))
            .note(format!("expected {expected}"));
        None
    }

    /// One of `valid`, by its name.
    pub fn choice<T: Copy>(&self, what: &str, valid: &[(&str, T)], diagnostics: &mut Diagnostics) -> Option<T> {
        let text = self.text(what, diagnostics)?;
        let found = valid.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
        if found.is_none() {
            diagnostics
                .mistake(self.place, format!("{what} cannot be `{text}`"))
                .one_of(&text, valid.iter().map(|(name, _)| *name));
        }
        found
    }
}

/// Whether `text` is a name (see [`Node::name`]).
pub fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.+".contains(c);
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(plain) && text.len() <= 100
}

/// Tells that `text` is no name.
pub fn not_a_name(place: Place, text: &str, what: &str, diagnostics: &mut Diagnostics) {
    diagnostics
        .mistake(place, format!("`{text}` cannot be {what}"))
        .note("expected letters, digits, `_`, `-`, `.` or `+`, beginning with a letter or digit, at most 100");
}
