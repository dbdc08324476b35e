//! What holds, and where each value came from; secrets left out.

use serde_json::Value;

use super::problem::Place;
use super::schema::Shape;
use super::source::{Source, Step, dotted};
use super::{Config, Inputs};

/// One effective value.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Entry {
    pub key: String,
    /// As TOML would write it.
    pub value: Value,
    /// `default`, `line 12`, or the name of an environment variable.
    pub origin: String,
}

/// Every key of the configuration.
pub fn entries(config: &Config, inputs: &Inputs) -> Vec<Entry> {
    let shape = Shape::config();
    let source = inputs.source(&shape).ok();
    let value = serde_json::to_value(config).unwrap_or_default();
    let mut entries = Vec::new();
    collect(&value, source.as_ref(), &mut Vec::new(), &mut entries);
    entries
}

/// The whole configuration as a tree, with secrets left out.
pub fn without_secrets(config: &Config) -> Value {
    hide_secrets(serde_json::to_value(config).unwrap_or_default())
}

/// The same for a part of one, from its root.
pub fn hide_secrets(mut value: Value) -> Value {
    fn walk(value: &mut Value, path: &mut Vec<Step>) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    path.push(Step::Key(key.clone()));
                    walk(value, path);
                    path.pop();
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| walk(item, path)),
            leaf if hides(path) => *leaf = Value::from("(secret)"),
            _ => {}
        }
    }
    walk(&mut value, &mut Vec::new());
    value
}

/// Whether a key of somebody's free settings is likely to hold a secret.
pub fn is_secret(key: &str) -> bool {
    const WORDS: [&str; 10] = [
        "password",
        "passwd",
        "secret",
        "token",
        "credential",
        "api_key",
        "private_key",
        "salt",
        "pepper",
        "hmac",
    ];
    let key = key.to_ascii_lowercase().replace('-', "_");
    key.ends_with("_key") || WORDS.iter().any(|word| key.contains(word))
}

fn collect(value: &Value, source: Option<&Source<'_>>, path: &mut Vec<Step>, entries: &mut Vec<Entry>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                path.push(Step::Key(key.clone()));
                collect(value, source, path, entries);
                path.pop();
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            for (index, value) in items.iter().enumerate() {
                path.push(Step::Index(index));
                collect(value, source, path, entries);
                path.pop();
            }
        }
        leaf => entries.push(Entry {
            key: dotted(path),
            value: if hides(path) { Value::from("(secret)") } else { leaf.clone() },
            origin: source.map_or_else(String::new, |source| origin(source, path)),
        }),
    }
}

/// Free settings can hold secrets, and passwords of keys are some; everything else is a path, a number or a name.
fn hides(path: &[Step]) -> bool {
    if path.last() == Some(&Step::Key(String::from("password"))) {
        return true;
    }
    let mut keys = path.iter().filter_map(|step| match step {
        Step::Key(key) => Some(key.as_str()),
        Step::Index(_) => None,
    });
    keys.any(|key| key == "config") && keys.any(is_secret)
}

fn origin(source: &Source<'_>, path: &[Step]) -> String {
    // A value inside a list or an inline table stands where the list stands.
    let place = (1..=path.len()).rev().find_map(|length| {
        let (value, _) = source.find(&path[..length])?;
        let whole = length == path.len() || !matches!(value.get_ref(), toml::de::DeValue::Table(_));
        whole.then(|| source.place_of(&value.span()))
    });
    match place {
        Some(Place::File { line, .. }) => format!("line {line}"),
        Some(Place::Environment(name)) => name,
        Some(Place::Nowhere) | None => String::from("default"),
    }
}

/// One line per key.
pub fn render(entries: &[Entry]) -> String {
    let lines: Vec<(String, &str)> = entries
        .iter()
        .map(|entry| (format!("{} = {}", entry.key, entry.value), entry.origin.as_str()))
        .collect();
    let width = lines.iter().map(|(line, _)| line.chars().count()).max().unwrap_or(0).min(70);
    lines.iter().map(|(line, origin)| format!("{line:width$}  # {origin}\n")).collect()
}
