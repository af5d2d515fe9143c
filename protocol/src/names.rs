//! Names of an enum's variants: in the database, on the wire, on the command line.

/// A text that names none of an enum's variants.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {what}: expected {}", listed(.expected))]
pub struct UnknownName {
    pub text: String,
    /// `a kind of work`
    pub what: &'static str,
    pub expected: &'static [&'static str],
}

fn listed(names: &[&str]) -> String {
    match names {
        [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        _ => names.concat(),
    }
}

/// Gives the variants of an enum their names: `ALL` in the order of the list, `as_str`, `Display`, and `FromStr`, which says what it expected.
///
/// A variant that is not in the list does not compile. Serde has to be told the same names.
#[macro_export]
macro_rules! named {
    ($type:ident, $what:literal, { $($variant:ident: $name:literal),+ $(,)? }) => {
        impl $type {
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$variant),+];

            /// The name used in the database, on the wire and on the command line.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),+
                }
            }
        }

        impl ::std::fmt::Display for $type {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl ::std::str::FromStr for $type {
            type Err = $crate::names::UnknownName;
            fn from_str(text: &str) -> ::std::result::Result<Self, Self::Err> {
                let named = |variant: &Self| variant.as_str() == text;
                Self::ALL.into_iter().find(named).ok_or_else(|| $crate::names::UnknownName {
                    text: text.to_owned(),
                    what: $what,
                    expected: &[$($name),+],
                })
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use crate::job::{Kind, Precision};
    use crate::outcome::FailureClass;
    use serde::Serialize;
    use std::fmt::Display;

    fn assert_written_as_named(variants: &[impl Serialize + Display]) {
        for variant in variants {
            let written = serde_json::to_value(variant).expect("it is written");
            assert_eq!(written, variant.to_string());
        }
    }

    #[test]
    fn serde_writes_variants_as_they_are_named() {
        assert_written_as_named(&Kind::ALL);
        assert_written_as_named(&Precision::ALL);
        assert_written_as_named(&FailureClass::ALL);
    }

    #[test]
    fn names_read_back_and_others_are_told_what_was_expected() {
        assert!(Precision::ALL.into_iter().all(|precision| precision.as_str().parse() == Ok(precision)));
        let error = "float8".parse::<Precision>().map_err(|error| error.to_string());
        assert_eq!(error, Err("`float8` is not a precision: expected single, half or bfloat16".to_owned()));
    }
}
