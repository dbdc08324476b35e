//! What was changed by the API and not in the file: kept in the data directory, laid over file and environment
//! whenever the configuration is read.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Map, Value};

use crate::config::source::PREFIX;
use crate::pki::write_private;

/// Values by key, as the configuration nests them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Overrides(Map<String, Value>);

pub fn file(data_dir: &Path) -> PathBuf {
    data_dir.join("overrides.json")
}

impl Overrides {
    pub fn read(file: &Path) -> Result<Self> {
        match std::fs::read(file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("{} cannot be read", file.display())),
            Ok(bytes) => Ok(Self(
                serde_json::from_slice(&bytes)
                    .with_context(|| format!("{} holds no settings", file.display()))?,
            )),
        }
    }

    pub fn write(&self, file: &Path) -> Result<()> {
        if self.0.is_empty() {
            return match std::fs::remove_file(file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(error).with_context(|| format!("{} cannot be removed", file.display()))
                }
                _ => Ok(()),
            };
        }
        write_private(file, &serde_json::to_vec_pretty(&self.0)?)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn shown(&self) -> Value {
        Value::Object(self.0.clone())
    }

    /// Lays `patch` over a table of this, as RFC 7396 has it: `null` takes a value away, so that the file's holds.
    #[must_use]
    pub fn patched(&self, path: &[&str], patch: Value) -> Self {
        let nested = path
            .iter()
            .rev()
            .fold(patch, |inner, key| Value::Object(std::iter::once(((*key).to_owned(), inner)).collect()));
        let mut merged = Value::Object(self.0.clone());
        merge(&mut merged, nested);
        prune(&mut merged);
        match merged {
            Value::Object(map) => Self(map),
            _ => Self::default(),
        }
    }

    /// As the environment would say it: names of variables, and values.
    pub fn variables(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        collect(PREFIX.trim_end_matches('_'), &Value::Object(self.0.clone()), &mut found);
        found
    }
}

fn merge(into: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *into = patch;
        return;
    };
    if !into.is_object() {
        *into = Value::Object(Map::new());
    }
    let Value::Object(map) = into else { return };
    for (key, value) in patch {
        match value {
            Value::Null => drop(map.remove(&key)),
            value => merge(map.entry(key).or_insert(Value::Null), value),
        }
    }
}

/// Takes tables away that hold nothing.
fn prune(value: &mut Value) {
    if let Value::Object(map) = value {
        map.values_mut().for_each(prune);
        map.retain(|_, value| !matches!(value, Value::Object(inner) if inner.is_empty()) && !value.is_null());
    }
}

fn collect(prefix: &str, value: &Value, found: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let name = format!("{prefix}__{}", key.to_ascii_uppercase().replace('-', "_"));
                collect(&name, value, found);
            }
        }
        Value::String(text) => found.push((prefix.to_owned(), text.clone())),
        // Numbers, booleans and lists of JSON are those of TOML.
        value => found.push((prefix.to_owned(), value.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_laid_over_each_other_and_taken_away() {
        let none = Overrides::default();
        let one = none.patched(&["listeners", "main"], json!({ "auth_mode": "mutual", "depth": 2 }));
        assert_eq!(one.shown(), json!({ "listeners": { "main": { "auth_mode": "mutual", "depth": 2 } } }));
        let two = one.patched(&["listeners", "main"], json!({ "depth": null, "versions": ["tlsv1.3"] }));
        assert_eq!(
            two.shown(),
            json!({ "listeners": { "main": { "auth_mode": "mutual", "versions": ["tlsv1.3"] } } })
        );
        let gone = json!({ "auth_mode": null, "versions": null });
        assert_eq!(two.patched(&["listeners", "main"], gone), none);
    }

    #[test]
    fn they_are_kept_and_read_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = file(folder.path());
        assert_eq!(Overrides::read(&file).expect("none"), Overrides::default());
        let some = Overrides::default().patched(&["listeners", "a-b"], json!({ "max_connections": 7 }));
        some.write(&file).expect("written");
        assert_eq!(Overrides::read(&file).expect("some"), some);
        assert_eq!(
            some.variables(),
            [(String::from("MQGATE__LISTENERS__A_B__MAX_CONNECTIONS"), String::from("7"))]
        );
        Overrides::default().write(&file).expect("removed");
        assert!(!file.exists());
    }
}
