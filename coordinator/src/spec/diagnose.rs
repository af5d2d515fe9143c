//! What is wrong with an experiment file and the files it names: collected, then rendered as plain text with the line and
//! a caret.

use serde::{Serialize, Serializer};
use std::fmt::{self, Write};
use std::path::{Path, PathBuf};

/// A place in a text: line and column from 1, in characters. Line 0: the file as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Place {
    pub line: usize,
    pub column: usize,
    /// Characters, as far as the line goes.
    pub width: usize,
}

/// Whose fault it is, which decides the exit code of a dry run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The experiment file must be changed.
    Mistake,
    /// The experiment file may be right, but files that it names are missing or damaged.
    Missing,
}

/// One finding. Reads as: where, what was found, what was expected, what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    pub severity: Severity,
    pub place: Place,
    /// What was found.
    pub message: String,
    /// What was expected and what to do, a line each.
    pub notes: Vec<String>,
    /// Files that do not exist.
    pub missing: Vec<PathBuf>,
}

impl Diagnostic {
    /// Adds a line: what was expected, or what to do.
    pub fn note(&mut self, note: impl Into<String>) -> &mut Self {
        self.notes.push(note.into());
        self
    }

    /// Adds the valid names, and the nearest of them if `found` looks like a slip.
    pub fn one_of<'a>(&mut self, found: &str, valid: impl IntoIterator<Item = &'a str>) -> &mut Self {
        let valid: Vec<&str> = valid.into_iter().collect();
        if let Some(name) = nearest(found, &valid) {
            self.note(format!("did you mean `{name}`?"));
        }
        let shown = 24;
        match valid.len() {
            0 => self.note("expected none here"),
            n if n > shown => self.note(format!("expected one of {}, … ({n} in all)", valid[..shown].join(", "))),
            1 => self.note(format!("expected {}", valid[0])),
            _ => self.note(format!("expected one of {}", valid.join(", "))),
        }
    }
}

/// The valid name that `found` most likely stands for.
pub fn nearest<'a>(found: &str, valid: &[&'a str]) -> Option<&'a str> {
    let distance = |name: &str| strsim::damerau_levenshtein(&found.to_lowercase(), &name.to_lowercase());
    let allowed = 1 + found.chars().count().min(64) / 4;
    valid.iter().map(|name| (distance(name), *name)).filter(|(d, _)| *d <= allowed).min().map(|(_, name)| name)
}

/// An experiment file's text, and what was found in it so far. Serialises as the list of findings.
#[derive(Debug, Clone)]
pub struct Diagnostics {
    path: PathBuf,
    text: String,
    found: Vec<Diagnostic>,
}

impl Serialize for Diagnostics {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.found.serialize(serializer)
    }
}

impl Diagnostics {
    /// `path` as the user named it, `text` as it was read.
    pub fn new(path: &Path, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned(), found: Vec::new() }
    }

    /// Adds a mistake in the experiment file.
    pub fn mistake(&mut self, place: Place, message: impl Into<String>) -> &mut Diagnostic {
        self.add(Severity::Mistake, place, message.into())
    }

    /// Adds a finding about files that are missing or damaged.
    pub fn missing(&mut self, place: Place, message: impl Into<String>) -> &mut Diagnostic {
        self.add(Severity::Missing, place, message.into())
    }

    /// Adds a file that does not exist to the finding that says so for `place`.
    pub fn missing_file(&mut self, place: Place, message: &str, path: &Path) {
        let told = self.found.iter().position(|found| found.place == place && found.message == message);
        let told = match told {
            Some(index) => &mut self.found[index],
            None => self.missing(place, message),
        };
        told.note(path.display().to_string()).missing.push(path.to_owned());
    }

    fn add(&mut self, severity: Severity, place: Place, message: String) -> &mut Diagnostic {
        let at = self.found.len();
        self.found.push(Diagnostic { severity, place, message, notes: Vec::new(), missing: Vec::new() });
        &mut self.found[at]
    }

    /// The findings, in the file's order.
    pub fn found(&self) -> &[Diagnostic] {
        &self.found
    }

    /// Puts the findings in the file's order.
    pub fn sort(&mut self) {
        self.found.sort_by_key(|diagnostic| (diagnostic.place.line, diagnostic.place.column));
    }

    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Whether the experiment file itself must be changed.
    pub fn has_mistakes(&self) -> bool {
        self.found.iter().any(|diagnostic| diagnostic.severity == Severity::Mistake)
    }

    /// All findings as text, an empty line between two; `colour` for a terminal.
    pub fn render(&self, colour: bool) -> String {
        let mut text = String::new();
        for (i, diagnostic) in self.found.iter().enumerate() {
            if i > 0 {
                text.push('\n');
            }
            // Writing to a String cannot fail.
            let _ = self.write(&mut text, diagnostic, colour);
        }
        text
    }

    fn write(&self, out: &mut String, diagnostic: &Diagnostic, colour: bool) -> fmt::Result {
        let (red, bold, reset) = if colour { ("\x1b[1;31m", "\x1b[1m", "\x1b[0m") } else { ("", "", "") };
        let Place { line, column, width } = diagnostic.place;
        write!(out, "{bold}{}", self.path.display())?;
        if line > 0 {
            write!(out, ":{line}:{column}")?;
        }
        writeln!(out, ":{reset} {red}{}{reset}", diagnostic.message)?;
        let gutter = line.to_string().len();
        if let Some(source) = line.checked_sub(1).and_then(|index| self.text.lines().nth(index)) {
            let (shown, before, carets) = crop(source, column.max(1) - 1, width);
            writeln!(out, " {line} | {shown}")?;
            writeln!(out, " {:gutter$} | {}{red}{}{reset}", "", " ".repeat(before), "^".repeat(carets))?;
        }
        for note in &diagnostic.notes {
            writeln!(out, " {:gutter$} = {note}", "")?;
        }
        Ok(())
    }
}

/// A source line fit to be shown, the characters before the caret in it, and the number of carets. Tabs and control
/// characters become one blank each, so that the caret stands where it should; a long line is cut around the place.
fn crop(source: &str, start: usize, width: usize) -> (String, usize, usize) {
    const LONGEST: usize = 110;
    const LEAD: usize = 40;
    let characters: Vec<char> = source.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let start = start.min(characters.len());
    let from = if characters.len() > LONGEST { start.saturating_sub(LEAD) } else { 0 };
    let to = characters.len().min(from + LONGEST);
    let carets = width.min(to - start).max(1);
    (characters[from..to].iter().collect(), start - from, carets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_finds_slips_and_ignores_what_is_far() {
        let valid = ["gamma", "steps", "sag_scale"];
        assert_eq!(nearest("gama", &valid), Some("gamma"));
        assert_eq!(nearest("Steps", &valid), Some("steps"));
        assert_eq!(nearest("sagscale", &valid), Some("sag_scale"));
        assert_eq!(nearest("temperature", &valid), None);
    }

    #[test]
    fn a_long_line_is_cut_around_the_caret() {
        let source = "x".repeat(500) + "HERE" + &"y".repeat(500);
        let (shown, before, carets) = crop(&source, 500, 4);
        let marked: String = shown.chars().skip(before).take(carets).collect();
        assert_eq!(marked, "HERE");
        assert!(shown.len() <= 110);
    }
}
