//! The small values of a case: bytes, times, attributes, and what may be written in short.

use std::fmt;
use std::marker::PhantomData;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mqgate_identity::hooks::{Attribute, Value};
use mqgate_identity::time::UnixMillis;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap as _, Serializer};

/// Bytes, as a case has them. A recording leaves secrets out and says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bytes {
    Are(Vec<u8>),
    Redacted,
}

impl Bytes {
    /// `None`: nobody knows.
    pub fn known(&self) -> Option<&[u8]> {
        match self {
            Self::Are(bytes) => Some(bytes),
            Self::Redacted => None,
        }
    }

    pub fn is_redacted(&self) -> bool {
        *self == Self::Redacted
    }
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        Self::Are(bytes.to_vec())
    }
}

impl From<String> for Bytes {
    fn from(text: String) -> Self {
        Self::Are(text.into_bytes())
    }
}

/// `{"base64": "…"}` or `{"redacted": true}`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct BytesObject {
    base64: Option<String>,
    redacted: Option<bool>,
}

impl BytesObject {
    fn bytes<E: Error>(self) -> Result<Bytes, E> {
        match self {
            Self { base64: Some(text), redacted: None } => {
                STANDARD.decode(text).map(Bytes::Are).map_err(|error| E::custom(format!("base64: {error}")))
            }
            Self { base64: None, redacted: Some(true) } => Ok(Bytes::Redacted),
            _ => Err(E::custom("write a text, { \"base64\": \"…\" } or { \"redacted\": true }")),
        }
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes: a text, or { \"base64\": \"…\" }")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Bytes, E> {
                Ok(Bytes::Are(text.as_bytes().to_vec()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Bytes, A::Error> {
                BytesObject::deserialize(MapAccessDeserializer::new(map))?.bytes()
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = match self {
            Self::Redacted => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("redacted", &true)?;
                return map.end();
            }
            Self::Are(bytes) => bytes,
        };
        if let Ok(text) = std::str::from_utf8(bytes) {
            return serializer.serialize_str(text);
        }
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry("base64", &STANDARD.encode(bytes))?;
        map.end()
    }
}

/// A point in time: RFC 3339, or milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub UnixMillis);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Time;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time such as \"2026-01-01T00:00:00Z\", or Unix milliseconds")
            }

            fn visit_u64<E: Error>(self, millis: u64) -> Result<Time, E> {
                Ok(Time(UnixMillis(millis)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Time, E> {
                let time: jiff::Timestamp = text.parse().map_err(|error| {
                    E::custom(format!("{text:?} is no time: {error}; write it as \"2026-01-01T00:00:00Z\""))
                })?;
                let millis = u64::try_from(time.as_millisecond());
                millis.map(|millis| Time(UnixMillis(millis))).map_err(|_| E::custom("a time before 1970"))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let millis = i64::try_from(self.0.0).ok().and_then(|it| jiff::Timestamp::from_millisecond(it).ok());
        match millis {
            Some(time) => serializer.collect_str(&time),
            None => serializer.serialize_u64(self.0.0),
        }
    }
}

/// One value of an attribute.
#[derive(Debug, Clone, PartialEq)]
struct Plain(Value);

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Plain;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, a whole number, true, false, a list of texts, or { \"base64\": \"…\" }")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Plain, E> {
                Ok(Plain(Value::Text(text.to_owned())))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Plain, E> {
                Ok(Plain(Value::Integer(number)))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Plain, E> {
                let number = i64::try_from(number);
                number
                    .map(|number| Plain(Value::Integer(number)))
                    .map_err(|_| E::custom("a number over 63 bits"))
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<Plain, E> {
                Ok(Plain(Value::Boolean(value)))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Plain, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = list.next_element()? {
                    texts.push(text);
                }
                Ok(Plain(Value::Texts(texts)))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Plain, A::Error> {
                match BytesObject::deserialize(MapAccessDeserializer::new(map))?.bytes()? {
                    Bytes::Are(bytes) => Ok(Plain(Value::Blob(bytes))),
                    Bytes::Redacted => Err(A::Error::custom("an attribute is never redacted")),
                }
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

impl Serialize for Plain {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Value::Text(text) => serializer.serialize_str(text),
            Value::Integer(number) => serializer.serialize_i64(*number),
            Value::Boolean(value) => serializer.serialize_bool(*value),
            Value::Texts(texts) => texts.serialize(serializer),
            Value::Blob(bytes) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("base64", &STANDARD.encode(bytes))?;
                map.end()
            }
        }
    }
}

/// Attributes: an object, or where their order matters a list of pairs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Attributes(pub Vec<Attribute>);

impl Attributes {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'de> Deserialize<'de> for Attributes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Attributes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("attributes: an object of names and values")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Attributes, A::Error> {
                let mut found = Vec::new();
                while let Some((name, Plain(value))) = map.next_entry()? {
                    found.push(Attribute { name, value });
                }
                Ok(Attributes(found))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Attributes, A::Error> {
                let mut found = Vec::new();
                while let Some((name, Plain(value))) = list.next_element()? {
                    found.push(Attribute { name, value });
                }
                Ok(Attributes(found))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

impl Serialize for Attributes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let pairs = self.0.iter().map(|attribute| (&attribute.name, Plain(attribute.value.clone())));
        // Objects are read in any order, and each name once.
        if self.0.is_sorted_by(|one, next| one.name < next.name) {
            serializer.collect_map(pairs)
        } else {
            serializer.collect_seq(pairs)
        }
    }
}

/// What can be written in short, as one text.
pub trait InShort: Sized {
    /// What it is, for whoever wrote something else.
    const WHAT: &'static str;
    fn in_short(text: &str) -> Result<Self, String>;
}

/// Reads `T` from one text or from an object.
pub fn short_or_whole<'de, D: Deserializer<'de>, T: InShort + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    struct Reader<T>(PhantomData<T>);
    impl<'de, T: InShort + Deserialize<'de>> Visitor<'de> for Reader<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(T::WHAT)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            T::in_short(text).map_err(E::custom)
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map))
        }
    }
    deserializer.deserialize_any(Reader(PhantomData))
}

/// The same where it may be left out, or be `null`.
pub fn maybe_short<'de, D: Deserializer<'de>, T: InShort + Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    struct Either<T>(T);
    impl<'de, T: InShort + Deserialize<'de>> Deserialize<'de> for Either<T> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            short_or_whole(deserializer).map(Self)
        }
    }
    Ok(Option::<Either<T>>::deserialize(deserializer)?.map(|Either(it)| it))
}

/// Tells what is `null` from what is left out.
pub fn said<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_as_they_were() {
        let all = vec![
            Attribute { name: String::from("a"), value: Value::Text(String::from("t")) },
            Attribute { name: String::from("b"), value: Value::Integer(-7) },
            Attribute { name: String::from("c"), value: Value::Boolean(true) },
            Attribute { name: String::from("d"), value: Value::Texts(vec![String::from("x")]) },
            Attribute { name: String::from("e"), value: Value::Blob(vec![0, 255]) },
        ];
        let unordered: Vec<_> = all.iter().rev().chain(&all[..1]).cloned().collect();
        for attributes in [all, unordered, Vec::new()] {
            let text = serde_json::to_string(&Attributes(attributes.clone())).expect("JSON");
            // As a file is read: objects lose their order on the way.
            let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            let back: Attributes = serde_json::from_value(value).expect(&text);
            assert_eq!(back.0, attributes, "{text}");
        }
        for bytes in [Bytes::Are(b"text".to_vec()), Bytes::Are(vec![0xff]), Bytes::Redacted] {
            let text = serde_json::to_string(&bytes).expect("JSON");
            assert_eq!(serde_json::from_str::<Bytes>(&text).expect(&text), bytes);
        }
        let time: Time = serde_json::from_str("\"2026-01-01T00:00:00.5Z\"").expect("a time");
        assert_eq!(time.0, UnixMillis(1_767_225_600_500));
        assert_eq!(serde_json::to_string(&time).expect("JSON"), "\"2026-01-01T00:00:00.5Z\"");
        assert_eq!(serde_json::from_str::<Time>("7").expect("a time").0, UnixMillis(7));
    }

    #[test]
    fn what_is_no_value_is_refused() {
        for bad in ["7", "{}", r#"{"base64":"!"}"#, r#"{"redacted":false}"#, r#"{"hex":"00"}"#] {
            assert!(serde_json::from_str::<Bytes>(bad).is_err(), "{bad}");
        }
        for bad in [r#"{"a":1.5}"#, r#"{"a":null}"#, r#"{"a":[1]}"#, r#"{"a":{"redacted":true}}"#] {
            assert!(serde_json::from_str::<Attributes>(bad).is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<Time>("\"yesterday\"").is_err());
    }
}
