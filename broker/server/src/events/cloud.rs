//! One event as CloudEvents 1.0 has it, and the topic it is published under.

use std::borrow::Cow;
use std::sync::Arc;

use jiff::Timestamp;
use mqgate_identity::audit::AuditEvent;
use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::hooks::Value as Field;
use mqgate_identity::registry::{EventData, RegistryEvent};
use mqgate_identity::time::UnixMillis;
use serde_json::{Map, Value, json};

use super::kinds;

/// Begins every topic of events: no client may publish there.
const ROOT: &str = "$events/";
/// Its first level.
pub(super) const ROOT_LEVEL: &str = "$events";
/// Digits of a CA's fingerprint in a topic.
const SHORT: usize = 16;
/// What stands before every type.
const PREFIX: &str = "mqgate.";

/// What happened. Its JSON is made when somebody wants it.
#[derive(Debug, Clone)]
pub struct CloudEvent {
    id: String,
    /// Without the prefix: `certs.revoked`.
    pub kind: String,
    pub subject: String,
    at: UnixMillis,
    from: Origin,
}

#[derive(Debug, Clone)]
enum Origin {
    Audit(Arc<AuditEvent>),
    Registry(Arc<RegistryEvent>),
}

impl CloudEvent {
    /// `None`: the record is no event. `run` tells records of one run of the broker from those of others.
    pub fn of_audit(event: &Arc<AuditEvent>, run: u64) -> Option<Self> {
        let (kind, subject) = kinds::of(event)?;
        Some(Self {
            id: format!("audit-{run:x}-{}", event.sequence),
            kind: kind.into_owned(),
            subject: subject.to_owned(),
            at: event.at,
            from: Origin::Audit(Arc::clone(event)),
        })
    }

    pub fn of_registry(event: RegistryEvent) -> Self {
        let subject = match &event.data {
            EventData::Device(data) => data.cert_id.to_hex(),
            EventData::Ca(data) => data.ca_id.to_hex(),
        };
        Self {
            id: format!("registry-{}", event.sequence),
            kind: event.kind.as_str().to_owned(),
            subject,
            at: event.at,
            from: Origin::Registry(Arc::new(event)),
        }
    }

    /// The whole event.
    pub fn json(&self, source: &str) -> Value {
        json!({
            "specversion": "1.0",
            "id": self.id,
            "source": source,
            "type": format!("{PREFIX}{}", self.kind),
            "time": time(self.at),
            "subject": self.subject,
            "datacontenttype": "application/json",
            "data": self.data(),
        })
    }

    fn data(&self) -> Value {
        match &self.from {
            Origin::Audit(event) => of_record(event),
            Origin::Registry(event) => {
                // A struct of strings and numbers.
                let mut data = serde_json::to_value(&event.data).unwrap_or_default();
                data["actor"] = event.actor.clone().into();
                data
            }
        }
    }

    /// `$events/certs/revoked/<ca>`, `$events/clients/connected/<client id>`, `$events/config/changed`.
    pub fn topic(&self) -> String {
        let path = self.kind.replace('.', "/");
        let last: Cow<'_, str> = match &self.from {
            Origin::Registry(event) => {
                let ca = match &event.data {
                    EventData::Device(data) => data.ca_id,
                    EventData::Ca(data) => data.ca_id,
                };
                ca.to_hex().chars().take(SHORT).collect::<String>().into()
            }
            Origin::Audit(_) => match self.kind.split('.').next() {
                Some("config" | "audit" | "sys") => return format!("{ROOT}{path}"),
                _ => escaped(&self.subject),
            },
        };
        format!("{ROOT}{path}/{last}")
    }
}

/// As one level of a topic: what would be a wildcard or another level is percent-encoded.
fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '/', '+', '#']) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '%' => out.push_str("%25"),
            '/' => out.push_str("%2F"),
            '+' => out.push_str("%2B"),
            '#' => out.push_str("%23"),
            c => out.push(c),
        }
    }
    out.into()
}

fn time(at: UnixMillis) -> String {
    i64::try_from(at.0)
        .ok()
        .and_then(|milliseconds| Timestamp::from_millisecond(milliseconds).ok())
        .map_or_else(|| String::from("1970-01-01T00:00:00.000Z"), |time| format!("{time:.3}"))
}

fn of_record(event: &AuditEvent) -> Value {
    let mut data = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            data.insert(name.to_owned(), value);
        }
    };
    put("audit_seq", Some(event.sequence.into()));
    put("outcome", Some(event.outcome.as_str().into()));
    put("reason", Some(event.reason.as_str().into()));
    put("actor", Some(event.actor.as_str().into()));
    put("connection_id", event.connection_id.map(Value::from));
    put("client_id", event.client_id.as_deref().map(Value::from));
    put("device_id", event.device_id.as_deref().map(Value::from));
    put("peer_ip", event.peer_address.as_deref().map(Value::from));
    put("listener", event.listener.as_deref().map(Value::from));
    put("cert_id", event.certificate_fingerprint.map(CertificateFingerprint::to_hex).map(Value::from));
    put("certificate_subject", event.subject.as_deref().map(Value::from));
    put("sni", event.server_name.as_deref().map(Value::from));
    let fields: Map<String, Value> = event
        .fields
        .iter()
        .map(|field| {
            let value = match &field.value {
                Field::Text(text) => text.as_str().into(),
                Field::Integer(number) => (*number).into(),
                Field::Boolean(yes) => (*yes).into(),
                Field::Blob(bytes) => hex::encode(bytes).into(),
                Field::Texts(texts) => texts.clone().into(),
            };
            (field.name.clone(), value)
        })
        .collect();
    put("fields", Some(fields).filter(|fields| !fields.is_empty()).map(Value::Object));
    Value::Object(data)
}

#[cfg(test)]
mod tests {
    use mqgate_identity::audit::{Outcome, names};
    use mqgate_identity::reason::Reason;

    use super::*;

    fn record(name: &'static str, client_id: &str) -> Arc<AuditEvent> {
        let mut event = AuditEvent::new(name, Outcome::Success, Reason::Ok).field("why", "because");
        (event.client_id, event.sequence, event.at) = (Some(client_id.into()), 9, UnixMillis(1_000));
        Arc::new(event)
    }

    #[test]
    fn an_event_is_a_cloud_event() {
        let event = CloudEvent::of_audit(&record(names::CONNECTION_ACCEPTED, "meter-7"), 255).unwrap();
        assert_eq!(
            event.json("/mqgate"),
            json!({
                "specversion": "1.0",
                "id": "audit-ff-9",
                "source": "/mqgate",
                "type": "mqgate.clients.connected",
                "time": "1970-01-01T00:00:01.000Z",
                "subject": "meter-7",
                "datacontenttype": "application/json",
                "data": {
                    "audit_seq": 9, "outcome": "success", "reason": "ok", "actor": "system",
                    "client_id": "meter-7", "fields": { "why": "because" },
                },
            })
        );
    }

    #[test]
    fn a_client_id_is_one_level_of_the_topic_whatever_is_in_it() {
        for (client_id, topic) in [
            ("meter-7", "$events/clients/connected/meter-7"),
            ("a/b", "$events/clients/connected/a%2Fb"),
            ("+", "$events/clients/connected/%2B"),
            ("x#%", "$events/clients/connected/x%23%25"),
            ("zähler", "$events/clients/connected/zähler"),
        ] {
            let event = CloudEvent::of_audit(&record(names::CONNECTION_ACCEPTED, client_id), 1).unwrap();
            assert_eq!(event.topic(), topic);
            assert!(mqgate_codec::TopicName::parse(event.topic().into()).is_ok());
        }
        let event = CloudEvent::of_audit(&record(names::CONFIG_RELOADED, "x"), 1).unwrap();
        assert_eq!(event.topic(), "$events/config/changed");
        assert_eq!(format!("{ROOT_LEVEL}/"), ROOT);
    }
}
