//! The JSON configurations that lie beside the weights.

use crate::error::{Error, Result};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::Path;

/// Reads a JSON configuration. `fixed` holds settings that change what a model computes but not the shape of its weights, with
/// the only value that is implemented: where the file sets one of them to something else, reading on would be silently wrong.
/// Settings that are absent or null are accepted.
///
/// # Errors
/// The file cannot be read, does not say what `T` needs, or deviates from `fixed`; the error names file and key, or line and column.
pub fn read_config<T: DeserializeOwned>(path: impl AsRef<Path>, fixed: &Value) -> Result<T> {
    let path = || path.as_ref().to_owned();
    let text = std::fs::read(path()).map_err(|source| Error::Read { path: path(), source })?;
    let malformed = |source| Error::Config { path: path(), source };
    if let Some((key, found, expected)) = deviation(&serde_json::from_slice(&text).map_err(malformed)?, fixed) {
        return Err(Error::Unsupported { path: path(), key, found: found.to_string(), expected: expected.to_string() });
    }
    serde_json::from_slice(&text).map_err(malformed)
}

/// The first setting that differs from `fixed`: its key, what was found, what was expected.
fn deviation(found: &Value, fixed: &Value) -> Option<(String, Value, Value)> {
    match (found, fixed) {
        (Value::Null, _) => None,
        (Value::Object(found), Value::Object(fixed)) => fixed.iter().find_map(|(name, fixed)| {
            let (key, found, expected) = deviation(found.get(name)?, fixed)?;
            Some((if key.is_empty() { name.clone() } else { format!("{name}.{key}") }, found, expected))
        }),
        _ => {
            let equal = found == fixed || found.is_number() && found.as_f64() == fixed.as_f64();
            (!equal).then(|| (String::new(), found.clone(), fixed.clone()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_setting_with_another_value_than_the_implemented_one_is_refused_by_its_key() {
        let fixed =
            json!({ "act_fn": "silu", "scale": 1, "class_embed_type": null, "text_cfg": { "pool_type": "argmax" } });
        let file = tempfile::NamedTempFile::new().unwrap();
        let read = |config: Value| {
            std::fs::write(file.path(), config.to_string()).unwrap();
            read_config::<Value>(file.path(), &fixed).map_err(|error| error.to_string())
        };
        for accepted in [json!({}), json!({ "act_fn": null, "scale": 1.0, "text_cfg": { "other": 3 } })] {
            assert_eq!(read(accepted.clone()), Ok(accepted));
        }
        for (refused, message) in [
            (json!({ "act_fn": "gelu" }), "`act_fn` is \"gelu\", expected \"silu\""),
            (json!({ "class_embed_type": "timestep" }), "`class_embed_type` is \"timestep\", expected null"),
            (json!({ "text_cfg": { "pool_type": "last" } }), "`text_cfg.pool_type` is \"last\", expected \"argmax\""),
        ] {
            let found = read(refused).unwrap_err();
            assert!(found.contains(message), "{found}");
        }
    }
}
