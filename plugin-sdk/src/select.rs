//! Choosing by certificate: which value names a device ([`Source`]), and which certificates a rule is about
//! ([`Criteria`]). Both are read from configuration.

use std::fmt;

use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::certificate::{Field, FieldError};
use crate::pattern::Pattern;
use crate::template::{Unsafe, plain};
use crate::types::ClientCertificate;

/// A field, and the part of its value that counts: `"cn"`, or `{ from = "san.uri", pattern = "urn:x:(.+)" }`.
#[derive(Debug)]
pub struct Source {
    pub field: Field,
    pub pattern: Option<Pattern>,
}

/// Why a source has no usable value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceError {
    Field(FieldError),
    Unsafe(Field, Unsafe),
}

/// What must hold of a certificate: `{ ou = "meters", cn = { pattern = "m-.*" }, o = ["a", "b"] }`.
#[derive(Debug, Default)]
pub struct Criteria(Vec<(Field, Criterion)>);

/// Holds when it does for one value of the field.
#[derive(Debug)]
enum Criterion {
    OneOf(Vec<String>),
    Pattern(Pattern),
}

impl Source {
    pub fn field(field: Field) -> Self {
        Self { field, pattern: None }
    }

    /// The one value, fit to be a name and a topic level; `None` where the certificate has none. Without a
    /// pattern the field must have one value at most; with one, at most one of its values may match.
    pub fn value(&self, of: &ClientCertificate) -> Result<Option<String>, SourceError> {
        let values = self.field.values(of).map_err(SourceError::Field)?;
        let mut counting: Vec<&str> = match &self.pattern {
            None => values.iter().map(AsRef::as_ref).collect(),
            Some(pattern) => values.iter().filter_map(|value| pattern.capture(value)).collect(),
        };
        let Some(value) = counting.pop() else { return Ok(None) };
        if !counting.is_empty() {
            return Err(SourceError::Field(FieldError::Several(self.field, counting.len() + 1)));
        }
        plain(value).map_err(|why| SourceError::Unsafe(self.field, why))?;
        Ok(Some(value.to_owned()))
    }

    /// The value of the first source that has one. A value that cannot be used is an error and not passed over:
    /// otherwise a certificate could choose by which of its names it is known.
    pub fn first(sources: &[Self], of: &ClientCertificate) -> Result<Option<String>, SourceError> {
        sources.iter().find_map(|source| source.value(of).transpose()).transpose()
    }
}

impl Criteria {
    /// Whether all hold. A field that cannot be read is an error and not a mismatch: it would otherwise lead
    /// past a rule that was written against its owner.
    pub fn hold(&self, of: &ClientCertificate) -> Result<bool, FieldError> {
        let mut all = true;
        for (field, criterion) in &self.0 {
            let values = field.values(of)?;
            all &= values.iter().any(|value| match criterion {
                Criterion::OneOf(texts) => texts.iter().any(|text| text == value),
                Criterion::Pattern(pattern) => pattern.matches(value),
            });
        }
        Ok(all)
    }
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(error) => error.fmt(f),
            Self::Unsafe(field, why) => write!(f, "{} of the certificate {why}", field.name()),
        }
    }
}

// By hand and not with `untagged`, which forgets what was wrong and where.

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Sources;

        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            from: Field,
            pattern: Option<Pattern>,
        }

        impl<'de> Visitor<'de> for Sources {
            type Value = Source;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a certificate field, or { from = \"…\", pattern = \"…\" }")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Source, E> {
                Field::deserialize(StrDeserializer::new(name)).map(Source::field)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Source, A::Error> {
                let table = Table::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Source { field: table.from, pattern: table.pattern })
            }
        }

        deserializer.deserialize_any(Sources)
    }
}

impl<'de> Deserialize<'de> for Criterion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Criterions;

        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            pattern: Pattern,
        }

        impl<'de> Visitor<'de> for Criterions {
            type Value = Criterion;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, a list of texts, or { pattern = \"…\" }")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Criterion, E> {
                Ok(Criterion::OneOf(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut texts: A) -> Result<Criterion, A::Error> {
                let mut all = Vec::new();
                while let Some(text) = texts.next_element()? {
                    all.push(text);
                }
                Ok(Criterion::OneOf(all))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Criterion, A::Error> {
                Table::deserialize(MapAccessDeserializer::new(map))
                    .map(|table| Criterion::Pattern(table.pattern))
            }
        }

        deserializer.deserialize_any(Criterions)
    }
}

impl<'de> Deserialize<'de> for Criteria {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Table;

        impl<'de> Visitor<'de> for Table {
            type Value = Criteria;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of certificate fields")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Criteria, A::Error> {
                let mut criteria = Vec::new();
                while let Some(entry) = fields.next_entry()? {
                    criteria.push(entry);
                }
                Ok(Criteria(criteria))
            }
        }

        deserializer.deserialize_map(Table)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing;
    use crate::types::{GeneralName, NameAttribute};

    fn first(sources: serde_json::Value, of: &ClientCertificate) -> Result<Option<String>, String> {
        let sources: Vec<Source> = serde_json::from_value(sources).unwrap();
        Source::first(&sources, of).map_err(|error| error.to_string())
    }

    #[test]
    fn the_first_source_with_a_value_decides() {
        let sources = || json!([{"from": "san.uri", "pattern": "urn:device:(.+)"}, "cn"]);
        let mut certificate = testing::certificate(&[("cn", "by-name")]);
        certificate.leaf.subject_alt_names = vec![GeneralName::Uri("https://example.com/x".into())];
        assert_eq!(first(sources(), &certificate), Ok(Some("by-name".into())));
        certificate.leaf.subject_alt_names.push(GeneralName::Uri("urn:device:by-uri".into()));
        assert_eq!(first(sources(), &certificate), Ok(Some("by-uri".into())));
        certificate.leaf.subject_alt_names = vec![GeneralName::Uri("urn:device:a/#".into())];
        assert_eq!(first(sources(), &certificate), Err("san.uri of the certificate holds /".into()));
        certificate.leaf.subject_alt_names =
            vec![GeneralName::Uri("urn:device:a".into()), GeneralName::Uri("urn:device:b".into())];
        assert_eq!(first(sources(), &certificate), Err("the certificate has 2 values for san.uri".into()));
        assert_eq!(first(json!(["ou"]), &certificate), Ok(None));
    }

    #[test]
    fn criteria_all_hold_or_it_is_another_certificate() {
        let hold = |criteria: serde_json::Value, certificate: &ClientCertificate| {
            serde_json::from_value::<Criteria>(criteria).unwrap().hold(certificate)
        };
        let certificate = testing::certificate(&[("cn", "m-7"), ("ou", "x"), ("ou", "meters")]);
        assert_eq!(hold(json!({}), &certificate), Ok(true));
        assert_eq!(hold(json!({"ou": "meters", "cn": {"pattern": "m-[0-9]"}}), &certificate), Ok(true));
        assert_eq!(hold(json!({"ou": ["y", "x"]}), &certificate), Ok(true));
        assert_eq!(hold(json!({"ou": []}), &certificate), Ok(false));
        assert_eq!(hold(json!({"ou": "meters", "cn": {"pattern": "m-"}}), &certificate), Ok(false));
        assert_eq!(hold(json!({"o": "acme"}), &certificate), Ok(false));

        let mut opaque = certificate;
        let attribute = NameAttribute { oid: "2.5.4.10".into(), text: None, raw: Vec::new() };
        opaque.leaf.subject.attributes.push(attribute);
        assert_eq!(hold(json!({"o": "acme"}), &opaque), Err(FieldError::Malformed(Field::O)));
    }

    #[test]
    fn mistakes_say_what_is_wrong() {
        let source = |value| serde_json::from_value::<Source>(value).unwrap_err().to_string();
        assert!(source(json!("san.url")).contains("no certificate field \"san.url\"; there are cn, o"));
        assert!(source(json!({"from": "cn", "patern": "x"})).contains("unknown field `patern`"));
        assert!(source(json!(3)).contains("expected the name of a certificate field"));
        let criteria = |value| serde_json::from_value::<Criteria>(value).unwrap_err().to_string();
        assert!(criteria(json!({"org": "x"})).contains("no certificate field \"org\""));
        assert!(criteria(json!({"cn": {"pattern": "("}})).contains("group"));
        assert!(criteria(json!({"cn": true})).contains("expected a text"));
    }
}
