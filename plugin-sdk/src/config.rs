//! The operator's configuration as a type of the plugin's own, with errors that point at the value.

use serde::de::DeserializeOwned;
use serde_path_to_error::{Path, Segment};

use crate::types::{ConfigProblem, InitError, PluginContext};

/// Reads the configuration. What does not fit is reported with a JSON pointer to it.
pub fn parse<T: DeserializeOwned>(context: &PluginContext) -> Result<T, InitError> {
    // To know where one is costs as much again, at each start of an instance; only who fails wants to know.
    if let Ok(config) = serde_json::from_str(&context.config) {
        return Ok(config);
    }
    let mut json = serde_json::Deserializer::from_str(&context.config);
    serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let message = error.inner().to_string();
        // The operator wrote TOML; a line of the JSON made from it helps nobody.
        let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(text, _)| text);
        problem(pointer(error.path()), message)
    })
}

/// One wrong value at `at`, a JSON pointer.
pub fn problem(at: impl Into<String>, message: impl Into<String>) -> InitError {
    InitError::InvalidConfig(vec![ConfigProblem { at: at.into(), message: message.into() }])
}

/// RFC 6901.
fn pointer(path: &Path) -> String {
    let mut pointer = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
            Segment::Map { key } => {
                pointer.push_str(&format!("/{}", key.replace('~', "~0").replace('/', "~1")));
            }
            // The variant's name is a key in JSON as well; what is unknown has no place to point to.
            Segment::Enum { variant } => pointer.push_str(&format!("/{variant}")),
            Segment::Unknown => {}
        }
    }
    pointer
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::testing;

    #[derive(Debug, serde::Deserialize, PartialEq)]
    #[serde(rename_all = "kebab-case", deny_unknown_fields)]
    struct Config {
        max_days: u32,
        #[serde(default)]
        rules: Vec<BTreeMap<String, u8>>,
    }

    fn read(json: &str) -> Result<Config, (String, String)> {
        parse(&testing::context(json)).map_err(|error| match error {
            InitError::InvalidConfig(problems) => (problems[0].at.clone(), problems[0].message.clone()),
            InitError::Failed(message) => (String::new(), message),
        })
    }

    #[test]
    fn errors_point_at_the_value() {
        assert_eq!(read(r#"{"max-days": 3}"#), Ok(Config { max_days: 3, rules: vec![] }));
        let (at, message) = read(r#"{"max-days": 3, "rules": [{}, {"a/b~c": 300}]}"#).unwrap_err();
        assert_eq!(at, "/rules/1/a~1b~0c");
        assert_eq!(message, "invalid value: integer `300`, expected u8");
        let (at, message) = read(r#"{"max-day": 3}"#).unwrap_err();
        assert_eq!(
            (at.as_str(), message.contains("unknown field `max-day`")),
            ("/max-day", true),
            "{message}"
        );
        let (at, message) = read("{}").unwrap_err();
        assert_eq!((at.as_str(), message.as_str()), ("", "missing field `max-days`"));
    }
}
