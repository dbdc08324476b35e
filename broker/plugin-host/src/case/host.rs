//! What the broker would answer a plugin that asks: time, chance, key-value entries, devices, servers.

use std::collections::BTreeMap;

use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::time::UnixMillis;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::schema::Fingerprint;
use super::value::{Bytes, InShort, Time, short_or_whole};

/// 2026-01-01T00:00:00Z
const CLOCK: UnixMillis = UnixMillis(1_767_225_600_000);

#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HostPart {
    pub clock: Time,
    pub random: RandomPart,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub key_value: BTreeMap<String, Option<Entry>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<DevicePart>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub counts: Vec<CountPart>,
    /// By `METHOD URL`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub http: BTreeMap<String, HttpPart>,
    /// Of a recording: devices that were asked for and were not there, by id or by fingerprint.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub no_devices: Vec<String>,
}

/// Where random bytes come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RandomPart {
    Seed(u64),
    /// These, and then those of seed 0.
    Bytes(Bytes),
}

/// One key-value entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub value: Bytes,
    pub version: u64,
    pub expires: Option<Time>,
}

#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DevicePart {
    pub device_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    #[serde(default)]
    pub status: StatusPart,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<Fingerprint>")]
    pub fingerprints: Vec<CertificateFingerprint>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registered_at: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Time>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// The anchor under which its certificates are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Fingerprint>")]
    pub ca: Option<CertificateFingerprint>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StatusPart {
    #[default]
    Active,
    Pending,
    Suspended,
}

/// What `registry.count` says to one question.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CountPart {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    pub count: u64,
}

/// What a server answers: the same to all, or by what is in the request.
#[derive(Debug, Clone)]
pub struct HttpPart(pub Vec<HttpAnswer>);

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpAnswer {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when_body_contains: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Bytes>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<HttpFailure>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HttpFailure {
    Refused,
    Timeout,
    Dns,
    Tls,
    Reset,
}

impl Default for HostPart {
    fn default() -> Self {
        Self {
            clock: Time(CLOCK),
            random: RandomPart::Seed(0),
            key_value: BTreeMap::new(),
            devices: Vec::new(),
            counts: Vec::new(),
            http: BTreeMap::new(),
            no_devices: Vec::new(),
        }
    }
}

impl HostPart {
    /// Whether everything in it can be answered.
    pub(super) fn check(&self) -> Result<(), String> {
        for (key, HttpPart(answers)) in &self.http {
            let url = key.split_once(' ').filter(|(method, url)| {
                let is_method = !method.is_empty() && method.bytes().all(|byte| byte.is_ascii_uppercase());
                is_method && (url.starts_with("http://") || url.starts_with("https://"))
            });
            if url.is_none() {
                return Err(format!("host.http: {key:?} is not like \"GET https://host/path\""));
            }
            for answer in answers {
                if answer.status.is_some() == answer.failure.is_some() {
                    return Err(format!("host.http.{key:?}: write \"status\" or \"failure\""));
                }
            }
        }
        Ok(())
    }

    /// The hosts that are answered for, as `grant.http.allow` has them.
    pub(crate) fn destinations(&self) -> Vec<String> {
        let of = |key: &String| {
            let url = key.split_once(' ')?.1;
            let (scheme, rest) = url.split_once("://")?;
            let authority = rest.split(['/', '?']).next()?;
            Some(format!("{scheme}://{authority}"))
        };
        let mut found: Vec<String> = self.http.keys().filter_map(of).collect();
        found.dedup();
        found
    }
}

impl<'de> Deserialize<'de> for RandomPart {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        if let Some(seed) = value.as_u64() {
            return Ok(Self::Seed(seed));
        }
        let bytes = Bytes::deserialize(value).map_err(|_| {
            serde::de::Error::custom("a seed (a whole number), or bytes: a text or { \"base64\": \"…\" }")
        });
        bytes.map(Self::Bytes)
    }
}

impl Serialize for RandomPart {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Seed(seed) => serializer.serialize_u64(*seed),
            Self::Bytes(bytes) => bytes.serialize(serializer),
        }
    }
}

/// An entry that is more than a value; `base64` and `redacted` make it one.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WholeEntry {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<Bytes>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<Time>,
    #[serde(default, skip_serializing)]
    base64: Option<String>,
    #[serde(default, skip_serializing)]
    redacted: Option<bool>,
}

impl InShort for WholeEntry {
    const WHAT: &'static str =
        "a text, { \"base64\": \"…\" } or { \"value\": …, \"version\": …, \"expires\": … }";

    fn in_short(text: &str) -> Result<Self, String> {
        let value = Some(Bytes::from(text.to_owned()));
        Ok(Self { value, version: None, expires: None, base64: None, redacted: None })
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let whole: WholeEntry = short_or_whole(deserializer)?;
        let bytes = match (whole.value, whole.base64, whole.redacted) {
            (Some(value), None, None) => Ok(value),
            (None, Some(text), None) => Bytes::deserialize(serde_json::json!({ "base64": text })),
            (None, None, Some(true)) => Ok(Bytes::Redacted),
            _ => return Err(serde::de::Error::custom(WholeEntry::WHAT)),
        };
        let value = bytes.map_err(serde::de::Error::custom)?;
        Ok(Self { value, version: whole.version.unwrap_or(1), expires: whole.expires })
    }
}

impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { value, version, expires } = self.clone();
        WholeEntry { value: Some(value), version: Some(version), expires, base64: None, redacted: None }
            .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for HttpPart {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        let answers = match value {
            serde_json::Value::Array(_) => Vec::deserialize(value),
            value => HttpAnswer::deserialize(value).map(|answer| vec![answer]),
        };
        answers.map(Self).map_err(serde::de::Error::custom)
    }
}

impl Serialize for HttpPart {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [only] => only.serialize(serializer),
            several => several.serialize(serializer),
        }
    }
}

impl HttpPart {
    /// Those whose condition the body of a request meets. Each request gets the next of them, and then the last again.
    pub(crate) fn matching(&self, body: &[u8]) -> impl Iterator<Item = &HttpAnswer> {
        self.0.iter().filter(|answer| match &answer.when_body_contains {
            None => true,
            Some(text) => body.windows(text.len().max(1)).any(|window| window == text.as_bytes()),
        })
    }
}
