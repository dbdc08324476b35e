//! Patterns of names that a CA's certificates must have to be registered by themselves. What cannot be compared
//! fits nothing.

use super::CaSettings;
use super::names::alternative_name;
use crate::certificate::{CertificateFacts, attribute_short_name, is_attribute_name};

/// Patterns of one kind for one CA.
pub const MAX_PATTERNS: usize = 64;
pub const MAX_PATTERN_BYTES: usize = 256;
const NAME_TYPES: [&str; 5] = ["dns", "email", "uri", "ip", "id"];

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error("the pattern \"{0}\" is not of the form ATTRIBUTE=TEXT, such as CN=meter-*")]
    Subject(String),
    #[error(
        "the pattern \"{0}\" is not of the form TYPE:TEXT with a type of dns, email, uri, ip or id, such as dns:*.meters.example"
    )]
    AlternativeName(String),
    #[error("a pattern has at most {MAX_PATTERN_BYTES} bytes, and there are at most {MAX_PATTERNS}")]
    TooLarge,
}

/// Whether the patterns in the settings can be used.
pub(super) fn check(settings: &CaSettings) -> Result<(), PatternError> {
    for patterns in [&settings.subject_patterns, &settings.san_patterns] {
        if patterns.len() > MAX_PATTERNS || patterns.iter().any(|pattern| pattern.len() > MAX_PATTERN_BYTES) {
            return Err(PatternError::TooLarge);
        }
    }
    for pattern in &settings.subject_patterns {
        let attribute = pattern.split_once('=').map(|(attribute, _)| attribute.trim());
        let is_known = attribute.is_some_and(|attribute| {
            let is_oid = attribute.contains('.')
                && attribute.split('.').all(|arc| !arc.is_empty() && arc.bytes().all(|b| b.is_ascii_digit()));
            is_oid || is_attribute_name(attribute)
        });
        if !is_known {
            return Err(PatternError::Subject(pattern.clone()));
        }
    }
    for pattern in &settings.san_patterns {
        if !pattern.split_once(':').is_some_and(|(kind, _)| NAME_TYPES.contains(&kind)) {
            return Err(PatternError::AlternativeName(pattern.clone()));
        }
    }
    Ok(())
}

/// Whether one of the patterns fits one of the subject's attributes.
pub(super) fn subject_fits(patterns: &[String], facts: &CertificateFacts) -> bool {
    patterns.is_empty()
        || patterns.iter().filter_map(|pattern| pattern.split_once('=')).any(|(wanted, glob)| {
            facts.subject.attributes.iter().any(|attribute| {
                let is_meant = attribute.oid == wanted.trim()
                    || attribute_short_name(&attribute.oid)
                        .is_some_and(|name| name.eq_ignore_ascii_case(wanted.trim()));
                is_meant && attribute.text.as_deref().is_some_and(|text| fits(glob, text))
            })
        })
}

/// The first alternative name that none of the patterns fits.
pub(super) fn misfit(patterns: &[String], facts: &CertificateFacts) -> Option<String> {
    if patterns.is_empty() {
        return None;
    }
    facts.subject_alt_names.iter().find_map(|name| match alternative_name(name) {
        None => Some(String::from("a name of another type")),
        Some(text) => {
            let fits_one = patterns.iter().any(|pattern| match pattern.split_once(':') {
                Some(("dns", _)) => fits(&pattern.to_ascii_lowercase(), &text),
                Some(_) => fits(pattern, &text),
                None => false,
            });
            (!fits_one).then_some(text)
        }
    })
}

/// `*` stands for any text, the empty one included. Work is bounded by the product of the lengths.
fn fits(glob: &str, text: &str) -> bool {
    let mut pieces = glob.split('*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let Some(mut piece) = pieces.next() else { return rest.is_empty() };
    for next in pieces {
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
        piece = next;
    }
    rest.ends_with(piece)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        for (glob, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "", true),
            ("*", "any thing", true),
            ("meter-*", "meter-", true),
            ("meter-*", "meter", false),
            ("*.example", "a.example", true),
            ("*.example", "a.example.org", false),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxcyyb", false),
            ("a*a", "a", false),
            ("*ä*", "xäx", true),
            ("**", "x", true),
        ] {
            assert_eq!(fits(glob, text), expected, "{glob} {text}");
        }
    }

    #[test]
    fn patterns_have_a_form() {
        let settings = |subject: &[&str], san: &[&str]| CaSettings {
            subject_patterns: subject.iter().map(|text| (*text).to_owned()).collect(),
            san_patterns: san.iter().map(|text| (*text).to_owned()).collect(),
            ..CaSettings::default()
        };
        for good in [
            settings(&[], &[]),
            settings(&["CN=meter-*", "ou = x", "2.5.4.3=*", "O="], &["dns:*.x", "uri:urn:dev:*", "ip:10.*"]),
        ] {
            assert_eq!(check(&good), Ok(()), "{good:?}");
        }
        let long = "x".repeat(MAX_PATTERN_BYTES);
        for (bad, error) in [
            (settings(&["meter"], &[]), PatternError::Subject("meter".into())),
            (settings(&["XY=meter"], &[]), PatternError::Subject("XY=meter".into())),
            (settings(&["2.5.=x"], &[]), PatternError::Subject("2.5.=x".into())),
            (settings(&[], &["*.x"]), PatternError::AlternativeName("*.x".into())),
            (settings(&[], &["DNS:x"]), PatternError::AlternativeName("DNS:x".into())),
            (settings(&[&format!("CN={long}")], &[]), PatternError::TooLarge),
            (settings(&vec!["CN=x"; MAX_PATTERNS + 1], &[]), PatternError::TooLarge),
        ] {
            assert_eq!(check(&bad), Err(error), "{bad:?}");
        }
    }
}
