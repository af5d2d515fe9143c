//! YAML text as a tree whose every key and value knows its place, so that all mistakes of a file can be told at once.

use super::diagnose::{Diagnostics, Place};
use super::model::SUBJECT;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_yaml::options::{DuplicateKeyPolicy, NonFiniteFloatPolicy};
use serde_yaml::{Location, Spanned};
use std::fmt;

/// A YAML value and its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub place: Place,
    pub value: Value,
}

/// What a YAML value is, in the core schema: `no`, `off` and `yes` are text.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Integer(i128),
    Number(f64),
    Text(String),
    List(Vec<Node>),
    /// In the file's order; keys may repeat (see [`super::fields::Fields`], which refuses that).
    Map(Vec<(Key, Node)>),
}

/// A key of a map and its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    pub place: Place,
    pub name: String,
}

impl Node {
    /// What was found, in words, for a message: `the number 3`, `a list`.
    pub fn describe(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::Bool(value) => format!("the boolean `{value}`"),
            Value::Integer(value) => format!("the number {value}"),
            Value::Number(value) => format!("the number {value}"),
            Value::Text(text) if text.chars().count() > 60 => {
                format!("the text `{}…`", text.chars().take(60).collect::<String>())
            }
            Value::Text(text) => format!("the text `{text}`"),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a map".to_owned(),
        }
    }
}

/// Parses `text`. A syntax error becomes a diagnostic, and there is no tree then.
pub fn parse(text: &str, diagnostics: &mut Diagnostics) -> Option<Node> {
    let options = serde_yaml::options! {
        strict_booleans: true,
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        with_snippet: false,
    };
    match serde_yaml::from_str_with_options::<Spanned<Value>>(text, options) {
        Ok(root) => Some(Node::from(root)),
        Err(error) => {
            let (place, message) = (error.location().map(Place::from).unwrap_or_default(), message(&error));
            match indented_with_tab(text) {
                Some(tab) if message.contains("tab") || tab.line == place.line => {
                    diagnostics
                        .mistake(tab, "not valid YAML: the line is indented with a tab")
                        .note("expected blanks: YAML allows no tabs there");
                }
                _ => {
                    let told = diagnostics.mistake(place, format!("not valid YAML: {message}"));
                    if text.lines().nth(place.line.saturating_sub(1)).is_some_and(|line| line.contains(SUBJECT)) {
                        told.note(format!("inside [ ] and {{ }}, a path with {SUBJECT} must stand in quotes"));
                    }
                }
            }
            None
        }
    }
}

/// The parser's message without its own rendering of the place.
fn message(error: &serde_yaml::Error) -> String {
    if let serde_yaml::Error::MultipleDocuments { .. } = error {
        return "a second document begins here; expected one experiment in a file".to_owned();
    }
    let options = serde_yaml::render_options! {
        snippets: serde_yaml::SnippetMode::Off,
        formatter: &serde_yaml::UserMessageFormatter,
    };
    let text = error.render_with_options(options);
    let first = text.lines().next().unwrap_or_default();
    first.split(" at line ").next().unwrap_or(first).to_owned()
}

/// The first line whose indentation holds a tab.
fn indented_with_tab(text: &str) -> Option<Place> {
    text.lines().enumerate().find_map(|(index, line)| {
        let indentation = line.len() - line.trim_start_matches([' ', '\t']).len();
        let column = line[..indentation].find('\t')? + 1;
        Some(Place { line: index + 1, column, width: 1 })
    })
}

impl From<Spanned<Value>> for Node {
    fn from(spanned: Spanned<Value>) -> Self {
        Self { place: spanned.referenced.into(), value: spanned.value }
    }
}

impl From<Location> for Place {
    fn from(location: Location) -> Self {
        let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        Self { line: number(location.line()), column: number(location.column()), width: number(location.span().len()) }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_i128<E: Error>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u128<E: Error>(self, value: u128) -> Result<Value, E> {
        Ok(i128::try_from(value).map_or(Value::Number(value as f64), Value::Integer))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Number(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element::<Spanned<Value>>()? {
            items.push(item.into());
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, value)) = map.next_entry::<Spanned<String>, Spanned<Value>>()? {
            entries.push((Key { place: key.referenced.into(), name: key.value }, value.into()));
        }
        Ok(Value::Map(entries))
    }
}
