//! What is shown of CAs.

use anyhow::Result;
use serde_json::Value;

use super::super::output::{self, date, details, printable, say, table, text, time};
use super::ends;

pub fn list(items: Vec<Value>, json: bool) -> Result<()> {
    if json {
        return output::json(&Value::Array(items));
    }
    if items.is_empty() {
        return say("no CAs: `mqgate ca register FILE --name NAME --ca-key KEY` registers one");
    }
    let rows: Vec<Vec<String>> = items
        .iter()
        .map(|ca| {
            vec![
                text(ca, "name"),
                text(ca, "state"),
                text(ca, "source"),
                text(&ca["settings"], "auto_registration"),
                ends(ca),
                text(ca, "id").chars().take(16).collect(),
                text(ca, "subject"),
                lints(ca).map(|(lint, _)| lint).collect::<Vec<_>>().join(","),
            ]
        })
        .collect();
    table(&["NAME", "STATE", "SOURCE", "REGISTERS", "EXPIRES", "ID", "SUBJECT", "WARNINGS"], &rows)
}

pub fn one(ca: &Value) -> Result<()> {
    let mut shown = ca.clone();
    if let Some(members) = shown.as_object_mut() {
        members.remove("pem");
        for name in ["not_before", "not_after"] {
            if let Some(seconds) = members.get(name).and_then(Value::as_i64) {
                members.insert(name.to_owned(), Value::String(date(seconds)));
            }
        }
        for name in ["created_at", "updated_at", "retiring_until", "last_activated", "last_deactivated"] {
            if let Some(millis) = members.get(name).and_then(Value::as_i64) {
                members.insert(name.to_owned(), Value::String(time(millis)));
            }
        }
    }
    details(&shown)
}

pub fn impact(impact: &Value) -> Result<()> {
    say(format!("CA {} ({})", printable(&text(impact, "name")), text(impact, "state")))?;
    let certificates = impact["certificates"].as_object().into_iter().flatten();
    let by_state: Vec<Vec<String>> =
        certificates.map(|(state, count)| vec![state.clone(), count.to_string()]).collect();
    match by_state.is_empty() {
        true => say("no certificates are registered under it")?,
        false => table(&["CERTIFICATES", "NUMBER"], &by_state)?,
    }
    let connections = impact["connections"].as_u64().unwrap_or_default();
    say(format!("connections under it: {connections}"))?;
    let others = impact["connections_with_another_path"].as_u64().unwrap_or_default();
    if connections > 0 {
        say(format!("  that another CA carries as well: {others}"))?;
    }
    let clients: Vec<String> =
        impact["clients"].as_array().into_iter().flatten().filter_map(Value::as_str).map(printable).collect();
    if !clients.is_empty() {
        let more = usize::try_from(connections).unwrap_or(usize::MAX).saturating_sub(clients.len());
        let more = if more > 0 { format!(", … and {more} more") } else { String::new() };
        say(format!("  clients: {}{more}", clients.join(", ")))?;
    }
    say("then:")?;
    for (verb, effect) in impact["effects"].as_object().into_iter().flatten() {
        say(format!("  {verb:12} {}", printable(effect.as_str().unwrap_or_default())))?;
    }
    Ok(())
}

/// What is odd about a CA: a word and a sentence.
pub fn lints(ca: &Value) -> impl Iterator<Item = (String, String)> + '_ {
    let warnings = ca["warnings"].as_array().into_iter().flatten();
    warnings.map(|warning| (text(warning, "lint"), text(warning, "detail")))
}
