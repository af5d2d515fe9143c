//! An error and its causes in one line.

use std::error::Error;

/// `error: cause: cause`, without causes that the text names already.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("reading {path}{}", if *.tells { ": gone" } else { "" })]
    struct Outer {
        path: &'static str,
        tells: bool,
        source: Inner,
    }

    #[derive(Debug, thiserror::Error)]
    #[error("gone")]
    struct Inner;

    #[test]
    fn every_cause_is_told_once() {
        for tells in [true, false] {
            assert_eq!(chain(&Outer { path: "a.json", tells, source: Inner }), "reading a.json: gone");
        }
    }
}
