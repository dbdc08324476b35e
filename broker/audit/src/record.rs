//! One event as one line: the schema of the log, version 1, and its deterministic encoding.
//!
//! The encoding is RFC 8785 (JCS): JSON with sorted members, no white space and one spelling of every string and number.
//! It was preferred to deterministic CBOR because a segment stays a text that a pager, `grep` and `jq` read, and because
//! a receiver that parsed a record can make its bytes, and so its hash, again. Hashes are over the bytes as stored.
//!
//! Absent values are left out. Names are never reused for another meaning; readers skip what they do not know.

mod encode;

use std::collections::BTreeMap;

use jiff::Timestamp;
use mqgate_identity::audit::{AuditEvent, Outcome, PluginVerdict, names};
use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::hooks::{Attribute, FailureKind, Value};
use mqgate_identity::reason::Reason;
use mqgate_identity::time::UnixMillis;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::encode::{Hide, Place, Stamp, encode};
use crate::files::LARGEST_SEQUENCE;
use crate::hash::{Half, Hash};

/// Version of the schema: member `v`.
pub const VERSION: u32 = 1;
/// The largest number of which RFC 8785 has one spelling only; larger ones are written as text.
const LARGEST_NUMBER: u64 = (1 << 53) - 1;

/// A member of a record, for docs/audit.md: its name, whether it may be encrypted per subject, and what it is.
pub struct Member {
    pub name: &'static str,
    pub personal: bool,
    pub text: &'static str,
}

const fn member(name: &'static str, personal: bool, text: &'static str) -> Member {
    Member { name, personal, text }
}

/// In the order in which they are written.
pub const MEMBERS: &[Member] = &[
    member("actor", false, "who wanted it: `client`, `admin:` and a name, `plugin`, `system`"),
    member(
        "category",
        false,
        "what it is about: `authn`, `authz`, `registry`, `ca`, `plugin`, `admin`, `tls`, `session`, `system`",
    ),
    member("client_id", true, "the Client Identifier as sent or assigned"),
    member("connection_id", false, "which connection; its records have the same number"),
    member("device_id", true, "the device behind the certificate"),
    member(
        "fields",
        false,
        "the rest by dotted name, before and after values of changes among them; what a plugin said stands under names beginning with `plugin.`. `request_id` is the request to the admin API (`X-Request-Id`); `count`, `first` and `last` are those of a record that stands for several",
    ),
    member(
        "fingerprint",
        true,
        "SHA-256 of the certificate's DER. In `tls.handshake_failed` the key was not proved; `certificate.issuer`, `.serial`, `.not_before` and `.not_after` stand in `fields`, if it could be read",
    ),
    member("listener", false, "the listener's name"),
    member("log", false, "the log: 16 hexadecimal digits. (`log`, `seq`) names a record for ever"),
    member("name", false, "what happened (below)"),
    member("outcome", false, "`success`, `failure` (a rule said no) or `error` (something did not work)"),
    member(
        "peer",
        true,
        "address and port of the client (`unix` on a Unix socket; `proxy` in `fields` when a proxy told it)",
    ),
    member(
        "plugins",
        false,
        "who was asked, in order: `hook`, `name`, `result`, and of components `digest` and `us` (microseconds)",
    ),
    member(
        "prev",
        false,
        "the first half of the SHA-256 of a zero byte and the line before without its line feed: 32 digits; zeros in the first record",
    ),
    member("reason", false, "the stable reason code (below)"),
    member("seq", false, "the place in the log, from 1, without gaps, over restarts"),
    member("sni", true, "the server name that the client asked for"),
    member("subject", true, "the certificate's subject (RFC 4514)"),
    member(
        "time",
        false,
        "RFC 3339, UTC; never earlier than that of the record before while the broker runs",
    ),
    member("v", false, "version of this schema: 1"),
];

/// RFC 3339, UTC, milliseconds.
pub fn time(at: UnixMillis) -> String {
    i64::try_from(at.0)
        .ok()
        .and_then(|milliseconds| Timestamp::from_millisecond(milliseconds).ok())
        .map_or_else(|| at.0.to_string(), |time| format!("{time:.3}"))
}

/// An audit record: docs/audit.md explains its members.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Record {
    pub actor: String,
    pub category: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_id: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_id: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<String, serde_json::Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    pub log: String,
    pub name: String,
    pub outcome: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plugins: Vec<Verdict>,
    #[schemars(with = "String")]
    pub prev: Half,
    pub reason: String,
    pub seq: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    pub time: String,
    pub v: u32,
}

/// What a plugin said, in a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Verdict {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    pub hook: String,
    pub name: String,
    pub result: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub us: Option<u64>,
}

/// The place of a record in the chain, which is all that is needed to follow it.
#[derive(Debug, Deserialize)]
pub(crate) struct Link {
    #[serde(deserialize_with = "sequence")]
    pub seq: u64,
    pub prev: Half,
    pub log: String,
    pub time: String,
    pub name: String,
    /// Of the fields only those that are text.
    #[serde(default, deserialize_with = "texts")]
    pub fields: BTreeMap<String, String>,
}

/// What is no place in a log makes no record.
fn sequence<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let sequence = u64::deserialize(deserializer)?;
    let is_place = (1..=LARGEST_SEQUENCE).contains(&sequence);
    is_place.then_some(sequence).ok_or_else(|| serde::de::Error::custom("no sequence number"))
}

fn texts<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    let all = BTreeMap::<String, serde_json::Value>::deserialize(deserializer)?;
    let text = |(name, value)| match value {
        serde_json::Value::String(text) => Some((name, text)),
        _ => None,
    };
    Ok(all.into_iter().filter_map(text).collect())
}

/// A record as it stands in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub sequence: u64,
    /// Canonical JSON, without the line feed.
    pub line: Box<[u8]>,
}

impl Stored {
    pub fn parse(&self) -> Result<Record, serde_json::Error> {
        serde_json::from_slice(&self.line)
    }

    /// The event again, as auditors take it; `None` for what this version does not know. Binary fields come as the text
    /// of their hexadecimal digits.
    pub fn event(&self) -> Option<AuditEvent> {
        self.parse().ok()?.event()
    }
}

impl Record {
    pub fn event(self) -> Option<AuditEvent> {
        let name = known(names::ALL, &self.name)?;
        let outcome = [Outcome::Success, Outcome::Failure, Outcome::Error];
        let outcome = *outcome.iter().find(|outcome| outcome.as_str() == self.outcome)?;
        let reason = *Reason::ALL.iter().find(|reason| reason.as_str() == self.reason)?;
        let at: Timestamp = self.time.parse().ok()?;
        let mut event = AuditEvent::new(name, outcome, reason).actor(self.actor);
        event.sequence = self.seq;
        event.at = UnixMillis(u64::try_from(at.as_millisecond()).ok()?);
        event.connection_id = self.connection_id;
        event.device_id = self.device_id;
        event.client_id = self.client_id;
        event.peer_address = self.peer;
        event.listener = self.listener.map(Into::into);
        event.certificate_fingerprint = self
            .fingerprint
            .and_then(|text| Hash::from_hex(&text))
            .map(|hash| CertificateFingerprint(hash.0));
        event.subject = self.subject;
        event.server_name = self.sni;
        event.plugins = self.plugins.into_iter().map(Verdict::of_plugin).collect();
        event.fields = self
            .fields
            .into_iter()
            .filter_map(|(name, value)| Some(Attribute { name, value: field_value(value)? }))
            .collect();
        Some(event)
    }
}

impl Verdict {
    fn of_plugin(self) -> PluginVerdict {
        PluginVerdict {
            name: self.name.into(),
            digest: self.digest.map(Into::into),
            hook: known(HOOKS, &self.hook).unwrap_or("other"),
            result: known(RESULTS, &self.result)
                .or_else(|| {
                    FailureKind::ALL.iter().map(|kind| kind.as_str()).find(|kind| *kind == self.result)
                })
                .unwrap_or("other"),
            microseconds: self.us.unwrap_or_default(),
        }
    }
}

/// What stands in `hook` of a verdict.
const HOOKS: &[&str] = &["authenticator", "enhanced-authenticator", "registrar", "authorizer"];
/// What stands in `result`, besides the kinds of failures.
const RESULTS: &[&str] = &["accept", "allow", "register", "hold", "deny", "abstain"];

fn known(all: &[&'static str], text: &str) -> Option<&'static str> {
    all.iter().copied().find(|known| *known == text)
}

fn field_value(value: serde_json::Value) -> Option<Value> {
    match value {
        serde_json::Value::String(text) => Some(Value::Text(text)),
        serde_json::Value::Bool(yes) => Some(Value::Boolean(yes)),
        serde_json::Value::Number(number) => number.as_i64().map(Value::Integer),
        serde_json::Value::Array(items) => items
            .into_iter()
            .map(|item| match item {
                serde_json::Value::String(text) => Some(text),
                _ => None,
            })
            .collect::<Option<_>>()
            .map(Value::Texts),
        serde_json::Value::Null | serde_json::Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests;
