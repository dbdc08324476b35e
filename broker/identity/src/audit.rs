//! What the auditors are told: one event for each decision and change.

pub mod policy;

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
    /// Its place in the log, from 1, over restarts; without a log, per broker process.
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
    /// The record of the connection's beginning says whose it is and where from: the log does not say it again.
    pub is_sequel: bool,
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

/// The closed catalogue of events. An event is added by one line in [`names`]: `ALL`, `KINDS` and docs/audit.md follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// Dotted; stable.
    pub name: &'static str,
    pub category: Category,
    /// When it is recorded, for readers; Markdown.
    pub when: &'static str,
}

/// What an event is about: the `category` of records and of the metric that counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Category {
    Authn,
    Authz,
    Registry,
    Ca,
    Plugin,
    Admin,
    Tls,
    Session,
    System,
}

impl Category {
    pub const ALL: &'static [Self] = &[
        Self::Authn,
        Self::Authz,
        Self::Registry,
        Self::Ca,
        Self::Plugin,
        Self::Admin,
        Self::Tls,
        Self::Session,
        Self::System,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Authn => "authn",
            Self::Authz => "authz",
            Self::Registry => "registry",
            Self::Ca => "ca",
            Self::Plugin => "plugin",
            Self::Admin => "admin",
            Self::Tls => "tls",
            Self::Session => "session",
            Self::System => "system",
        }
    }

    /// The category of the event called `name`; `System` for a name that is not in the catalogue.
    pub fn of(name: &str) -> Self {
        names::KINDS.iter().find(|kind| kind.name == name).map_or(Self::System, |kind| kind.category)
    }
}

/// The names, and what each means. Never reused for another meaning.
pub mod names {
    use super::{Category, Kind};

    macro_rules! catalogue {
        ($($constant:ident = $name:literal, $category:ident, $when:literal;)*) => {
            $(#[doc = $when] pub const $constant: &str = $name;)*
            pub const ALL: &[&str] = &[$($constant),*];
            pub const KINDS: &[Kind] =
                &[$(Kind { name: $constant, category: Category::$category, when: $when }),*];
        };
    }

    catalogue! {
        CONNECTION_ACCEPTED = "connection.accepted", Authn, "CONNECT was answered with success";
        CONNECTION_REAUTHORIZED = "connection.reauthorized", Authn, "the chains were asked again about a live session: `success`, it has a new permit; `error`, no answer could be had (`reason` says why) and it keeps the old one";
        CONNECTION_REFUSED = "connection.refused", Authn, "CONNECT was answered with a refusal, or its bytes were no CONNECT; also a session that lost its permit. Refusals of one address (IPv6: /64), reason and certificate within 10 s are counted into one record";
        CONNECTION_CLOSED = "connection.closed", Session, "an admitted connection ended; `reason` says why, `initiator` and `code` in `fields` who ended it and with what (without them: the client, with 0x00). At an ordinary end (`ok`), and while no rule is set, what `connection.accepted` says of the same `connection_id` is not said again, but for client and device";
        HANDSHAKE_FAILED = "tls.handshake_failed", Tls, "no connection came about; equal failures of one address are counted into one record";
        PUBLISH_DENIED = "authorization.publish_denied", Authz, "the permit does not allow a publish; the first at once, later ones of the session as a count";
        SUBSCRIBE_DENIED = "authorization.subscribe_denied", Authz, "the permit does not allow a subscription; counted as the above";
        DEVICE_REGISTERED = "device.registered", Registry, "a certificate entered the registry as active";
        DEVICE_PENDING = "device.pending", Registry, "a certificate entered the registry and waits for its operator";
        DEVICE_ACTIVATED = "device.activated", Registry, "a registered certificate became active";
        DEVICE_DEACTIVATED = "device.deactivated", Registry, "a registered certificate became inactive";
        DEVICE_REVOKED = "device.revoked", Registry, "a registered certificate was revoked";
        DEVICE_DELETED = "device.deleted", Registry, "a registered certificate was deleted";
        DEVICE_REJECTED = "device.rejected", Registry, "a certificate that waited was refused before it was ever let in";
        DEVICE_REINSTATED = "device.reinstated", Registry, "a certificate that was superseded is good again beside its successor";
        DEVICE_QUARANTINED = "device.quarantined", Registry, "a device is kept out for a while (docs/registry.md)";
        DEVICE_RELEASED = "device.released", Registry, "a device that was kept out may come in again";
        DEVICE_CHANGED = "device.changed", Registry, "its binding, tags or attributes changed";
        DEVICE_PURGED = "device.purged", Registry, "its tombstone is gone";
        CA_ADDED = "ca.added", Ca, "a CA became trusted";
        CA_REMOVED = "ca.removed", Ca, "a CA is trusted no longer";
        CA_VERIFIED = "ca.verified", Ca, "somebody proved to hold the key of a CA; `from` and `to` in `fields`, as for those below";
        CA_ACTIVATED = "ca.activated", Ca, "a CA became active";
        CA_DEACTIVATED = "ca.deactivated", Ca, "a CA became inactive";
        CA_REVOKED = "ca.revoked", Ca, "a CA was revoked";
        CA_CHANGED = "ca.changed", Ca, "the settings of a CA changed";
        REGISTRATION_CODE_CREATED = "registration_code.created", Registry, "a code for the proof that somebody holds a CA's key; only its beginning is written";
        REGISTRATION_CODE_DELETED = "registration_code.deleted", Registry, "such a code is good no longer";
        REGISTRY_RESTORED = "registry.restored", Registry, "a backup was put back while the broker was stopped; counts in `fields`";
        SERVER_CERT_ADDED = "server_cert.added", Tls, "the broker keeps another server certificate";
        SERVER_CERT_REPLACED = "server_cert.replaced", Tls, "a server certificate that the broker keeps was replaced";
        SERVER_CERT_REMOVED = "server_cert.removed", Tls, "one was removed";
        SERVER_CERT_ENABLED = "server_cert.enabled", Tls, "one is used again";
        SERVER_CERT_DISABLED = "server_cert.disabled", Tls, "one is kept and not used";
        SERVER_CERT_REVOKED = "server_cert.revoked", Tls, "the OCSP responder says that a server certificate is revoked: no response is sent with it any more";
        CRL_UPDATED = "crl.updated", Ca, "a revocation list came into force (source, issuer, times, entries in `fields`)";
        CRL_REFUSED = "crl.refused", Ca, "a revocation list was not taken, and why";
        CERTIFICATE_EXPIRED = "certificate.expired", System, "the certificate of a live connection expired, and `reload.on_expiry = \"warn\"` lets it stay";
        CERTIFICATE_FINDING = "certificate.finding", Registry, "something is odd about a certificate: it is on two devices, asks for another client id than it is bound to, or for that of another device, or has a name that cannot stand in a topic; `finding`, `detail` and `attempts` in `fields`, once a minute for each certificate and finding";
        DEVICE_SUPERSEDED = "device.superseded", Registry, "a newer certificate of the device is in use";
        DEVICE_REPARENTED = "device.reparented", Registry, "another CA carries the certificate now";
        DEVICE_LAPSED = "device.lapsed", Registry, "the certificate waited for its operator for too long and is forgotten";
        CONFIG_RELOADED = "config.reloaded", System, "the configuration was changed while the broker runs; every key with its value before and after in `fields`";
        CONFIG_REFUSED = "config.refused", System, "it was to be changed and could not be; the one before goes on";
        TRANSITION_STARTED = "transition.started", System, "a CA or a server certificate that was replaced stays valid beside its successor";
        TRANSITION_CHANGED = "transition.changed", System, "the moment of its end moved";
        TRANSITION_ENDED = "transition.ended", System, "it is valid no longer";
        PLUGIN_LOADED = "plugin.loaded", Plugin, "a plugin joined the chains; its digest, the number of the version and the key that signed it in `fields`, as for those below";
        PLUGIN_SWAPPED = "plugin.swapped", Plugin, "a plugin was replaced; digests before and after in `fields`";
        PLUGIN_UNLOADED = "plugin.unloaded", Plugin, "a plugin left the chains";
        PLUGIN_CONFIGURED = "plugin.configured", Plugin, "a plugin runs with other settings";
        PLUGIN_ENABLED = "plugin.enabled", Plugin, "a plugin is asked again";
        PLUGIN_DISABLED = "plugin.disabled", Plugin, "a plugin is kept and not asked";
        PLUGIN_ROLLED_BACK = "plugin.rolled_back", Plugin, "a version from before runs again: an operator wanted it, or `system` because the new one did worse; why, in `fields`";
        PLUGIN_RESET = "plugin.reset", Plugin, "what was decided about a plugin at runtime was forgotten: the configuration's word holds";
        PLUGIN_SHADOWED = "plugin.shadowed", Plugin, "a version is asked beside the live one and decides nothing";
        PLUGIN_SHADOW_DROPPED = "plugin.shadow_dropped", Plugin, "such a version is asked no more; how many of its answers were the same, and how many not, in `fields`";
        PLUGIN_RECORDING = "plugin.recording", Plugin, "calls of a plugin are recorded from now on, with what clients showed";
        PLUGIN_RECORDING_ENDED = "plugin.recording_ended", Plugin, "they are recorded no more; how many were, and how many were lost, in `fields`";
        PLUGIN_REFUSED = "plugin.refused", Plugin, "a component was not taken; stage and message in `fields`";
        ADMIN_ACTION = "admin.action", Admin, "another change over the admin API (`action`, `target`, `code`, `detail` in `fields`)";
        ADMIN_REFUSED = "admin.refused", Admin, "a change over the admin API that was refused, or a request without the right to it";
        BAN_ADDED = "ban.added", Admin, "somebody may not come in for a while, because an operator says so or because the client flapped";
        BAN_REMOVED = "ban.removed", Admin, "a ban was lifted";
        BRIDGE_UP = "bridge.up", System, "a bridge to another broker reached it; its name and the address in `fields`";
        BRIDGE_DOWN = "bridge.down", System, "a bridge to another broker lost it; the cause in `fields`";
        CLOCK_WRONG = "clock.wrong", System, "the machine's clock shows a time that cannot be, and why";
        CLOCK_RIGHT = "clock.right", System, "the machine's clock is right again";
        FINDING_APPEARED = "finding.appeared", System, "a posture check has found something; check, severity and resource in `fields` ([posture.md](posture.md))";
        FINDING_DISAPPEARED = "finding.disappeared", System, "a posture check finds something no longer";
        BROKER_STARTED = "broker.started", System, "the broker serves";
        BROKER_STOPPED = "broker.stopped", System, "the broker ends";
        AUDIT_DROPPED = "audit.dropped", System, "records were lost; how many, where and why in `fields`";
        AUDIT_RECOVERED = "audit.recovered", System, "a crash left the end of the log torn: it was cut to the last whole record (`bytes`, `after_seq` in `fields`; what was cut off is kept in the file `kept`)";
        AUDIT_WITHDRAWN = "audit.withdrawn", System, "what the record `withdrawn_seq` says did not happen: it was not on the disk in time, and what it would have been evidence of was refused, or nobody waited for it any more";
        AUDIT_RETENTION = "audit.retention", System, "the oldest segments are deleted, up to and including `through_seq`; their tree hashes stay";
        AUDIT_KEY_ROTATED = "audit.key_rotated", System, "checkpoints are signed with another key from now on; `before`, `after`, and the statement with the signatures of both in `fields`";
        AUDIT_SUBJECT_ERASED = "audit.subject_erased", System, "the key of a subject was destroyed: its personal members in older records can be read no longer";
    }
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
            is_sequel: false,
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

    #[test]
    fn every_name_is_there_once_and_has_a_text() {
        let mut names: Vec<_> = names::ALL.to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), names::KINDS.len());
        for kind in names::KINDS {
            assert!(kind.name.contains('.') && !kind.when.is_empty() && !kind.when.contains('|'), "{kind:?}");
            assert_eq!(Category::of(kind.name), kind.category);
        }
    }
}
