//! What hooks are shown of a connection, and what audit records say about one.

use mqgate_codec::{Connect, ProtocolVersion};
use mqgate_identity::audit::AuditEvent;
use mqgate_identity::hooks::{
    Attribute, ConnectFacts, Connection, Identity, Occasion, Secret, Value, WillFacts,
};
use mqgate_identity::registry::{DeviceCertificate, EventContext};
use mqgate_identity::time::UnixMillis;
use mqgate_protocol::permit::Permit;

use super::{Accepted, Terms};
use crate::metrics::mqtt::Transport;

/// Attribute of a connection that is judged once more, and when. Documented in `wit/types.wit`.
const REAUTHORIZATION_AT: &str = "reauthorization.at";

pub(super) fn connection(accepted: &Accepted, connect: &Connect) -> Connection {
    Connection {
        id: accepted.id,
        trace_id: random_hex(),
        listener: accepted.listener.clone(),
        accepted_at: accepted.accepted_at,
        peer: accepted.peer.clone(),
        tls: accepted.tls.clone(),
        certificate: accepted.certificate.clone(),
        connect: connect_facts(connect),
        attributes: accepted.attributes.clone(),
        occasion: Occasion::Admission,
    }
}

/// The same of a session that is judged once more: everything is as it was at CONNECT, but for the moment.
pub(super) fn live_connection(accepted: &Accepted, connect: &Connect, now: UnixMillis) -> Connection {
    let mut on = connection(accepted, connect);
    let now = Value::Integer(i64::try_from(now.0).unwrap_or(i64::MAX));
    on.attributes.push(Attribute { name: REAUTHORIZATION_AT.into(), value: now });
    on
}

fn connect_facts(connect: &Connect) -> ConnectFacts {
    let properties = &connect.properties;
    ConnectFacts {
        protocol_level: match connect.version {
            ProtocolVersion::V3_1 => 3,
            ProtocolVersion::V3_1_1 => 4,
            ProtocolVersion::V5 => 5,
        },
        client_id: connect.client_id.to_string(),
        clean_start: connect.clean_start,
        keep_alive: connect.keep_alive,
        user_name: connect.user_name.as_ref().map(ToString::to_string),
        password: connect.password.as_ref().map(|password| Secret(password.to_vec())),
        will: connect.will.as_ref().map(|will| WillFacts {
            topic: will.topic.as_str().to_owned(),
            qos: will.qos as u8,
            retain: will.retain,
            payload_length: u32::try_from(will.payload.len()).unwrap_or(u32::MAX),
        }),
        session_expiry: properties.session_expiry_interval,
        receive_maximum: properties.receive_maximum.map(std::num::NonZero::get),
        maximum_packet_size: properties.maximum_packet_size.map(std::num::NonZero::get),
        authentication_method: properties.authentication_method.as_ref().map(ToString::to_string),
        user_properties: properties
            .user_properties
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect(),
    }
}

/// What the registry knows of a device, where no authenticator had an opinion.
pub(super) fn identity(record: &DeviceCertificate) -> Identity {
    Identity {
        device_id: record.device_id.clone(),
        tenant: record.tenant.clone(),
        tags: record.tags.clone(),
        attributes: record
            .attributes
            .iter()
            .map(|(name, value)| Attribute { name: name.clone(), value: Value::Text(value.clone()) })
            .collect(),
    }
}

/// Who an event is about, as far as the connection tells.
pub(crate) fn event_about(mut event: AuditEvent, accepted: &Accepted) -> AuditEvent {
    event.connection_id = Some(accepted.id);
    event.peer_address = Some(match accepted.transport {
        Transport::Unix if accepted.peer.via_proxy.is_none() => String::from("unix"),
        _ => format!("{}:{}", bracketed(accepted.peer.address), accepted.peer.port),
    });
    event.listener = Some(accepted.listener.clone());
    event.actor = "client".into();
    if let Some(certificate) = &accepted.certificate {
        event.certificate_fingerprint = Some(certificate.leaf.certificate_fingerprint);
        event.subject = Some(certificate.leaf.subject.display.clone());
        event = event.field("ca", &*certificate.anchor.name);
    }
    if let Some(tls) = &accepted.tls {
        event.server_name = tls.server_name.clone();
        let version = match tls.version {
            0x0303 => "1.2",
            0x0304 => "1.3",
            _ => "other",
        };
        event = event.field("tls.version", version);
        if tls.resumed {
            event.fields.push(Attribute { name: "tls.resumed".into(), value: Value::Boolean(true) });
        }
    }
    if let Some(proxy) = accepted.peer.via_proxy {
        event = event.field("proxy", proxy.to_string());
    }
    event.fields.extend(accepted.attributes.iter().cloned());
    event
}

fn bracketed(address: std::net::IpAddr) -> String {
    match address {
        std::net::IpAddr::V4(address) => address.to_string(),
        std::net::IpAddr::V6(address) => format!("[{address}]"),
    }
}

pub(super) fn connect_fields(mut event: AuditEvent, on: &Connection) -> AuditEvent {
    // Only components were told it, for what they write themselves.
    if event.plugins.iter().any(|verdict| verdict.digest.is_some()) {
        event = event.field("trace_id", &*on.trace_id);
    }
    let level = i64::from(on.connect.protocol_level);
    event.fields.push(Attribute { name: "mqtt.level".into(), value: Value::Integer(level) });
    match &on.connect.user_name {
        Some(user_name) => event.field("user_name", &**user_name),
        None => event,
    }
}

pub(super) fn accepted_event(mut event: AuditEvent, permit: &Permit, terms: &Terms) -> AuditEvent {
    event.client_id = Some(permit.client_id.to_string());
    event.device_id = Some(permit.device_id.to_string());
    if let Some(tenant) = &permit.tenant {
        event = event.field("tenant", &**tenant);
    }
    event.fields.extend(terms.attributes.iter().cloned().map(plugin_field));
    event
}

/// What a plugin adds cannot be taken for what the broker says.
pub(super) fn plugin_field(mut attribute: Attribute) -> Attribute {
    attribute.name.insert_str(0, "plugin.");
    attribute
}

/// The connection, for an event of the registry.
pub(crate) fn event_context(accepted: &Accepted) -> EventContext {
    EventContext {
        peer_ip: Some(accepted.peer.address.to_string()),
        sni: accepted.tls.as_ref().and_then(|tls| tls.server_name.clone()),
        listener: Some(accepted.listener.to_string()),
        ..EventContext::default()
    }
}

/// 128 random bits as 32 hex digits.
pub(super) fn random_hex() -> String {
    let mut bytes = [0; 16];
    if let Err(error) = getrandom::fill(&mut bytes) {
        // Trace and client ids have to differ, not to be secret: the clock and an address will do.
        tracing::error!(%error, "the operating system gives no randomness");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        bytes = (now.as_nanos() ^ (std::ptr::from_ref(&bytes).addr() as u128) << 64).to_be_bytes();
    }
    hex::encode(bytes)
}
