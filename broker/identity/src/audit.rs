//! What the auditors are told: one event for each decision and change.

use std::sync::Arc;

use crate::certificate::CertificateFingerprint;
use crate::hooks::{Attribute, Value};
use crate::reason::Reason;
use crate::time::UnixMillis;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    Success,
    Failure,
    Error,
}

/// One event. `sequence` and `at` are filled by the log that accepts it.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditEvent {
    /// Rises by one per event and broker process.
    pub sequence: u64,
    pub at: UnixMillis,
    /// Dotted name from [`names`].
    pub name: &'static str,
    pub outcome: Outcome,
    pub reason: Reason,
    pub connection_id: Option<u64>,
    pub device_id: Option<String>,
    pub client_id: Option<String>,
    pub peer_address: Option<String>,
    pub listener: Option<Arc<str>>,
    pub certificate_fingerprint: Option<CertificateFingerprint>,
    /// RFC 4514 rendering, for readers.
    pub subject: Option<String>,
    pub server_name: Option<String>,
    /// `client`, `admin`, `plugin` or `system`; for `admin`, `admin:{token name}`.
    pub actor: String,
    /// The plugins that took part: name, digest, hook, answer.
    pub plugins: Vec<PluginVerdict>,
    /// Everything else, by dotted name.
    pub fields: Vec<Attribute>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginVerdict {
    pub name: Arc<str>,
    /// `None` for native implementations.
    pub digest: Option<Arc<str>>,
    pub hook: &'static str,
    /// `accept`, `allow`, `register`, `hold`, `deny`, `abstain`, or a failure kind.
    pub result: &'static str,
    pub microseconds: u64,
}

/// The closed catalogue of event names.
pub mod names {
    pub const CONNECTION_ACCEPTED: &str = "connection.accepted";
    pub const CONNECTION_REAUTHORIZED: &str = "connection.reauthorized";
    pub const CONNECTION_REFUSED: &str = "connection.refused";
    pub const CONNECTION_CLOSED: &str = "connection.closed";
    pub const HANDSHAKE_FAILED: &str = "tls.handshake_failed";
    pub const PUBLISH_DENIED: &str = "authorization.publish_denied";
    pub const SUBSCRIBE_DENIED: &str = "authorization.subscribe_denied";
    pub const DEVICE_REGISTERED: &str = "device.registered";
    pub const DEVICE_PENDING: &str = "device.pending";
    pub const DEVICE_ACTIVATED: &str = "device.activated";
    pub const DEVICE_DEACTIVATED: &str = "device.deactivated";
    pub const DEVICE_REVOKED: &str = "device.revoked";
    pub const DEVICE_DELETED: &str = "device.deleted";
    pub const DEVICE_REJECTED: &str = "device.rejected";
    pub const DEVICE_REINSTATED: &str = "device.reinstated";
    pub const DEVICE_QUARANTINED: &str = "device.quarantined";
    pub const DEVICE_RELEASED: &str = "device.released";
    pub const DEVICE_CHANGED: &str = "device.changed";
    pub const DEVICE_PURGED: &str = "device.purged";
    pub const CA_ADDED: &str = "ca.added";
    pub const CA_REMOVED: &str = "ca.removed";
    pub const CA_VERIFIED: &str = "ca.verified";
    pub const CA_ACTIVATED: &str = "ca.activated";
    pub const CA_DEACTIVATED: &str = "ca.deactivated";
    pub const CA_REVOKED: &str = "ca.revoked";
    pub const CA_CHANGED: &str = "ca.changed";
    pub const REGISTRATION_CODE_CREATED: &str = "registration_code.created";
    pub const REGISTRATION_CODE_DELETED: &str = "registration_code.deleted";
    pub const REGISTRY_RESTORED: &str = "registry.restored";
    pub const SERVER_CERT_ADDED: &str = "server_cert.added";
    pub const SERVER_CERT_REPLACED: &str = "server_cert.replaced";
    pub const SERVER_CERT_REMOVED: &str = "server_cert.removed";
    pub const SERVER_CERT_ENABLED: &str = "server_cert.enabled";
    pub const SERVER_CERT_DISABLED: &str = "server_cert.disabled";
    pub const SERVER_CERT_REVOKED: &str = "server_cert.revoked";
    pub const CRL_UPDATED: &str = "crl.updated";
    pub const CRL_REFUSED: &str = "crl.refused";
    pub const CERTIFICATE_EXPIRED: &str = "certificate.expired";
    pub const CERTIFICATE_FINDING: &str = "certificate.finding";
    pub const DEVICE_SUPERSEDED: &str = "device.superseded";
    pub const DEVICE_REPARENTED: &str = "device.reparented";
    pub const DEVICE_LAPSED: &str = "device.lapsed";
    pub const CONFIG_RELOADED: &str = "config.reloaded";
    pub const CONFIG_REFUSED: &str = "config.refused";
    pub const TRANSITION_STARTED: &str = "transition.started";
    pub const TRANSITION_CHANGED: &str = "transition.changed";
    pub const TRANSITION_ENDED: &str = "transition.ended";
    pub const PLUGIN_LOADED: &str = "plugin.loaded";
    pub const PLUGIN_SWAPPED: &str = "plugin.swapped";
    pub const PLUGIN_UNLOADED: &str = "plugin.unloaded";
    pub const PLUGIN_REFUSED: &str = "plugin.refused";
    pub const ADMIN_ACTION: &str = "admin.action";
    pub const ADMIN_REFUSED: &str = "admin.refused";
    pub const BAN_ADDED: &str = "ban.added";
    pub const BAN_REMOVED: &str = "ban.removed";
    pub const BRIDGE_UP: &str = "bridge.up";
    pub const BRIDGE_DOWN: &str = "bridge.down";
    pub const CLOCK_WRONG: &str = "clock.wrong";
    pub const CLOCK_RIGHT: &str = "clock.right";
    pub const BROKER_STARTED: &str = "broker.started";
    pub const BROKER_STOPPED: &str = "broker.stopped";
    pub const AUDIT_DROPPED: &str = "audit.dropped";

    pub const ALL: &[&str] = &[
        CONNECTION_ACCEPTED,
        CONNECTION_REAUTHORIZED,
        CONNECTION_REFUSED,
        CONNECTION_CLOSED,
        HANDSHAKE_FAILED,
        PUBLISH_DENIED,
        SUBSCRIBE_DENIED,
        DEVICE_REGISTERED,
        DEVICE_PENDING,
        DEVICE_ACTIVATED,
        DEVICE_DEACTIVATED,
        DEVICE_REVOKED,
        DEVICE_DELETED,
        DEVICE_REJECTED,
        DEVICE_REINSTATED,
        DEVICE_QUARANTINED,
        DEVICE_RELEASED,
        DEVICE_CHANGED,
        DEVICE_PURGED,
        CA_ADDED,
        CA_REMOVED,
        CA_VERIFIED,
        CA_ACTIVATED,
        CA_DEACTIVATED,
        CA_REVOKED,
        CA_CHANGED,
        REGISTRATION_CODE_CREATED,
        REGISTRATION_CODE_DELETED,
        REGISTRY_RESTORED,
        SERVER_CERT_ADDED,
        SERVER_CERT_REPLACED,
        SERVER_CERT_REMOVED,
        SERVER_CERT_ENABLED,
        SERVER_CERT_DISABLED,
        SERVER_CERT_REVOKED,
        CRL_UPDATED,
        CRL_REFUSED,
        CERTIFICATE_EXPIRED,
        CERTIFICATE_FINDING,
        DEVICE_SUPERSEDED,
        DEVICE_REPARENTED,
        DEVICE_LAPSED,
        CONFIG_RELOADED,
        CONFIG_REFUSED,
        TRANSITION_STARTED,
        TRANSITION_CHANGED,
        TRANSITION_ENDED,
        PLUGIN_LOADED,
        PLUGIN_SWAPPED,
        PLUGIN_UNLOADED,
        PLUGIN_REFUSED,
        ADMIN_ACTION,
        ADMIN_REFUSED,
        BAN_ADDED,
        BAN_REMOVED,
        BRIDGE_UP,
        BRIDGE_DOWN,
        CLOCK_WRONG,
        CLOCK_RIGHT,
        BROKER_STARTED,
        BROKER_STOPPED,
        AUDIT_DROPPED,
    ];
}

impl Outcome {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Error => "error",
        }
    }
}

impl AuditEvent {
    /// An event with the given name and everything else empty; the rest is filled with the methods below.
    pub fn new(name: &'static str, outcome: Outcome, reason: Reason) -> Self {
        Self {
            sequence: 0,
            at: UnixMillis(0),
            name,
            outcome,
            reason,
            connection_id: None,
            device_id: None,
            client_id: None,
            peer_address: None,
            listener: None,
            certificate_fingerprint: None,
            subject: None,
            server_name: None,
            actor: String::from("system"),
            plugins: Vec::new(),
            fields: Vec::new(),
        }
    }

    #[must_use]
    pub fn actor(mut self, actor: impl Into<String>) -> Self {
        self.actor = actor.into();
        self
    }

    #[must_use]
    pub fn field(mut self, name: &str, value: impl Into<String>) -> Self {
        self.fields.push(Attribute { name: name.to_owned(), value: Value::Text(value.into()) });
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `docs/audit.md` is the schema that readers of the log write against.
    #[test]
    fn every_name_and_reason_is_documented() {
        let page = include_str!("../../../docs/audit.md");
        let reasons = Reason::ALL.iter().map(|reason| reason.as_str());
        for word in names::ALL.iter().copied().chain(reasons) {
            assert!(page.contains(&format!("`{word}`")), "docs/audit.md does not explain `{word}`");
        }
    }
}
