//! What happened to a record, for who watches. Each event is written in the same step as the change it tells
//! of, with a number that rises by one: the outbox.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{CaCertificate, CaState, DeviceCertificate, DeviceState, RegistrationSource};
use crate::certificate::CertificateFingerprint;
use crate::time::{UnixMillis, UnixSeconds};

/// Events that the outbox keeps, unless told otherwise; older ones are gone for who comes later.
pub const DEFAULT_OUTBOX_EVENTS: u64 = 100_000;

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident => $area:literal, $name:literal;)*) => {
        /// The closed catalogue.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        pub enum EventKind {
            $($(#[$doc])* #[serde(rename = $name)] $kind,)*
        }

        impl EventKind {
            pub const ALL: &'static [Self] = &[$(Self::$kind,)*];

            /// `certs.registered`, `cas.verified` and so on; stable.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }

            /// `certs` or `cas`: the level below `$events`.
            pub const fn area(self) -> &'static str {
                match self { $(Self::$kind => $area,)* }
            }
        }
    };
}

kinds! {
    CertRegistered => "certs", "certs.registered";
    /// Registered at a connection, and waits for an operator.
    CertPending => "certs", "certs.pending";
    CertActivated => "certs", "certs.activated";
    CertRejected => "certs", "certs.rejected";
    /// Pending for too long, and forgotten.
    CertLapsed => "certs", "certs.lapsed";
    CertDeactivated => "certs", "certs.deactivated";
    CertRevoked => "certs", "certs.revoked";
    CertDeleted => "certs", "certs.deleted";
    /// Its tombstone is gone: it may be registered again.
    CertPurged => "certs", "certs.purged";
    /// A new certificate with the same key.
    CertRenewed => "certs", "certs.renewed";
    CertSuperseded => "certs", "certs.superseded";
    CertReinstated => "certs", "certs.reinstated";
    CertQuarantined => "certs", "certs.quarantined";
    CertReleased => "certs", "certs.released";
    /// Binding, tags, attributes, tenant.
    CertChanged => "certs", "certs.changed";
    /// Another CA carries it now.
    CertReparented => "certs", "certs.reparented";
    CertExpiring => "certs", "certs.expiring";
    CertExpired => "certs", "certs.expired";
    CertBindingViolation => "certs", "certs.binding_violation";
    CertSharedDetected => "certs", "certs.shared_detected";
    CertIdentityConflict => "certs", "certs.identity_conflict";
    /// Two certificates of one issuer with one serial number.
    CertIssuerSerialReuse => "certs", "certs.issuer_serial_reuse";
    CertTopicInjection => "certs", "certs.topic_injection";
    CaRegistered => "cas", "cas.registered";
    CaVerified => "cas", "cas.verified";
    CaActivated => "cas", "cas.activated";
    CaDeactivated => "cas", "cas.deactivated";
    CaRetiring => "cas", "cas.retiring";
    CaRetired => "cas", "cas.retired";
    CaRevoked => "cas", "cas.revoked";
    CaDeleted => "cas", "cas.deleted";
    CaChanged => "cas", "cas.changed";
    CaExpiring => "cas", "cas.expiring";
    CaExpired => "cas", "cas.expired";
    CaCrlRefreshed => "cas", "cas.crl_refreshed";
    CaCrlStale => "cas", "cas.crl_stale";
}

/// One event, before it has a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    pub kind: EventKind,
    pub at: UnixMillis,
    pub actor: String,
    pub data: EventData,
}

/// One event of the outbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RegistryEvent {
    /// Rises by one with each event, for as long as the database lives.
    pub sequence: u64,
    pub kind: EventKind,
    pub at: UnixMillis,
    pub actor: String,
    pub data: EventData,
}

/// A piece of the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventsPage {
    pub events: Vec<RegistryEvent>,
    /// Number of the oldest event that is still kept; above `after + 1` means that some were missed.
    pub oldest: u64,
    /// Number of the newest; 0: there was never one.
    pub newest: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum EventData {
    Device(Box<DeviceEventData>),
    Ca(Box<CaEventData>),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeviceEventData {
    pub cert_id: CertificateFingerprint,
    pub ca_id: CertificateFingerprint,
    pub namespace: String,
    pub device_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Before the change; `None`: there was no record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<DeviceState>,
    pub state: DeviceState,
    pub revision: u64,
    pub source: RegistrationSource,
    pub subject: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sans: Vec<String>,
    pub serial: String,
    pub not_before: UnixSeconds,
    pub not_after: UnixSeconds,
    pub spki_sha256: String,
    /// Of a revocation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The certificate that takes its place, or whose place it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other: Option<CertificateFingerprint>,
    #[serde(default, skip_serializing_if = "EventContext::is_empty")]
    pub context: EventContext,
}

/// The connection at which it happened, where it was one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct EventContext {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_ip: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    /// Times that a pending certificate has come since the event before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u64>,
    /// Who decided: `name` or `name@digest`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plugin: Option<String>,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CaEventData {
    pub ca_id: CertificateFingerprint,
    pub name: String,
    pub namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<CaState>,
    pub state: CaState,
    pub revision: u64,
    pub subject: String,
    pub serial: String,
    pub not_after: UnixSeconds,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retiring_until: Option<UnixMillis>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_by: Option<CertificateFingerprint>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl EventContext {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl NewEvent {
    /// About `record` as it is after the change; `from`: as it was.
    pub fn device(
        kind: EventKind,
        from: Option<DeviceState>,
        record: &DeviceCertificate,
        actor: &str,
        at: UnixMillis,
    ) -> Self {
        let data = DeviceEventData {
            cert_id: record.id,
            ca_id: record.ca_id,
            namespace: record.namespace.clone(),
            device_id: record.device_id.clone(),
            client_id: record.client_id.clone(),
            from,
            state: record.state,
            revision: record.revision,
            source: record.source,
            subject: record.subject.clone(),
            sans: record.subject_alt_names.clone(),
            serial: record.serial.clone(),
            not_before: record.not_before,
            not_after: record.not_after,
            spki_sha256: record.spki_sha256.clone(),
            reason: record.revocation_reason.clone(),
            other: record.superseded.map(|superseded| superseded.by),
            context: EventContext::default(),
        };
        Self { kind, at, actor: actor.to_owned(), data: EventData::Device(Box::new(data)) }
    }

    /// About a CA as it is after the change.
    pub fn ca(
        kind: EventKind,
        from: Option<CaState>,
        record: &CaCertificate,
        actor: &str,
        at: UnixMillis,
    ) -> Self {
        let data = CaEventData {
            ca_id: record.id,
            name: record.name.clone(),
            namespace: record.namespace.clone(),
            from,
            state: record.state,
            revision: record.revision,
            subject: record.subject.clone(),
            serial: record.serial.clone(),
            not_after: record.not_after,
            reason: record.revocation_reason.clone(),
            retiring_until: record.retiring_until,
            replaced_by: record.replaced_by,
            detail: None,
        };
        Self { kind, at, actor: actor.to_owned(), data: EventData::Ca(Box::new(data)) }
    }

    /// With what is known of the connection.
    #[must_use]
    pub fn at_connection(mut self, context: EventContext) -> Self {
        if let EventData::Device(data) = &mut self.data {
            data.context = context;
        }
        self
    }

    /// With the certificate that has to do with it.
    #[must_use]
    pub fn with_other(mut self, other: CertificateFingerprint) -> Self {
        if let EventData::Device(data) = &mut self.data {
            data.other = Some(other);
        }
        self
    }
}
