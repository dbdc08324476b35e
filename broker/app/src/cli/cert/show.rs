//! What is shown of certificates: lists, one record, its history and sessions, tombstones.

use anyhow::Result;
use serde_json::Value;

use super::super::output::{self, date, printable, say, table, text, time};

const HEAD: [&str; 8] = ["ID", "STATE", "EFFECTIVE", "DEVICE", "CLIENT ID", "SOURCE", "EXPIRES", "SUBJECT"];

/// A table, and what to do when it is empty.
pub fn list(items: Vec<Value>, json: bool, nothing: &str) -> Result<()> {
    if json {
        return output::json(&Value::Array(items));
    }
    if items.is_empty() {
        return say(nothing);
    }
    let rows: Vec<Vec<String>> = items.iter().map(row).collect();
    table(&HEAD, &rows)
}

fn row(item: &Value) -> Vec<String> {
    vec![
        short(item, "id"),
        text(item, "state"),
        text(item, "effective"),
        text(item, "device_id"),
        text(item, "client_id"),
        text(item, "source"),
        date(item["not_after"].as_i64().unwrap_or_default()),
        text(item, "subject"),
    ]
}

/// The beginning of a SHA-256, enough to name it.
pub fn short(item: &Value, name: &str) -> String {
    text(item, name).chars().take(16).collect()
}

pub fn one(record: &Value) -> Result<()> {
    let members = record.as_object().into_iter().flatten();
    members.filter(|(name, _)| *name != "pem").try_for_each(|(name, value)| {
        let shown = match (name.as_str(), value) {
            ("not_before" | "not_after", _) => date(value.as_i64().unwrap_or_default()),
            (
                "registered_at" | "updated_at" | "last_seen" | "pending_until" | "revoked_at" | "deleted_at",
                _,
            ) => time(value.as_i64().unwrap_or_default()),
            (_, Value::Object(map)) => {
                let words: Vec<String> =
                    map.keys().map(|key| format!("{key}={}", text(value, key))).collect();
                words.join(" ")
            }
            _ => text(record, name),
        };
        say(format!("{name:22} {}", printable(&shown)))
    })
}

pub fn history(items: Vec<Value>, json: bool) -> Result<()> {
    if json {
        return output::json(&Value::Array(items));
    }
    if items.is_empty() {
        return say("nothing that happened to it is kept any more");
    }
    let rows: Vec<Vec<String>> = items
        .iter()
        .map(|item| {
            vec![
                time(item["at"].as_i64().unwrap_or_default()),
                text(item, "event"),
                text(item, "from"),
                text(item, "to"),
                text(item, "actor"),
                text(item, "revision"),
                text(item, "reason"),
            ]
        })
        .collect();
    table(&["AT", "WHAT", "FROM", "TO", "ACTOR", "REVISION", "REASON"], &rows)
}

pub fn decisions(items: Vec<Value>, json: bool) -> Result<()> {
    if json {
        return output::json(&Value::Array(items));
    }
    if items.is_empty() {
        return say("nothing was decided about it that the audit log still has");
    }
    let rows: Vec<Vec<String>> = items
        .iter()
        .map(|item| {
            let verdict = |plugin: &Value| format!("{}={}", text(plugin, "name"), text(plugin, "result"));
            let plugins = item["plugins"].as_array().into_iter().flatten().map(verdict);
            vec![
                text(item, "seq"),
                text(item, "time"),
                text(item, "name"),
                text(item, "outcome"),
                text(item, "reason"),
                text(item, "client_id"),
                text(item, "listener"),
                text(item, "peer"),
                plugins.collect::<Vec<_>>().join(" "),
            ]
        })
        .collect();
    table(&["SEQ", "AT", "WHAT", "OUTCOME", "REASON", "CLIENT ID", "LISTENER", "ADDRESS", "PLUGINS"], &rows)
}

pub fn sessions(items: Vec<Value>, json: bool) -> Result<()> {
    if json {
        return output::json(&Value::Array(items));
    }
    if items.is_empty() {
        return say("nobody is connected with it");
    }
    let rows: Vec<Vec<String>> = items
        .iter()
        .map(|item| {
            vec![
                text(item, "client_id"),
                text(item, "device_id"),
                text(item, "listener"),
                text(item, "peer_address"),
                time(item["connected_at"].as_i64().unwrap_or_default()),
            ]
        })
        .collect();
    table(&["CLIENT ID", "DEVICE", "LISTENER", "ADDRESS", "SINCE"], &rows)
}

pub fn tombstones(items: Vec<Value>, json: bool) -> Result<()> {
    if json {
        return output::json(&Value::Array(items));
    }
    if items.is_empty() {
        return say("no tombstones: nothing that was deleted is remembered");
    }
    let rows: Vec<Vec<String>> = items
        .iter()
        .map(|item| {
            vec![
                short(item, "id"),
                text(item, "device_id"),
                text(item, "serial"),
                text(item, "revocation_reason"),
                item["deleted_at"].as_i64().map(time).unwrap_or_default(),
                date(item["not_after"].as_i64().unwrap_or_default()),
            ]
        })
        .collect();
    table(&["ID", "DEVICE", "SERIAL", "REVOKED FOR", "DELETED", "EXPIRES"], &rows)
}

/// Devices, each with its certificates by state.
pub fn devices(items: Vec<Value>, json: bool) -> Result<()> {
    if json {
        return output::json(&Value::Array(items));
    }
    if items.is_empty() {
        return say("no devices: register one with `mqgate cert register FILE`");
    }
    let rows: Vec<Vec<String>> = items
        .iter()
        .map(|item| {
            let certificates = item["certificates"].as_array().map_or(0, Vec::len);
            vec![
                text(item, "device_id"),
                text(item, "state"),
                text(item, "tenant"),
                certificates.to_string(),
                text(item, "client_id"),
                item["last_seen"].as_i64().map(time).unwrap_or_default(),
            ]
        })
        .collect();
    table(&["DEVICE", "STATE", "TENANT", "CERTIFICATES", "CLIENT ID", "LAST SEEN"], &rows)
}

/// Certificates that were refused at their first connection.
pub fn rejected(items: Vec<Value>, json: bool) -> Result<()> {
    if json {
        return output::json(&Value::Array(items));
    }
    if items.is_empty() {
        return say("nobody was refused since the broker was started");
    }
    let rows: Vec<Vec<String>> = items
        .iter()
        .map(|item| {
            vec![
                short(item, "id"),
                text(item, "reason"),
                text(item, "ca"),
                item["last_at"].as_i64().map(time).unwrap_or_default(),
                text(item, "peer_address"),
                text(item, "subject"),
                text(item, "detail"),
            ]
        })
        .collect();
    table(&["ID", "REASON", "CA", "LAST", "ADDRESS", "SUBJECT", "DETAIL"], &rows)
}
