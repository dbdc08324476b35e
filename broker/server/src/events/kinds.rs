//! Which audit records are events, and what they are called. What happens to certificates and CAs comes from the
//! registry's own outbox, and is not said twice.

use std::borrow::Cow;

use mqgate_identity::audit::{AuditEvent, names};
use mqgate_identity::reason::Reason;

/// The event's type, and what it is about; `None`: it is no event. Borrows nearly always: every record is asked.
pub(super) fn of(event: &AuditEvent) -> Option<(Cow<'_, str>, &str)> {
    let client = || event.client_id.as_deref().unwrap_or("-");
    let listener = || event.listener.as_deref().unwrap_or("-");
    let (kind, subject) = match event.name {
        names::CONNECTION_ACCEPTED => ("clients.connected", client()),
        names::CONNECTION_REFUSED if event.reason == Reason::Banned => ("clients.banned", client()),
        names::CONNECTION_REFUSED => ("clients.auth_failed", client()),
        names::CONNECTION_CLOSED => {
            let kind = match event.reason {
                Reason::TakenOver => "clients.takenover",
                Reason::AdminAction => "clients.kicked",
                Reason::Banned => "clients.banned",
                _ => "clients.disconnected",
            };
            (kind, client())
        }
        names::BAN_ADDED if event.actor == "system:flapping" => {
            ("clients.flapping", field(event, "value").unwrap_or_else(client))
        }
        names::BAN_ADDED => ("bans.added", field(event, "value").unwrap_or_else(client)),
        names::BAN_REMOVED => ("bans.removed", field(event, "value").unwrap_or_else(client)),
        names::HANDSHAKE_FAILED => ("tls.handshake_failed", listener()),
        names::SERVER_CERT_ADDED
        | names::SERVER_CERT_REPLACED
        | names::SERVER_CERT_REMOVED
        | names::SERVER_CERT_ENABLED
        | names::SERVER_CERT_DISABLED
        | names::SERVER_CERT_REVOKED => {
            ("tls.bundle_changed", field(event, "bundle").unwrap_or_else(listener))
        }
        names::TRANSITION_STARTED => ("tls.grace_started", field(event, "name").unwrap_or_else(listener)),
        names::TRANSITION_CHANGED => ("tls.grace_changed", field(event, "name").unwrap_or_else(listener)),
        names::TRANSITION_ENDED => ("tls.grace_ended", field(event, "name").unwrap_or_else(listener)),
        names::CONFIG_RELOADED => ("config.changed", "config"),
        names::BRIDGE_UP => ("bridges.up", field(event, "bridge").unwrap_or_default()),
        names::BRIDGE_DOWN => ("bridges.down", field(event, "bridge").unwrap_or_default()),
        names::BROKER_STARTED => ("sys.started", "broker"),
        names::BROKER_STOPPED => ("sys.stopping", "broker"),
        names::CLOCK_WRONG => ("sys.clock_wrong", "clock"),
        names::CLOCK_RIGHT => ("sys.clock_right", "clock"),
        names::FINDING_APPEARED => ("findings.appeared", field(event, "check").unwrap_or_default()),
        names::FINDING_DISAPPEARED => ("findings.disappeared", field(event, "check").unwrap_or_default()),
        // Whatever else a plugin does, or the audit log finds.
        name => {
            let (area, word) = name.split_once('.')?;
            let subject = match area {
                "plugin" => field(event, "plugin"),
                "audit" => Some("audit"),
                _ => return None,
            };
            let area = if area == "plugin" { "plugins" } else { area };
            return Some((format!("{area}.{word}").into(), subject.unwrap_or("-")));
        }
    };
    Some((kind.into(), subject))
}

fn field<'a>(event: &'a AuditEvent, name: &str) -> Option<&'a str> {
    use mqgate_identity::hooks::Value;
    event.fields.iter().find(|field| field.name == name).and_then(|field| match &field.value {
        Value::Text(text) => Some(text.as_str()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use mqgate_identity::audit::Outcome;

    use super::*;

    #[test]
    fn registry_records_and_floods_are_no_events_here() {
        for name in names::ALL {
            let event = AuditEvent::new(name, Outcome::Success, Reason::Ok);
            let found = of(&event);
            let silent = ["device.", "ca.", "crl.", "certificate.", "authorization.", "admin."];
            if silent.iter().any(|area| name.starts_with(area)) {
                assert_eq!(found, None, "{name}");
            }
            if let Some((kind, subject)) = found {
                let plain = |byte: u8| byte.is_ascii_lowercase() || matches!(byte, b'.' | b'_');
                assert!(kind.bytes().all(plain) && kind.matches('.').count() == 1, "{name} {kind}");
                let named_by_field = ["bridge.", "finding."].iter().any(|area| name.starts_with(area));
                assert!(!subject.is_empty() || named_by_field, "{name}");
            }
        }
    }

    #[test]
    fn how_a_connection_ended_is_in_the_type() {
        for (reason, kind) in [
            (Reason::Ok, "clients.disconnected"),
            (Reason::TakenOver, "clients.takenover"),
            (Reason::AdminAction, "clients.kicked"),
            (Reason::Banned, "clients.banned"),
        ] {
            let mut event = AuditEvent::new(names::CONNECTION_CLOSED, Outcome::Success, reason);
            event.client_id = Some("c".into());
            assert_eq!(of(&event), Some((kind.into(), "c")));
        }
    }
}
