//! Posture checks: what is wrong, or will be, with a broker as it stands, found by pure functions over facts.
//!
//! Owns the closed catalogue of checks and what each looks for. How the facts are gathered, when, and what becomes of
//! a finding is the server's.

mod cas;
mod connections;
mod devices;
mod facts;
#[cfg(test)]
mod tests;
mod ways;
mod weak;

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::devices::{Compared, Comparison};
pub use self::facts::{
    AdminFacts, AuditFacts, CaFacts, CaSource, ConnectionFacts, ConnectionsSeen, CrlFacts, DeviceFacts,
    Facts, ListenerFacts, PluginFacts, RegistrarFacts, RuleFacts, SinkFacts,
};
pub use self::weak::{KeyWeakness, key_weakness};
use crate::time::UnixMillis;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Low,
    Medium,
    High,
    Critical,
}

/// The closed catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Check {
    CaExpiring,
    CaExpiredInUse,
    CaWeakKey,
    CaNoCrl,
    CrlStale,
    CaRevokedButActive,
    CaPublicOrServerChain,
    DeviceCertExpiring,
    DeviceCertLongLived,
    DeviceCertAge,
    DeviceCertWeakKey,
    DeviceKeyReused,
    IssuerSerialReuse,
    CertShared,
    ConflictingClientIds,
    RevokedStillConnected,
    CrlRevokedButActive,
    PendingTooLong,
    NeverSeen,
    Dormant,
    AutoRegistrationWithoutPattern,
    ListenerWithoutTls,
    OptionalClientCert,
    DefaultCertInUse,
    RuleTooBroad,
    PluginUnsigned,
    PluginCapabilityGrew,
    AuditSinkDown,
    AuditNoExternalCheckpoint,
    AdminWithoutMfa,
}

/// What a finding is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Resource {
    /// `ca`, `crl`, `certificate`, `client_id`, `listener`, `plugin`, `rule`, `sink`, `audit` or `admin`.
    pub kind: String,
    /// A fingerprint, or a name.
    pub id: String,
}

/// Something that a check has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub check: Check,
    pub severity: Severity,
    pub resource: Resource,
    /// One sentence.
    pub reason: String,
    /// A command that helps, where there is one.
    pub mitigation: Option<String>,
}

/// When something is too old, or too soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    pub ca_expiring: Duration,
    pub device_expiring: Duration,
    /// Longest validity of a device certificate that is not remarkable.
    pub device_lifetime: Duration,
    /// Longest time since one became valid.
    pub device_age: Duration,
    pub pending: Duration,
    pub never_seen: Duration,
    pub dormant: Duration,
}

const DAY: u64 = 86_400;

impl Default for Thresholds {
    fn default() -> Self {
        let days = |days: u64| Duration::from_secs(days * DAY);
        Self {
            ca_expiring: days(90),
            device_expiring: days(30),
            device_lifetime: days(3_653),
            device_age: days(1_096),
            pending: days(7),
            never_seen: days(90),
            dormant: days(180),
        }
    }
}

/// Looks at everything but the registry's records, which come one after the other: [`judge_device`].
pub fn judge(facts: &Facts, thresholds: &Thresholds, now: UnixMillis) -> Vec<Finding> {
    let mut found = Vec::new();
    cas::judge(facts, thresholds, now, &mut found);
    connections::judge(&facts.connections, &mut found);
    ways::judge(facts, &mut found);
    found
}

/// Looks at one record of the registry.
pub fn judge_device(
    device: &DeviceFacts<'_>,
    compared: &Compared,
    thresholds: &Thresholds,
    now: UnixMillis,
) -> Vec<Finding> {
    let mut found = Vec::new();
    devices::judge(device, compared, thresholds, now, &mut found);
    found
}

impl Severity {
    pub const ALL: [Self; 4] = [Self::Low, Self::Medium, Self::High, Self::Critical];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

impl Check {
    pub const ALL: &[Self] = &[
        Self::CaExpiring,
        Self::CaExpiredInUse,
        Self::CaWeakKey,
        Self::CaNoCrl,
        Self::CrlStale,
        Self::CaRevokedButActive,
        Self::CaPublicOrServerChain,
        Self::DeviceCertExpiring,
        Self::DeviceCertLongLived,
        Self::DeviceCertAge,
        Self::DeviceCertWeakKey,
        Self::DeviceKeyReused,
        Self::IssuerSerialReuse,
        Self::CertShared,
        Self::ConflictingClientIds,
        Self::RevokedStillConnected,
        Self::CrlRevokedButActive,
        Self::PendingTooLong,
        Self::NeverSeen,
        Self::Dormant,
        Self::AutoRegistrationWithoutPattern,
        Self::ListenerWithoutTls,
        Self::OptionalClientCert,
        Self::DefaultCertInUse,
        Self::RuleTooBroad,
        Self::PluginUnsigned,
        Self::PluginCapabilityGrew,
        Self::AuditSinkDown,
        Self::AuditNoExternalCheckpoint,
        Self::AdminWithoutMfa,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CaExpiring => "CA_EXPIRING",
            Self::CaExpiredInUse => "CA_EXPIRED_IN_USE",
            Self::CaWeakKey => "CA_WEAK_KEY",
            Self::CaNoCrl => "CA_NO_CRL",
            Self::CrlStale => "CRL_STALE",
            Self::CaRevokedButActive => "CA_REVOKED_BUT_ACTIVE",
            Self::CaPublicOrServerChain => "CA_PUBLIC_OR_SERVER_CHAIN",
            Self::DeviceCertExpiring => "DEVICE_CERT_EXPIRING",
            Self::DeviceCertLongLived => "DEVICE_CERT_LONG_LIVED",
            Self::DeviceCertAge => "DEVICE_CERT_AGE",
            Self::DeviceCertWeakKey => "DEVICE_CERT_WEAK_KEY",
            Self::DeviceKeyReused => "DEVICE_KEY_REUSED",
            Self::IssuerSerialReuse => "ISSUER_SERIAL_REUSE",
            Self::CertShared => "CERT_SHARED",
            Self::ConflictingClientIds => "CONFLICTING_CLIENT_IDS",
            Self::RevokedStillConnected => "REVOKED_STILL_CONNECTED",
            Self::CrlRevokedButActive => "CRL_REVOKED_BUT_ACTIVE",
            Self::PendingTooLong => "PENDING_TOO_LONG",
            Self::NeverSeen => "NEVER_SEEN",
            Self::Dormant => "DORMANT",
            Self::AutoRegistrationWithoutPattern => "AUTO_REGISTRATION_WITHOUT_PATTERN",
            Self::ListenerWithoutTls => "LISTENER_WITHOUT_TLS",
            Self::OptionalClientCert => "OPTIONAL_CLIENT_CERT",
            Self::DefaultCertInUse => "DEFAULT_CERT_IN_USE",
            Self::RuleTooBroad => "RULE_TOO_BROAD",
            Self::PluginUnsigned => "PLUGIN_UNSIGNED",
            Self::PluginCapabilityGrew => "PLUGIN_CAPABILITY_GREW",
            Self::AuditSinkDown => "AUDIT_SINK_DOWN",
            Self::AuditNoExternalCheckpoint => "AUDIT_NO_EXTERNAL_CHECKPOINT",
            Self::AdminWithoutMfa => "ADMIN_WITHOUT_MFA",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|check| check.as_str().eq_ignore_ascii_case(name))
    }

    /// The severity of most of its findings; where one is worse or better, the finding says so.
    pub const fn severity(self) -> Severity {
        match self {
            Self::CaWeakKey | Self::RevokedStillConnected | Self::CaRevokedButActive => Severity::Critical,
            Self::CaExpiredInUse
            | Self::CrlStale
            | Self::CaPublicOrServerChain
            | Self::DeviceCertWeakKey
            | Self::DeviceKeyReused
            | Self::IssuerSerialReuse
            | Self::CertShared
            | Self::CrlRevokedButActive
            | Self::AutoRegistrationWithoutPattern
            | Self::ListenerWithoutTls
            | Self::RuleTooBroad
            | Self::PluginCapabilityGrew
            | Self::AuditSinkDown
            | Self::AdminWithoutMfa => Severity::High,
            Self::CaExpiring
            | Self::DeviceCertExpiring
            | Self::ConflictingClientIds
            | Self::OptionalClientCert
            | Self::DefaultCertInUse
            | Self::PluginUnsigned
            | Self::AuditNoExternalCheckpoint => Severity::Medium,
            Self::CaNoCrl
            | Self::DeviceCertLongLived
            | Self::DeviceCertAge
            | Self::PendingTooLong
            | Self::NeverSeen
            | Self::Dormant => Severity::Low,
        }
    }

    /// What it looks for, in one sentence.
    pub const fn about(self) -> &'static str {
        match self {
            Self::CaExpiring => "a trusted CA expires soon",
            Self::CaExpiredInUse => "a trusted CA has expired, and device certificates lead to it",
            Self::CaWeakKey => "a trusted CA has a weak key, or a weak signature",
            Self::CaNoCrl => "there is no revocation list of a trusted CA",
            Self::CrlStale => "a revocation list should have been replaced by now",
            Self::CaRevokedButActive => "a trusted CA is on the revocation list of its own issuer",
            Self::CaPublicOrServerChain => {
                "a trusted CA is a public one, or that of the server's own certificate: it signs for strangers"
            }
            Self::DeviceCertExpiring => "an active device certificate expires soon, or has expired",
            Self::DeviceCertLongLived => "an active device certificate is valid for very long",
            Self::DeviceCertAge => "an active device certificate has been in use for long",
            Self::DeviceCertWeakKey => {
                "an active device certificate has a weak key (too short, ROCA, a small factor), or is signed with SHA-1 or MD5"
            }
            Self::DeviceKeyReused => "certificates of different devices have one key",
            Self::IssuerSerialReuse => "two certificates of one issuer have one serial number",
            Self::CertShared => "one certificate is used from several addresses at the same time",
            Self::ConflictingClientIds => "several devices use one client id at the same time",
            Self::RevokedStillConnected => {
                "a certificate that is barred has a live connection; there must be none"
            }
            Self::CrlRevokedButActive => "a certificate that its CA has revoked is active in the registry",
            Self::PendingTooLong => "a certificate waits for its activation for long",
            Self::NeverSeen => "an active certificate was registered long ago and never used",
            Self::Dormant => "an active certificate was not used for long",
            Self::AutoRegistrationWithoutPattern => {
                "unknown certificates register themselves, and nothing but their CA narrows down which"
            }
            Self::ListenerWithoutTls => "a listener that others can reach has no TLS",
            Self::OptionalClientCert => "a listener asks for a certificate and lets clients in without one",
            Self::DefaultCertInUse => "a listener that others can reach shows the built-in certificate",
            Self::RuleTooBroad => "a rule lets clients publish or subscribe to every topic",
            Self::PluginUnsigned => "a component runs without a signature that was checked",
            Self::PluginCapabilityGrew => "a component has got rights that it did not have before",
            Self::AuditSinkDown => "a sink of the audit log takes no records",
            Self::AuditNoExternalCheckpoint => {
                "no checkpoint of the audit log is kept where the broker cannot rewrite it: a cut end is not found out"
            }
            Self::AdminWithoutMfa => {
                "the admin API can be reached by others, and a token alone opens it: no operator's certificate is asked for"
            }
        }
    }

    /// Whether it looks at the registry's records.
    pub const fn is_about_devices(self) -> bool {
        matches!(
            self,
            Self::DeviceCertExpiring
                | Self::DeviceCertLongLived
                | Self::DeviceCertAge
                | Self::DeviceCertWeakKey
                | Self::DeviceKeyReused
                | Self::IssuerSerialReuse
                | Self::RevokedStillConnected
                | Self::CrlRevokedButActive
                | Self::PendingTooLong
                | Self::NeverSeen
                | Self::Dormant
        )
    }

    fn finds(self, kind: &str, id: impl Into<String>, reason: impl Into<String>) -> Finding {
        Finding {
            check: self,
            severity: self.severity(),
            resource: Resource { kind: kind.to_owned(), id: id.into() },
            reason: reason.into(),
            mitigation: None,
        }
    }
}

impl Finding {
    #[must_use]
    fn severe(mut self, severity: Severity) -> Self {
        self.severity = severity;
        self
    }

    #[must_use]
    fn helped_by(mut self, command: impl Into<String>) -> Self {
        self.mitigation = Some(command.into());
        self
    }
}
