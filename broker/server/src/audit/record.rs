//! One event as one line of JSON: the schema of the audit file.
//!
//! Absent values are left out. Names are never reused for another meaning; readers skip what they do not know.

use std::collections::BTreeMap;

use jiff::Timestamp;
use mqgate_identity::audit::AuditEvent;
use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::hooks::Value;
use serde::Serialize;

#[derive(Serialize)]
struct Line<'a> {
    /// RFC 3339, UTC, milliseconds.
    time: String,
    seq: u64,
    name: &'a str,
    outcome: &'a str,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection_id: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    listener: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fingerprint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sni: Option<&'a str>,
    actor: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    plugins: Vec<Verdict<'a>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    fields: BTreeMap<&'a str, Field<'a>>,
}

#[derive(Serialize)]
struct Verdict<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<&'a str>,
    hook: &'a str,
    result: &'a str,
    us: u64,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Field<'a> {
    Text(&'a str),
    Integer(i64),
    Boolean(bool),
    Hex(String),
    Texts(&'a [String]),
}

/// Appends `event` and a line feed to `out`.
pub fn write(event: &AuditEvent, out: &mut Vec<u8>) {
    let start = out.len();
    let line = Line {
        time: time(event.at.0),
        seq: event.sequence,
        name: event.name,
        outcome: event.outcome.as_str(),
        reason: event.reason.as_str(),
        connection_id: event.connection_id,
        client_id: event.client_id.as_deref(),
        device_id: event.device_id.as_deref(),
        peer: event.peer_address.as_deref(),
        listener: event.listener.as_deref(),
        fingerprint: event.certificate_fingerprint.map(CertificateFingerprint::to_hex),
        subject: event.subject.as_deref(),
        sni: event.server_name.as_deref(),
        actor: &event.actor,
        plugins: event
            .plugins
            .iter()
            .map(|verdict| Verdict {
                name: &verdict.name,
                digest: verdict.digest.as_deref(),
                hook: verdict.hook,
                result: verdict.result,
                us: verdict.microseconds,
            })
            .collect(),
        fields: event
            .fields
            .iter()
            .map(|attribute| {
                let value = match &attribute.value {
                    Value::Text(text) => Field::Text(text),
                    Value::Integer(number) => Field::Integer(*number),
                    Value::Boolean(yes) => Field::Boolean(*yes),
                    Value::Blob(bytes) => Field::Hex(hex::encode(bytes)),
                    Value::Texts(texts) => Field::Texts(texts),
                };
                (attribute.name.as_str(), value)
            })
            .collect(),
    };
    if let Err(error) = serde_json::to_writer(&mut *out, &line) {
        // Strings, numbers and maps with string keys always serialise; a line is better than none if not.
        out.truncate(start);
        tracing::error!(%error, sequence = event.sequence, "an audit record does not serialise");
        out.extend_from_slice(format!(r#"{{"seq":{},"name":"{}"}}"#, event.sequence, event.name).as_bytes());
    }
    out.push(b'\n');
}

fn time(milliseconds: u64) -> String {
    i64::try_from(milliseconds)
        .ok()
        .and_then(|milliseconds| Timestamp::from_millisecond(milliseconds).ok())
        .map_or_else(|| milliseconds.to_string(), |time| format!("{time:.3}"))
}

/// The `category` label an event is counted under.
pub fn category(name: &str) -> &'static str {
    match name {
        "connection.closed" => "session",
        _ => match name.split_once('.').map_or(name, |(first, _)| first) {
            "connection" => "authn",
            "authorization" => "authz",
            "tls" | "server_cert" => "tls",
            "device" => "registry",
            "ca" | "crl" => "ca",
            "plugin" => "plugin",
            "admin" | "ban" => "admin",
            _ => "system",
        },
    }
}
