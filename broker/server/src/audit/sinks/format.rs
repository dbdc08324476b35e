//! A record of the log in the words of those who collect records: as it is, CEF, ECS, an OpenTelemetry log record, a
//! syslog message. The record stands in each of them whole, so that none of it is lost and its hash can be made again.
//!
//! Pure. A record that cannot be read, which only a damaged disk makes, goes out as it is.

use std::borrow::Cow;
use std::fmt::Write as _;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// How a sink writes a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// The record's own bytes.
    #[default]
    Json,
    /// ArcSight Common Event Format, version 0.
    Cef,
    /// Elastic Common Schema, 8.
    Ecs,
}

/// A record, read.
pub struct Parsed<'a> {
    line: &'a [u8],
    record: Value,
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

impl<'a> Parsed<'a> {
    pub fn new(line: &'a [u8]) -> Self {
        Self { line, record: serde_json::from_slice(line).unwrap_or(Value::Null) }
    }

    pub fn text(&self, member: &str) -> &str {
        self.record[member].as_str().unwrap_or_default()
    }

    fn whole(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.line)
    }

    /// A field of the record, as text.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.record["fields"][name].as_str()
    }

    pub fn sequence(&self) -> u64 {
        self.record["seq"].as_u64().unwrap_or(0)
    }

    /// Milliseconds since the epoch; 0 if it does not say.
    pub fn milliseconds(&self) -> i64 {
        self.text("time").parse::<Timestamp>().map_or(0, Timestamp::as_millisecond)
    }

    /// Address and port of the client, if there is one on the net.
    fn source(&self) -> Option<(String, u16)> {
        let peer: std::net::SocketAddr = self.text("peer").parse().ok()?;
        Some((peer.ip().to_string(), peer.port()))
    }

    /// Syslog's severity: 6 is informational, 4 a warning, 3 an error.
    fn severity(outcome: &str) -> u8 {
        match outcome {
            "success" => 6,
            "failure" => 4,
            _ => 3,
        }
    }
}

impl Format {
    pub fn write(self, line: &[u8]) -> Vec<u8> {
        match self {
            Self::Json => line.to_vec(),
            Self::Cef => cef(&Parsed::new(line)).into_bytes(),
            Self::Ecs => ecs(&Parsed::new(line)).to_string().into_bytes(),
        }
    }

    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Json | Self::Ecs => "application/x-ndjson",
            Self::Cef => "text/plain; charset=utf-8",
        }
    }
}

/// In the header, `|` and `\` are escaped; in the extension, `=`, `\` and line breaks are.
fn escaped(text: &str, special: char) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\\' => out.push_str("\\\\"),
            c if c == special => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out
}

fn cef(record: &Parsed<'_>) -> String {
    let name = record.text("name");
    // From 0 to 10; above 6 is high.
    let severity = match (record.text("outcome"), record.text("category")) {
        ("success", _) => 2,
        ("failure", _) => 5,
        _ => 7,
    };
    let name = escaped(name, '|');
    let mut out = format!("CEF:0|mqgate|mqgate|{VERSION}|{name}|{name}|{severity}|");
    let mut first = true;
    let mut add = |key: &str, value: &str| {
        if value.is_empty() {
            return;
        }
        if !first {
            out.push(' ');
        }
        first = false;
        let _ = write!(out, "{key}={}", escaped(value, '='));
    };
    add("rt", &record.milliseconds().to_string());
    add("externalId", &format!("{}:{}", record.text("log"), record.sequence()));
    add("cat", record.text("category"));
    add("act", record.text("name"));
    add("outcome", record.text("outcome"));
    add("reason", record.text("reason"));
    if let Some((address, port)) = record.source() {
        add(if address.contains(':') { "c6a2" } else { "src" }, &address);
        if address.contains(':') {
            add("c6a2Label", "Source IPv6 Address");
        }
        add("spt", &port.to_string());
    }
    add("suid", record.text("client_id"));
    add("suser", record.text("actor"));
    for (number, member) in ["device_id", "fingerprint", "listener", "subject", "sni"].into_iter().enumerate()
    {
        let value = record.text(member);
        if !value.is_empty() {
            add(&format!("cs{}Label", number + 1), member);
            add(&format!("cs{}", number + 1), value);
        }
    }
    add("msg", &record.whole());
    out
}

fn ecs(record: &Parsed<'_>) -> Value {
    let (category, kind): (&[&str], &str) = match record.text("category") {
        "authn" => (&["authentication"], "start"),
        "authz" => (&["authentication"], "access"),
        "session" => (&["session"], "end"),
        "registry" | "ca" => (&["iam"], "change"),
        "tls" => (&["network"], "connection"),
        "plugin" | "admin" => (&["configuration"], "change"),
        _ => (&["process"], "info"),
    };
    let mut kinds = vec![kind];
    if record.text("outcome") == "failure" {
        kinds.push("denied");
    } else if record.text("outcome") == "error" {
        kinds.push("error");
    }
    let outcome = match record.text("outcome") {
        known @ ("success" | "failure") => known,
        "error" => "failure",
        _ => "unknown",
    };
    let mut out = json!({
        "@timestamp": record.text("time"),
        "ecs": { "version": "8.11.0" },
        "event": {
            "action": record.text("name"),
            "category": category,
            "dataset": "mqgate.audit",
            "id": format!("{}-{}", record.text("log"), record.sequence()),
            "kind": "event",
            "module": "mqgate",
            "original": record.whole(),
            "outcome": outcome,
            "reason": record.text("reason"),
            "sequence": record.sequence(),
            "type": kinds,
        },
        "message": format!("{} {}", record.text("name"), record.text("outcome")),
        "observer": { "product": "mqgate", "type": "broker", "vendor": "mqgate", "version": VERSION },
        "user": { "name": record.text("actor") },
    });
    if let Some((ip, port)) = record.source() {
        out["source"] = json!({ "ip": ip, "port": port });
    }
    let mut tls = Map::new();
    let mut client = Map::new();
    for (member, name) in [("subject", "subject"), ("sni", "server_name")] {
        if !record.text(member).is_empty() {
            client.insert(name.to_owned(), record.text(member).into());
        }
    }
    if !record.text("fingerprint").is_empty() {
        client.insert(String::from("hash"), json!({ "sha256": record.text("fingerprint").to_uppercase() }));
    }
    if !client.is_empty() {
        tls.insert(String::from("client"), client.into());
    }
    if let Some(version) = record.field("tls.version") {
        tls.insert(String::from("version"), version.into());
        tls.insert(String::from("version_protocol"), "tls".into());
    }
    if !tls.is_empty() {
        out["tls"] = tls.into();
    }
    let own = ["client_id", "device_id", "listener", "connection_id", "log", "prev", "plugins", "fields"];
    let own = own.into_iter().filter(|member| !record.record[*member].is_null());
    let own: Map<String, Value> =
        own.map(|member| (member.to_owned(), record.record[member].clone())).collect();
    out["mqgate"] = own.into();
    out
}

/// One message of RFC 5424, without what frames it. `hostname` is printable ASCII.
pub fn syslog(line: &[u8], format: Format, hostname: &str) -> Vec<u8> {
    /// "log audit".
    const FACILITY: u8 = 13;
    /// Of `sequenceId`: RFC 5424, 7.3.1.
    const LARGEST: u64 = 2_147_483_647;
    let record = Parsed::new(line);
    let priority = FACILITY * 8 + Parsed::severity(record.text("outcome"));
    let time = match record.text("time") {
        "" => "-",
        time => time,
    };
    // At most 32 characters, printable.
    let message_id: String = record.text("name").chars().filter(char::is_ascii_graphic).take(32).collect();
    let message_id = if message_id.is_empty() { "-" } else { &message_id };
    let sequence = record.sequence().saturating_sub(1) % LARGEST + 1;
    let mut out = format!(
        "<{priority}>1 {time} {hostname} mqgate {} {message_id} [meta sequenceId=\"{sequence}\"] ",
        std::process::id()
    )
    .into_bytes();
    out.extend_from_slice(&format.write(line));
    out
}

/// RFC 5425, 4.3: its length in front.
pub fn framed(message: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(message.len().to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(message);
}

/// The body of a request to `/v1/logs`: OTLP in its JSON encoding.
pub fn otlp<'a>(lines: impl IntoIterator<Item = &'a [u8]>, instance: &str) -> Value {
    let text = |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
    let records: Vec<Value> = lines
        .into_iter()
        .map(|line| {
            let record = Parsed::new(line);
            let nanoseconds = i128::from(record.milliseconds()) * 1_000_000;
            // SeverityNumber: 9 is INFO, 13 WARN, 17 ERROR.
            let (number, name) = match Parsed::severity(record.text("outcome")) {
                6 => (9, "INFO"),
                4 => (13, "WARN"),
                _ => (17, "ERROR"),
            };
            let members = [
                ("mqgate.category", "category"),
                ("mqgate.outcome", "outcome"),
                ("mqgate.reason", "reason"),
                ("mqgate.client_id", "client_id"),
                ("mqgate.device_id", "device_id"),
                ("mqgate.listener", "listener"),
                ("mqgate.actor", "actor"),
                ("mqgate.log", "log"),
            ];
            let members = members.into_iter().filter(|(_, member)| !record.text(member).is_empty());
            let mut attributes: Vec<Value> =
                members.map(|(key, member)| text(key, record.text(member))).collect();
            attributes
                .push(json!({ "key": "mqgate.seq", "value": { "intValue": record.sequence().to_string() } }));
            if let Some((address, port)) = record.source() {
                attributes.push(text("client.address", &address));
                attributes.push(json!({ "key": "client.port", "value": { "intValue": port.to_string() } }));
            }
            json!({
                "timeUnixNano": nanoseconds.to_string(),
                "observedTimeUnixNano": nanoseconds.to_string(),
                "severityNumber": number,
                "severityText": name,
                "eventName": record.text("name"),
                "body": { "stringValue": record.whole() },
                "attributes": attributes,
            })
        })
        .collect();
    let resource = [
        text("service.name", "mqgate"),
        text("service.version", VERSION),
        text("service.instance.id", instance),
    ];
    json!({
        "resourceLogs": [{
            "resource": { "attributes": resource },
            "scopeLogs": [{ "scope": { "name": "mqgate.audit", "version": VERSION }, "logRecords": records }],
        }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"actor":"client","category":"authn","client_id":"a=b|c\\d","device_id":"meter-7","fields":{"tls.version":"1.3"},"fingerprint":"ab","listener":"devices","log":"00ff","name":"connection.refused","outcome":"failure","peer":"192.0.2.7:51712","prev":"00","reason":"cert_revoked","seq":11,"subject":"CN=x\ny","time":"2026-11-22T00:20:31.901Z","v":1}"#;

    #[test]
    fn cef_escapes_what_would_end_a_value() {
        let text = String::from_utf8(Format::Cef.write(LINE.as_bytes())).unwrap();
        let start = format!(
            "CEF:0|mqgate|mqgate|{VERSION}|connection.refused|connection.refused|5|rt=1795306831901 "
        );
        assert!(text.starts_with(&start), "{text}");
        assert!(text.contains(r" suid=a\=b|c\\d "), "{text}");
        assert!(text.contains(r" src=192.0.2.7 spt=51712 "), "{text}");
        assert!(text.contains(r" cs4Label=subject cs4=CN\=x\ny "), "{text}");
        assert!(text.contains("externalId=00ff:11") && !text.contains('\n'), "{text}");
        let six = LINE.replace("192.0.2.7:51712", "[2001:db8::1]:9");
        let text = String::from_utf8(Format::Cef.write(six.as_bytes())).unwrap();
        assert!(text.contains("c6a2=2001:db8::1 c6a2Label=Source IPv6 Address spt=9"), "{text}");
        // Extension keys and values can be told apart: every unescaped `=` follows a key.
        let extension = text.splitn(8, '|').nth(7).unwrap();
        assert!(extension.starts_with("rt="));
    }

    #[test]
    fn ecs_keeps_the_record_whole() {
        let value: Value = serde_json::from_slice(&Format::Ecs.write(LINE.as_bytes())).unwrap();
        assert_eq!(value["@timestamp"], "2026-11-22T00:20:31.901Z");
        assert_eq!(value["event"]["type"], json!(["start", "denied"]));
        assert_eq!(value["event"]["id"], "00ff-11");
        assert_eq!(value["source"], json!({ "ip": "192.0.2.7", "port": 51712 }));
        assert_eq!(value["tls"]["client"]["hash"]["sha256"], "AB");
        assert_eq!(value["event"]["original"], LINE);
        assert_eq!(value["mqgate"]["device_id"], "meter-7");
        let bare = br#"{"name":"broker.started","outcome":"success","seq":1}"#;
        let value: Value = serde_json::from_slice(&Format::Ecs.write(bare)).unwrap();
        assert!(value.get("source").is_none() && value.get("tls").is_none(), "{value}");
    }

    #[test]
    fn syslog_is_rfc_5424_with_its_length_in_front() {
        let message = syslog(LINE.as_bytes(), Format::Json, "host-1");
        let text = String::from_utf8(message.clone()).unwrap();
        let head = format!(
            "<108>1 2026-11-22T00:20:31.901Z host-1 mqgate {} connection.refused [meta sequenceId=\"11\"] {{",
            std::process::id()
        );
        assert!(text.starts_with(&head), "{text}");
        let mut out = Vec::new();
        framed(&message, &mut out);
        assert!(out.starts_with(format!("{} <108>1 ", message.len()).as_bytes()));
        let broken = String::from_utf8(syslog(b"torn", Format::Json, "h")).unwrap();
        assert!(broken.contains(" - h mqgate ") || broken.contains("1 - h mqgate"), "{broken}");
    }

    #[test]
    fn otlp_has_numbers_as_text_where_they_have_64_bits() {
        let value = otlp([LINE.as_bytes()], "00ff");
        let record = &value["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0];
        assert_eq!(record["timeUnixNano"], "1795306831901000000");
        assert_eq!(
            (record["severityNumber"].as_u64(), &record["eventName"]),
            (Some(13), &json!("connection.refused"))
        );
        assert_eq!(record["body"]["stringValue"], LINE);
        let attributes = record["attributes"].as_array().unwrap();
        assert!(attributes.contains(&json!({ "key": "mqgate.seq", "value": { "intValue": "11" } })));
    }
}
