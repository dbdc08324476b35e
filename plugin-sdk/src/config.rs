//! The operator's configuration as a type of the plugin's own, with errors that point at the value.

use serde::de::DeserializeOwned;

use crate::types::{ConfigProblem, InitError, PluginContext};

/// Reads the configuration. What does not fit is reported with a JSON pointer to it.
pub fn parse<T: DeserializeOwned>(context: &PluginContext) -> Result<T, InitError> {
    let text = &context.config;
    serde_json::from_str(text).map_err(|error| {
        let message = error.to_string();
        // The operator wrote TOML; a line of the JSON made from it helps nobody.
        let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(text, _)| text);
        problem(pointer(until_it_fails::<T>(text)), message)
    })
}

/// One wrong value at `at`, a JSON pointer.
pub fn problem(at: impl Into<String>, message: impl Into<String>) -> InitError {
    InitError::InvalidConfig(vec![ConfigProblem { at: at.into(), message: message.into() }])
}

/// The least of `text` that fails for another reason than that it is cut short. A deserializer that knows where it is would
/// find out at once; but each instance reads its configuration, and all of them would pay for that, and with a fifth of
/// the component's code.
fn until_it_fails<T: DeserializeOwned>(text: &str) -> &str {
    let bytes = text.as_bytes();
    let of_number = |at: usize| {
        bytes.get(at).is_some_and(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'))
    };
    // Half a number is another number.
    let is_end = |end: usize| text.is_char_boundary(end) && !(of_number(end - 1) && of_number(end));
    let ends: Vec<usize> = (1..=text.len()).filter(|&end| is_end(end)).collect();
    let cut_short = |&end: &usize| serde_json::from_str::<T>(&text[..end]).is_err_and(|error| error.is_eof());
    ends.get(ends.partition_point(cut_short)).map_or(text, |&end| &text[..end])
}

/// Where `json` ends, as of RFC 6901: the value that it ends with or in, or the key that has none yet.
fn pointer(json: &str) -> String {
    enum Place<'a> {
        Object(Option<&'a str>),
        Array(usize),
    }
    let mut places = Vec::new();
    let mut rest = json;
    while let Some(next) = rest.chars().next() {
        let token = if next == '"' { string(rest) } else { &rest[..next.len_utf8()] };
        rest = &rest[token.len()..];
        match (next, places.last_mut()) {
            // Of one that has just begun, it is the whole that does not fit.
            ('{' | '[', _) if rest.is_empty() => {}
            ('{', _) => places.push(Place::Object(None)),
            ('[', _) => places.push(Place::Array(0)),
            ('}' | ']', _) => drop(places.pop()),
            (',', Some(Place::Object(key))) => *key = None,
            (',', Some(Place::Array(index))) => *index += 1,
            ('"', Some(Place::Object(key @ None))) => *key = Some(token),
            _ => {}
        }
    }
    let segment = |place: &Place<'_>| match place {
        Place::Object(None) => String::new(),
        Place::Object(Some(key)) => {
            let key: String = serde_json::from_str(key).unwrap_or_default();
            format!("/{}", key.replace('~', "~0").replace('/', "~1"))
        }
        Place::Array(index) => format!("/{index}"),
    };
    places.iter().map(segment).collect()
}

/// The string that `json` begins with, in its quotation marks.
fn string(json: &str) -> &str {
    let mut escaped = false;
    let end = json.bytes().skip(1).position(|byte| {
        let is_end = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        is_end
    });
    end.map_or(json, |end| &json[..end + 2])
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

    #[test]
    fn whatever_it_is_that_does_not_fit() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(try_from = "u32")]
        struct Tens;
        impl TryFrom<u32> for Tens {
            type Error = &'static str;

            fn try_from(number: u32) -> Result<Self, Self::Error> {
                if number.is_multiple_of(10) { Ok(Self) } else { Err("not of ten") }
            }
        }
        #[derive(Debug, serde::Deserialize)]
        #[serde(untagged)]
        enum Either {
            Flag(#[allow(dead_code, reason = "only read")] bool),
            Tens(#[allow(dead_code, reason = "only read")] Tens),
        }
        #[derive(Debug, serde::Deserialize)]
        #[serde(rename_all = "kebab-case")]
        enum Kind {
            Plain,
            Pair(#[allow(dead_code, reason = "only read")] u8, #[allow(dead_code, reason = "only read")] u8),
        }
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        #[allow(dead_code, reason = "only read")]
        struct All {
            #[serde(default)]
            tens: Vec<Tens>,
            #[serde(default)]
            text: String,
            #[serde(default)]
            deep: Option<Box<All>>,
            #[serde(default)]
            either: Vec<Either>,
            #[serde(default)]
            kind: Option<Kind>,
        }
        for (json, at, message) in [
            // 1 is none, and 10 is one.
            (r#"{"tens": [10, 20, 130, 7], "text": "x"}"#, "/tens/3", "not of ten"),
            (r#"{"tens": [10, 25, 30]}"#, "/tens/1", "not of ten"),
            (r#"{"tens": 10}"#, "/tens", "invalid type: integer `10`, expected a sequence"),
            (r#"{"text": ["a"]}"#, "/text", "invalid type: sequence, expected a string"),
            (r#"{"text": {"a": 1}, "tens": []}"#, "/text", "invalid type: map, expected a string"),
            (
                r#"{"deep": {"deep": {"text": null}}}"#,
                "/deep/deep/text",
                "invalid type: null, expected a string",
            ),
            (
                r#"{"deep": {"text": "\"},[{", "tens": [true]}}"#,
                "/deep/tens/0",
                "invalid type: boolean `true`, expected u32",
            ),
            (r#"{"text": "ä€😀", "deep": {"€/\"~": 1}, "tens": [1]}"#, "/deep/€~1\"~0", "unknown field"),
            (r#"{"either": [true, 10, "x"], "text": "y"}"#, "/either/2", "data did not match any variant"),
            (r#"{"kind": "other", "text": "y"}"#, "/kind", "unknown variant `other`"),
            (r#"{"kind": {"pair": [1, 300]}}"#, "/kind/pair/1", "invalid value: integer `300`, expected u8"),
            (r#"{"kind": {"pair": [1]}, "text": "y"}"#, "/kind/pair", "invalid length 1"),
            (r#"{"text": "x", "text": "y"}"#, "/text", "duplicate field `text`"),
            ("7", "", "invalid type: integer `7`, expected struct All"),
            // As derived: the fields of a record, one after the other.
            ("[1, 2", "/0", "invalid type: integer `1`, expected a sequence"),
            ("", "", "EOF while parsing a value"),
            (r#"{"tens": [10}"#, "/tens", "expected `,` or `]`"),
        ] {
            let error = parse::<All>(&testing::context(json)).unwrap_err();
            let InitError::InvalidConfig(problems) = error else { panic!("{json}: {error:?}") };
            assert_eq!(problems[0].at, at, "{json}: {}", problems[0].message);
            assert!(problems[0].message.starts_with(message), "{json}: {}", problems[0].message);
        }
    }
}
