//! Keys of a listener's TLS: certificates, versions, cipher suites, resumption.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// A certificate of the server, in files.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileCertificate {
    /// PEM: the server's own certificate, then those of the CAs that signed it.
    pub certfile: PathBuf,
    /// PEM: its private key.
    pub keyfile: PathBuf,
    /// Password of the key, if it is encrypted: the text, `"file://PATH"`, or `"env:NAME"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// Server name that it is for, `"*.example.com"` included, instead of the names in the certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
}

/// A certificate of the server that the broker keeps: `mqgate server-cert`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ManagedCertificate {
    /// Namespace of the bundle; without it, `global`.
    #[serde(default = "global", skip_serializing_if = "is_global")]
    pub namespace: String,
    /// Its name. The bundle must be there.
    pub bundle_name: String,
    /// Server name that it is for, `"*.example.com"` included, instead of the names in the certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
}

fn global() -> String {
    String::from("global")
}

fn is_global(namespace: &String) -> bool {
    namespace == "global"
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum TlsVersion {
    #[serde(rename = "tlsv1.2")]
    Tls12,
    #[serde(rename = "tlsv1.3")]
    Tls13,
}

impl TlsVersion {
    fn parse(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        let number = lower.trim_start_matches("tls").trim_start_matches(['v', ' ']);
        match number {
            "1.3" => Ok(Self::Tls13),
            "1.2" => Ok(Self::Tls12),
            "1" | "1.0" | "1.1" => Err(format!(
                "`{text}` is not spoken: TLS 1.0 and 1.1 are broken (RFC 8996) and not in the TLS library; write \
                 \"tlsv1.2\" or \"tlsv1.3\", and put devices that know nothing newer behind a proxy that does"
            )),
            _ if number.contains("dtls") => Err(format!(
                "`{text}` is not spoken: DTLS is TLS for datagrams, and MQTT goes over a stream; write \"tlsv1.2\" or \
                 \"tlsv1.3\""
            )),
            _ => Err(format!("there is no TLS version `{text}` here: write \"tlsv1.2\" or \"tlsv1.3\"")),
        }
    }
}

/// From the lowest to the highest, all between them included; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsVersions {
    pub lowest: TlsVersion,
    pub highest: TlsVersion,
}

impl TlsVersions {
    fn all(self) -> Vec<TlsVersion> {
        [TlsVersion::Tls13, TlsVersion::Tls12]
            .into_iter()
            .filter(|version| (self.lowest..=self.highest).contains(version))
            .collect()
    }

    fn of(versions: &[TlsVersion]) -> Option<Self> {
        Some(Self { lowest: *versions.iter().min()?, highest: *versions.iter().max()? })
    }
}

impl Default for TlsVersions {
    fn default() -> Self {
        Self { lowest: TlsVersion::Tls12, highest: TlsVersion::Tls13 }
    }
}

impl Serialize for TlsVersions {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.clone().all().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for TlsVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for TlsVersions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Versions;
        impl<'de> Visitor<'de> for Versions {
            type Value = TlsVersions;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of TLS versions, one of them, or { min = \"1.2\", max = \"1.3\" }")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<TlsVersions, E> {
                let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
                let versions: Vec<_> =
                    parts.map(TlsVersion::parse).collect::<Result<_, _>>().map_err(E::custom)?;
                TlsVersions::of(&versions).ok_or_else(|| E::custom(NO_VERSION))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<TlsVersions, A::Error> {
                let mut versions = Vec::new();
                while let Some(version) = list.next_element()? {
                    versions.push(version);
                }
                TlsVersions::of(&versions).ok_or_else(|| A::Error::custom(NO_VERSION))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<TlsVersions, A::Error> {
                let mut versions = TlsVersions::default();
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "min" => versions.lowest = map.next_value()?,
                        "max" => versions.highest = map.next_value()?,
                        other => return Err(A::Error::unknown_field(other, &["min", "max"])),
                    }
                }
                match versions.lowest <= versions.highest {
                    true => Ok(versions),
                    false => Err(A::Error::custom("`min` is above `max`")),
                }
            }
        }
        deserializer.deserialize_any(Versions)
    }
}

const NO_VERSION: &str =
    "no TLS version is left: write versions = [\"tlsv1.3\", \"tlsv1.2\"], or leave it out";

impl JsonSchema for TlsVersions {
    fn schema_name() -> Cow<'static, str> {
        "TlsVersions".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "array", "items": { "enum": ["tlsv1.3", "tlsv1.2"] } })
    }
}

/// Names in order: a list, or one text with `:` or `,` between them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Names(pub Vec<String>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Names;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of names")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Names, E> {
                let names = text.split([':', ',']).map(str::trim).filter(|name| !name.is_empty());
                Ok(Names(names.map(str::to_owned).collect()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Names, A::Error> {
                let mut names = Vec::new();
                while let Some(name) = list.next_element()? {
                    names.push(name);
                }
                Ok(Names(names))
            }
        }
        deserializer.deserialize_any(List)
    }
}

impl JsonSchema for Names {
    fn schema_name() -> Cow<'static, str> {
        "Names".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "array", "items": { "type": "string" } })
    }
}

/// How TLS sessions may be resumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionResumption {
    Off,
    Tickets,
    Cache,
}

impl<'de> Deserialize<'de> for SessionResumption {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Word;
        impl Visitor<'_> for Word {
            type Value = SessionResumption;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"off\", \"tickets\", \"cache\", true or false")
            }

            fn visit_bool<E>(self, on: bool) -> Result<SessionResumption, E> {
                Ok(if on { SessionResumption::Tickets } else { SessionResumption::Off })
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<SessionResumption, E> {
                match text {
                    "off" | "false" | "disabled" => Ok(SessionResumption::Off),
                    "tickets" | "true" | "stateless" | "stateless_with_cert" => {
                        Ok(SessionResumption::Tickets)
                    }
                    "cache" | "stateful" | "stateful_with_cert" => Ok(SessionResumption::Cache),
                    other => Err(E::unknown_variant(other, &["off", "tickets", "cache"])),
                }
            }
        }
        deserializer.deserialize_any(Word)
    }
}

impl JsonSchema for SessionResumption {
    fn schema_name() -> Cow<'static, str> {
        "SessionResumption".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "enum": ["off", "tickets", "cache"] })
    }
}
