//! The language of filters.
#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;

fn error(text: &str) -> String {
    text.parse::<Filter>().unwrap_err().to_string()
}

#[test]
fn terms_are_read_with_their_operators_quotes_and_ranges() {
    let filter: Filter =
        r#" state=failed  class!=io message~"no such file" seed=0-99 gamma=14 region='a b' "#.parse().unwrap();
    let expected = [
        (Test::State(State::Failed), false),
        (Test::Class(FailureClass::Io), true),
        (Test::Has(Text::Message, "no such file".to_owned()), false),
        (Test::Within(Number::Seed, 0..=99), false),
        (Test::Axis("gamma", AxisValue::Number(14.0)), false),
        (Test::Is(Text::Region, "a b".to_owned()), false),
    ];
    let expected: Vec<Term> = expected.into_iter().map(|(test, negated)| Term { test, negated }).collect();
    assert_eq!(filter.terms, expected);
    assert!(filter.names_state() && !filter.is_empty());
    assert!("  ".parse::<Filter>().unwrap().is_empty());
}

#[test]
fn an_error_names_the_column_and_what_was_meant() {
    for (text, expected) in [
        (
            "state=failed klass=io",
            "column 14 of the filter `state=failed klass=io`: there is no key `klass`; did you mean `class`?",
        ),
        ("state=done gama=3", "there is no key `gama`; did you mean `gamma`?"),
        (
            "state=fialed",
            "column 7 of the filter `state=fialed`: there is no state `fialed`; did you mean `failed`?; expected",
        ),
        ("class=oi", "there is no failure class `oi`; did you mean `io`?"),
        ("state", "column 6 of the filter `state`: expected =, != or ~ after `state`"),
        ("=x", "column 1 of the filter `=x`: there is no key ``"),
        ("state= region=FFA", "column 7 of the filter `state= region=FFA`: expected a value here"),
        ("seed=9-3", "column 6 of the filter `seed=9-3`: expected a number or a range like 0-99, found `9-3`"),
        ("seed=+3", "expected a number"),
        ("job=x", "expected a number"),
        ("region='FFA", "column 8 of the filter `region='FFA`: the quote ' is never closed"),
        ("region='FFA'state=done", "column 13 of the filter `region='FFA'state=done`: expected a blank"),
        ("γγ=1", "column 1"),
        ("region=γ seed~1", "column 14 of the filter `region=γ seed~1`: `seed` has no parts"),
    ] {
        let error = error(text);
        assert!(error.contains(expected), "{text}: {error}");
    }
}

proptest! {
    #[test]
    fn a_filter_is_its_text(text in r#"((state=(done|failed)|region!?=('[a-z ]*'|[A-Z]+)|seed!?=[0-9]{1,6}|gamma=-?[0-9]{1,3}(\.5)?|size=\[64,32\]|message~("it's"|[a-z]+)) +){0,4}"#) {
        let filter: Filter = text.parse().unwrap();
        prop_assert_eq!(&filter.to_string().parse::<Filter>().unwrap(), &filter);
        let json = serde_json::to_string(&filter).unwrap();
        prop_assert_eq!(serde_json::from_str::<Filter>(&json).unwrap(), filter);
    }

    #[test]
    fn any_text_is_a_filter_or_an_error_with_its_column(text in ".{0,60}") {
        if let Err(error) = text.parse::<Filter>() {
            prop_assert!((1..=text.chars().count() + 1).contains(&error.column), "{error}");
        }
    }
}
