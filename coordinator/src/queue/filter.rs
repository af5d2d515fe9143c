//! Which jobs: `state=failed class=io region=FFA`, the language of `--where`.
//!
//! A filter is terms joined by blanks; a job fits if all of them hold. A term is a key, `=`, `!=` or (for text, a part of it) `~`,
//! and a value, in quotes if it has blanks. Numbers may be a range: `seed=0-99`.

mod sql;

use crate::queue::state::State;
use crate::spec::diagnose::nearest;
use crate::spec::sampling::PARAMETERS;
use protocol::ids::ConditionId;
use protocol::outcome::FailureClass;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

pub use sql::FROM;

/// Jobs for which every term holds; without terms, all jobs. On the wire it is its text.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Filter {
    terms: Vec<Term>,
}

#[derive(Debug, Clone, PartialEq)]
struct Term {
    test: Test,
    /// `!=`
    negated: bool,
}

#[derive(Debug, Clone, PartialEq)]
enum Test {
    /// The text is this.
    Is(Text, String),
    /// The text has this in it, in capitals or not.
    Has(Text, String),
    Within(Number, RangeInclusive<u64>),
    State(State),
    Class(FailureClass),
    /// The condition's value on a swept axis is this.
    Axis(&'static str, AxisValue),
}

/// What of a job is a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Text {
    Experiment,
    Subject,
    Region,
    /// Of the last attempt.
    Message,
    /// Name of the worker of the last attempt.
    Worker,
}

/// What of a job is a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    Job,
    Condition,
    Seed,
}

/// A value on an axis of the grid.
#[derive(Debug, Clone, PartialEq)]
enum AxisValue {
    Number(f64),
    /// `[512, 640]`
    Numbers(Vec<f64>),
    Text(String),
}

const TEXTS: [(&str, Text); 5] = [
    ("experiment", Text::Experiment),
    ("subject", Text::Subject),
    ("region", Text::Region),
    ("message", Text::Message),
    ("worker", Text::Worker),
];
const NUMBERS: [(&str, Number); 3] = [("job", Number::Job), ("condition", Number::Condition), ("seed", Number::Seed)];

/// A text that is no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column {column} of the filter `{filter}`: {problem}")]
pub struct FilterError {
    filter: String,
    /// From 1, in characters.
    pub column: usize,
    problem: String,
}

impl Filter {
    /// All jobs of an experiment.
    pub fn experiment(name: &str) -> Self {
        Self::default().and(Test::Is(Text::Experiment, name.to_owned()))
    }

    pub fn and_experiment(self, name: &str) -> Self {
        self.and(Test::Is(Text::Experiment, name.to_owned()))
    }

    pub fn and_condition(self, id: ConditionId) -> Self {
        let id = id.0.cast_unsigned();
        self.and(Test::Within(Number::Condition, id..=id))
    }

    pub fn and_state(self, state: State) -> Self {
        self.and(Test::State(state))
    }

    fn and(mut self, test: Test) -> Self {
        self.terms.push(Term { test, negated: false });
        self
    }

    /// Whether every job fits.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// Whether it says anything about states.
    pub fn names_state(&self) -> bool {
        self.terms.iter().any(|term| matches!(term.test, Test::State(_)))
    }

    /// The experiments that it asks for, which should exist.
    pub fn experiments(&self) -> impl Iterator<Item = &str> {
        self.terms.iter().filter_map(|term| match &term.test {
            Test::Is(Text::Experiment, name) if !term.negated => Some(name.as_str()),
            _ => None,
        })
    }
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let mut scanner = Scanner { text, at: 0 };
        let mut terms = Vec::new();
        while let Some(term) = scanner.term()? {
            terms.push(term);
        }
        Ok(Self { terms })
    }
}

impl TryFrom<String> for Filter {
    type Error = FilterError;

    fn try_from(text: String) -> Result<Self, FilterError> {
        text.parse()
    }
}

impl From<Filter> for String {
    fn from(filter: Filter) -> Self {
        filter.to_string()
    }
}

/// What is left of a filter's text.
struct Scanner<'t> {
    text: &'t str,
    /// Bytes that were read.
    at: usize,
}

impl<'t> Scanner<'t> {
    fn term(&mut self) -> Result<Option<Term>, FilterError> {
        self.take(|c| c.is_whitespace());
        if self.rest().is_empty() {
            return Ok(None);
        }
        let key_at = self.at;
        let key = self.take(|c| !c.is_whitespace() && !"=!~".contains(c));
        let operator_at = self.at;
        let operators = [("!=", '!'), ("=", '='), ("~", '~')];
        let Some((written, operator)) = operators.into_iter().find(|(text, _)| self.rest().starts_with(text)) else {
            return Err(self.error(operator_at, format!("expected =, != or ~ after `{key}`, as in `state=failed`")));
        };
        self.at += written.len();
        let (value_at, value) = (self.at, self.value()?);
        let test = match operator {
            '~' => self.part(key, key_at, operator_at, value)?,
            _ => self.equal(key, key_at, value_at, value)?,
        };
        Ok(Some(Term { test, negated: operator == '!' }))
    }

    /// In quotes, or as far as the next blank.
    fn value(&mut self) -> Result<String, FilterError> {
        let begin = self.at;
        let Some(quote) = self.rest().chars().next().filter(|c| matches!(c, '\'' | '"')) else {
            let value = self.take(|c| !c.is_whitespace());
            if value.is_empty() {
                return Err(self.error(begin, "expected a value here; quotes hold an empty one".to_owned()));
            }
            return Ok(value.to_owned());
        };
        self.at += 1;
        let value = self.take(|c| c != quote).to_owned();
        if self.rest().is_empty() {
            return Err(self.error(begin, format!("the quote {quote} is never closed")));
        }
        self.at += 1;
        if self.rest().starts_with(|c: char| !c.is_whitespace()) {
            return Err(self.error(self.at, "expected a blank between two terms".to_owned()));
        }
        Ok(value)
    }

    fn part(&self, key: &str, key_at: usize, at: usize, value: String) -> Result<Test, FilterError> {
        if let Some((_, text)) = TEXTS.into_iter().find(|(name, _)| *name == key) {
            return Ok(Test::Has(text, value));
        }
        self.known(key, key_at)?;
        let texts = TEXTS.map(|(name, _)| name).join(", ");
        Err(self.error(at, format!("`{key}` has no parts: ~ is for {texts}; expected = or !=")))
    }

    fn equal(&self, key: &str, key_at: usize, value_at: usize, value: String) -> Result<Test, FilterError> {
        if let Some((_, text)) = TEXTS.into_iter().find(|(name, _)| *name == key) {
            return Ok(Test::Is(text, value));
        }
        if let Some((_, number)) = NUMBERS.into_iter().find(|(name, _)| *name == key) {
            let expected = || self.error(value_at, format!("expected a number or a range like 0-99, found `{value}`"));
            return Ok(Test::Within(number, range(&value).ok_or_else(expected)?));
        }
        match key {
            "state" => {
                let states = State::ALL.map(State::as_str);
                let unknown = |_| self.error(value_at, one_of("state", &value, &states));
                Ok(Test::State(value.parse().map_err(unknown)?))
            }
            "class" => {
                let classes = FailureClass::ALL.map(FailureClass::as_str);
                let unknown = |_| self.error(value_at, one_of("failure class", &value, &classes));
                Ok(Test::Class(value.parse().map_err(unknown)?))
            }
            _ => self.known(key, key_at).map(|axis| Test::Axis(axis, axis_value(value))),
        }
    }

    /// The key as it is known.
    fn known(&self, key: &str, at: usize) -> Result<&'static str, FilterError> {
        let own =
            TEXTS.map(|(name, _)| name).into_iter().chain(NUMBERS.map(|(name, _)| name)).chain(["state", "class"]);
        let known: Vec<&'static str> = own.chain(PARAMETERS).collect();
        let unknown = || self.error(at, one_of("key", key, &known));
        known.iter().copied().find(|name| *name == key).ok_or_else(unknown)
    }

    fn take(&mut self, fits: impl Fn(char) -> bool) -> &'t str {
        let rest = self.rest();
        let end = rest.find(|c| !fits(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn error(&self, at: usize, problem: String) -> FilterError {
        let column = self.text[..at].chars().count() + 1;
        FilterError { filter: self.text.to_owned(), column, problem }
    }
}

fn one_of(what: &str, found: &str, valid: &[&str]) -> String {
    let hint = nearest(found, valid).map(|name| format!("; did you mean `{name}`?")).unwrap_or_default();
    format!("there is no {what} `{found}`{hint}; expected one of {}", valid.join(", "))
}

/// `7`, or `0-99` with both ends.
fn range(text: &str) -> Option<RangeInclusive<u64>> {
    let number = |text: &str| text.parse::<u64>().ok().filter(|_| text.starts_with(|c: char| c.is_ascii_digit()));
    match text.split_once('-') {
        Some((from, to)) => Some(number(from)?..=number(to)?).filter(|range| !range.is_empty()),
        None => number(text).map(|only| only..=only),
    }
}

fn axis_value(text: String) -> AxisValue {
    if let Ok(numbers) = serde_json::from_str(&text) {
        return AxisValue::Numbers(numbers);
    }
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => AxisValue::Number(number),
        _ => AxisValue::Text(text),
    }
}

impl fmt::Display for Filter {
    /// Parses back to the same filter.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, term) in self.terms.iter().enumerate() {
            write!(f, "{}{term}", if i > 0 { " " } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let equals = if self.negated { "!=" } else { "=" };
        match &self.test {
            Test::Is(text, value) => write!(f, "{}{equals}{}", text.key(), quoted(value)),
            Test::Has(text, value) => write!(f, "{}~{}", text.key(), quoted(value)),
            Test::Within(number, range) if range.start() == range.end() => {
                write!(f, "{}{equals}{}", number.key(), range.start())
            }
            Test::Within(number, range) => write!(f, "{}{equals}{}-{}", number.key(), range.start(), range.end()),
            Test::State(state) => write!(f, "state{equals}{state}"),
            Test::Class(class) => write!(f, "class{equals}{class}"),
            Test::Axis(axis, AxisValue::Number(number)) => write!(f, "{axis}{equals}{number}"),
            Test::Axis(axis, AxisValue::Text(text)) => write!(f, "{axis}{equals}{}", quoted(text)),
            Test::Axis(axis, AxisValue::Numbers(numbers)) => {
                let numbers: Vec<String> = numbers.iter().map(f64::to_string).collect();
                write!(f, "{axis}{equals}[{}]", numbers.join(","))
            }
        }
    }
}

/// A value that needs quotes has at most one kind of them in it, since it was written in the other.
fn quoted(value: &str) -> String {
    if !value.is_empty() && !value.starts_with(['\'', '"']) && !value.contains(char::is_whitespace) {
        return value.to_owned();
    }
    let quote = if value.contains('\'') { '"' } else { '\'' };
    format!("{quote}{value}{quote}")
}

impl Text {
    fn key(self) -> &'static str {
        TEXTS.into_iter().find(|(_, text)| *text == self).map_or("", |(name, _)| name)
    }
}

impl Number {
    fn key(self) -> &'static str {
        NUMBERS.into_iter().find(|(_, number)| *number == self).map_or("", |(name, _)| name)
    }
}

#[cfg(test)]
mod tests;
