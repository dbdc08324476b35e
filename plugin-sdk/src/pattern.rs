//! Regular expressions of the configuration. They always cover the whole text: a pattern that was meant for
//! all of a name must not be satisfied by a part of it.

use std::fmt;

use regex_lite::Regex;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

pub struct Pattern(Regex);

impl Pattern {
    pub fn matches(&self, text: &str) -> bool {
        self.0.is_match(text)
    }

    /// The first group of the pattern, or all of the text where it has none; `None` when it does not match.
    pub fn capture<'t>(&self, text: &'t str) -> Option<&'t str> {
        let found = self.0.captures(text)?;
        let group = if found.len() > 1 { found.get(1)? } else { found.get(0)? };
        Some(group.as_str())
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        // Whole by itself, so that its parentheses cannot close ours.
        Regex::new(&text).map_err(D::Error::custom)?;
        // `\z` and not `$`: nothing may follow, not even a line end.
        Regex::new(&format!(r"\A(?:{text})\z")).map(Self).map_err(D::Error::custom)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.0.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        serde_json::from_value(text.into()).unwrap()
    }

    #[test]
    fn a_pattern_covers_the_whole_text() {
        assert!(pattern("meter-[0-9]+").matches("meter-7"));
        for other in ["xmeter-7", "meter-7x", "meter-7\n", "meter-7/#"] {
            assert!(!pattern("meter-[0-9]+").matches(other), "{other:?}");
        }
        // Alternatives stay inside.
        assert!(!pattern("a|b").matches("ab"));
        for wrong in ["(", "a)|(b"] {
            assert!(serde_json::from_value::<Pattern>(wrong.into()).is_err());
        }
    }

    #[test]
    fn the_first_group_is_the_value() {
        assert_eq!(pattern("urn:device:(.+)").capture("urn:device:7"), Some("7"));
        assert_eq!(pattern(".+").capture("x"), Some("x"));
        assert_eq!(pattern("(a)|b").capture("b"), None);
        assert_eq!(pattern("urn:(.+)").capture("x"), None);
    }
}
