//! One event as one line of JSON, with the names of the broker's own audit file.
//!
//! The broker cuts log lines at 1024 bytes and escapes what could steer a terminal. A line must survive both
//! as JSON: it is kept shorter by leaving out the least important members, and escapes by itself.

use mqgate_plugin_sdk::certificate::hex;
use mqgate_plugin_sdk::types::{AuditEvent, Outcome, Value as FieldValue};
use serde::ser::{SerializeMap, Serializer};
use serde_json::{Map, Value, json};

use crate::redact::Redaction;
use crate::time::rfc3339;

/// Longest line, in bytes.
pub const LONGEST: usize = 1000;
/// Longest text that is written of one value.
const LONGEST_VALUE: usize = 200;

/// Members that may be dropped or hashed, besides `fields.NAME`.
pub const REDACTABLE: [&str; 10] = [
    "connection_id",
    "client_id",
    "device_id",
    "peer",
    "listener",
    "fingerprint",
    "subject",
    "sni",
    "actor",
    "plugins",
];

/// What is left out first when a line is too long.
const EXPENDABLE: [&str; 3] = ["fields", "plugins", "subject"];

/// The line of `event`, without a line feed.
pub fn write(event: &AuditEvent, redaction: &Redaction) -> String {
    let mut members = members(event, redaction);
    let mut line = render(&members);
    let mut dropped = Vec::new();
    for name in EXPENDABLE {
        if line.len() <= LONGEST {
            break;
        }
        let before = members.len();
        members.retain(|(member, _)| *member != name && *member != "left_out");
        if members.len() < before {
            dropped.push(name);
        }
        members.push(("left_out", json!(dropped)));
        line = render(&members);
    }
    if line.len() > LONGEST {
        // Names at their longest, all of them escaped: what identifies the event itself always fits.
        members.truncate(5);
        members.push(("left_out", json!(["*"])));
        line = render(&members);
    }
    line
}

pub fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Success => "success",
        Outcome::Failure => "failure",
        Outcome::Error => "error",
    }
}

fn members(event: &AuditEvent, redaction: &Redaction) -> Vec<(&'static str, Value)> {
    let mut members = vec![
        ("time", json!(rfc3339(event.at))),
        ("seq", json!(event.sequence)),
        ("name", json!(start(&event.name))),
        ("outcome", json!(outcome(event.outcome))),
        ("reason", json!(start(&event.reason))),
    ];
    let text = |text: &Option<String>| text.as_deref().map(|text| json!(start(text)));
    let optional = [
        ("connection_id", event.connection_id.map(|id| json!(id))),
        ("client_id", text(&event.client_id)),
        ("device_id", text(&event.device_id)),
        ("peer", text(&event.peer_address)),
        ("listener", text(&event.listener)),
        ("fingerprint", text(&event.certificate_fingerprint)),
        ("subject", text(&event.subject)),
        ("sni", text(&event.server_name)),
        ("actor", Some(json!(start(&event.actor)))),
        ("plugins", plugins(event)),
    ];
    for (name, value) in optional {
        if let Some(value) = value.and_then(|value| redaction.apply(name, value)) {
            members.push((name, value));
        }
    }
    let mut fields = Map::new();
    for field in &event.fields {
        if let Some(value) = redaction.apply(&format!("fields.{}", field.name), field_value(&field.value)) {
            fields.insert(start(&field.name).to_owned(), value);
        }
    }
    if !fields.is_empty() {
        fields.sort_keys();
        members.push(("fields", fields.into()));
    }
    members
}

fn plugins(event: &AuditEvent) -> Option<Value> {
    let verdicts: Vec<Value> = event
        .plugins
        .iter()
        .map(|verdict| {
            let mut members = Map::new();
            members.insert("name".into(), start(&verdict.name).into());
            members.insert("hook".into(), start(&verdict.hook).into());
            members.insert("result".into(), start(&verdict.answer).into());
            members.insert("us".into(), verdict.microseconds.into());
            if let Some(digest) = &verdict.digest {
                members.insert("digest".into(), start(digest).into());
            }
            // As in the audit file, whatever else is built with it makes of the order of a map.
            members.sort_keys();
            members.into()
        })
        .collect();
    (!verdicts.is_empty()).then(|| verdicts.into())
}

fn field_value(value: &FieldValue) -> Value {
    match value {
        FieldValue::Text(text) => start(text).into(),
        FieldValue::Integer(number) => (*number).into(),
        FieldValue::Boolean(yes) => (*yes).into(),
        FieldValue::Blob(bytes) => hex(&bytes[..bytes.len().min(LONGEST_VALUE / 2)]).into(),
        FieldValue::Texts(texts) => texts.iter().take(LONGEST_VALUE).map(|text| start(text)).collect(),
    }
}

/// As much of a text as a line has room for.
fn start(text: &str) -> &str {
    &text[..text.floor_char_boundary(LONGEST_VALUE)]
}

/// Members in their order; characters that steer a terminal, which only occur inside strings, as `\uXXXX`.
fn render(members: &[(&'static str, Value)]) -> String {
    let mut bytes = Vec::new();
    let mut serializer = serde_json::Serializer::new(&mut bytes);
    let written = serializer.serialize_map(Some(members.len())).and_then(|mut map| {
        members.iter().try_for_each(|(name, value)| map.serialize_entry(name, value))?;
        map.end()
    });
    // Strings, numbers and string keys always serialise, as UTF-8.
    let text = written.ok().and_then(|()| String::from_utf8(bytes).ok()).unwrap_or_else(|| "{}".into());
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        {
            line.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            line.push(c);
        }
    }
    line
}

#[cfg(test)]
pub mod tests {
    use mqgate_plugin_sdk::types::{Attribute, PluginVerdict};

    use super::*;
    use crate::glob::Glob;

    pub fn event(sequence: u64, name: &str) -> AuditEvent {
        AuditEvent {
            sequence,
            at: 1_767_312_000_123,
            name: name.into(),
            outcome: Outcome::Success,
            reason: "ok".into(),
            actor: "client".into(),
            connection_id: Some(9),
            device_id: Some("meter-7".into()),
            client_id: None,
            peer_address: Some("192.0.2.1".into()),
            listener: None,
            certificate_fingerprint: None,
            subject: Some("CN=meter-7".into()),
            server_name: None,
            plugins: vec![PluginVerdict {
                name: "cert-acl".into(),
                digest: None,
                hook: "authorizer".into(),
                answer: "allow".into(),
                microseconds: 17,
            }],
            fields: vec![Attribute::text("user.name", "alice"), Attribute::text("policy.rule", "meters")],
        }
    }

    fn keep() -> Redaction {
        Redaction { drop: Vec::new(), hash: Vec::new(), salt: Vec::new() }
    }

    #[test]
    fn a_line_reads_like_the_audit_file() {
        assert_eq!(
            write(&event(5, "connection.accepted"), &keep()),
            r#"{"time":"2026-01-02T00:00:00.123Z","seq":5,"name":"connection.accepted","outcome":"success","reason":"ok","connection_id":9,"device_id":"meter-7","peer":"192.0.2.1","subject":"CN=meter-7","actor":"client","plugins":[{"hook":"authorizer","name":"cert-acl","result":"allow","us":17}],"fields":{"policy.rule":"meters","user.name":"alice"}}"#
        );
    }

    #[test]
    fn what_is_redacted_is_nowhere_in_the_line() {
        let redaction = Redaction {
            drop: vec![Glob::new("subject"), Glob::new("fields.user.*")],
            hash: vec![Glob::new("peer")],
            salt: b"0123456789abcdef".to_vec(),
        };
        let line = write(&event(5, "connection.accepted"), &redaction);
        for gone in ["CN=meter-7", "alice", "192.0.2.1"] {
            assert!(!line.contains(gone), "{line}");
        }
        assert!(line.contains(r#""peer":"sha256:"#) && line.contains("meters"), "{line}");
    }

    #[test]
    fn a_line_is_json_and_short_whatever_is_in_the_event() {
        let steering = "\u{202e}\u{85}\u{7f}\n\"\\".repeat(2000);
        let mut hostile = event(u64::MAX, &steering);
        hostile.reason.clone_from(&steering);
        for text in
            [&mut hostile.device_id, &mut hostile.client_id, &mut hostile.subject, &mut hostile.server_name]
        {
            *text = Some(steering.clone());
        }
        hostile.fields = (0..500).map(|n| Attribute::text(format!("f{n}"), &steering)).collect();
        let long_fields = {
            let mut event = event(6, "connection.refused");
            event.fields = (0..100).map(|n| Attribute::text(format!("f{n}"), "x".repeat(50))).collect();
            event
        };
        for event in [&hostile, &long_fields] {
            let line = write(event, &keep());
            let json: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(json["seq"], event.sequence);
            assert!(json["left_out"].is_array(), "{line}");
            assert!(!line.chars().any(|c| c.is_control() || c == '\u{202e}'));
        }
        let line = write(&long_fields, &keep());
        assert!(
            line.len() <= LONGEST && line.contains("192.0.2.1") && line.contains(r#""left_out":["fields"]"#),
            "{line}"
        );
        // Two hundred bytes of escapes, twice, is the worst that can be left.
        assert!(write(&hostile, &keep()).len() <= 3 * LONGEST);
    }
}
