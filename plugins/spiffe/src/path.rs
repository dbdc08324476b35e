//! Patterns of paths, `/region/${region}/*/${id}`, and the values they take from a SPIFFE ID.

use mqgate_plugin_sdk::access::BROKER_VARIABLES;

use crate::id::{SpiffeId, is_segment_char};

#[derive(Debug, PartialEq, Eq)]
pub struct PathPattern {
    parts: Vec<Part>,
    /// `**` at the end: one segment or more follow.
    open: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    /// `*`.
    Any,
    /// `${name}`.
    Variable(String),
}

/// What a pattern took from a path, by name.
pub type Captured<'p, 'u> = Vec<(&'p str, &'u str)>;

impl PathPattern {
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some(path) = text.strip_prefix('/') else { return Err("begins with /".into()) };
        let (path, open) = match path.strip_suffix("**") {
            Some("") => return Ok(Self { parts: Vec::new(), open: true }),
            Some(path) => match path.strip_suffix('/') {
                Some(path) => (path, true),
                None => return Err("has ** as the whole last segment, or not at all".into()),
            },
            None => (path, false),
        };
        let mut parts = Vec::new();
        for segment in path.split('/') {
            let part = match segment.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')) {
                Some(name) => variable(name, &parts)?,
                None if segment == "*" => Part::Any,
                None if matches!(segment, "" | "." | "..") || !segment.chars().all(is_segment_char) => {
                    return Err(format!("has {segment:?}, which is no segment of a path"));
                }
                None => Part::Text(segment.to_owned()),
            };
            parts.push(part);
        }
        Ok(Self { parts, open })
    }

    /// `None` where the path is another.
    pub fn take<'p, 'u>(&'p self, id: &SpiffeId<'u>) -> Option<Captured<'p, 'u>> {
        let mut segments = id.segments();
        let mut captured = Vec::new();
        for part in &self.parts {
            let segment = segments.next()?;
            match part {
                Part::Text(text) if text == segment => {}
                Part::Text(_) => return None,
                Part::Any => {}
                Part::Variable(name) => captured.push((name.as_str(), segment)),
            }
        }
        let more = segments.next().is_some();
        (more == self.open).then_some(captured)
    }

    pub fn has(&self, name: &str) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Variable(variable) if variable == name))
    }
}

fn variable(name: &str, before: &[Part]) -> Result<Part, String> {
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || !name.chars().all(fine) {
        return Err(format!("has ${{{name}}}; names are made of a to z, 0 to 9 and -"));
    }
    if name == "trust-domain" || BROKER_VARIABLES.contains(&name) {
        return Err(format!("cannot take ${{{name}}}, which has another meaning"));
    }
    let part = Part::Variable(name.to_owned());
    if before.contains(&part) { Err(format!("has ${{{name}}} twice")) } else { Ok(part) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(pattern: &str, path: &str) -> Option<String> {
        let pattern = PathPattern::parse(pattern).unwrap();
        let uri = format!("spiffe://d{path}");
        let captured = pattern.take(&SpiffeId::parse(&uri).unwrap())?;
        Some(captured.iter().map(|(name, value)| format!("{name}={value} ")).collect())
    }

    #[test]
    fn a_pattern_is_about_the_whole_path() {
        assert_eq!(take("/r/${region}/*/${id}", "/r/eu/x/7").unwrap(), "region=eu id=7 ");
        for other in ["", "/r/eu/x", "/r/eu/x/7/8", "/R/eu/x/7", "/q/eu/x/7"] {
            assert_eq!(take("/r/${region}/*/${id}", other), None, "{other}");
        }
        assert_eq!(take("/${a}/**", "/x/y/z").unwrap(), "a=x ");
        assert_eq!(take("/${a}/**", "/x"), None);
        assert_eq!(take("/**", "/x").unwrap(), "");
        assert_eq!(take("/**", ""), None);
    }

    #[test]
    fn a_wrong_pattern_is_found() {
        for wrong in [
            "",
            "a",
            "/",
            "/a/",
            "/a//b",
            "/../a",
            "/a+",
            "/a/${}",
            "/a/${X}",
            "/x${a}",
            "/${a}/${a}",
            "/a**",
            "/**/a",
            "/${trust-domain}",
            "/${tenant}",
            "/${device-id}",
            "/${client-id}",
            "/ü",
        ] {
            assert!(PathPattern::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
