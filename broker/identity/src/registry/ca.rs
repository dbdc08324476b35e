//! The record of a CA: what it is, what it may do, and in which state it is. Which change of it is allowed is
//! the subject of [`super::rules`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DEFAULT_NAMESPACE, DEFAULT_TRUST_DOMAIN};
use crate::certificate::CertificateFingerprint;
use crate::time::{UnixMillis, UnixSeconds};

/// A CA's stored state. That it has expired is seen from its record and the clock, and never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CaState {
    /// Nobody has proved to hold its key: it verifies nothing.
    PendingActivation,
    Active,
    Inactive,
    /// Replaced, and valid beside its successor until [`CaCertificate::retiring_until`].
    Retiring,
    /// Terminal.
    Revoked,
}

impl CaState {
    pub const ALL: [Self; 5] =
        [Self::PendingActivation, Self::Active, Self::Inactive, Self::Retiring, Self::Revoked];

    /// As in metrics, audit records and command lines.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PendingActivation => "pending_activation",
            Self::Active => "active",
            Self::Inactive => "inactive",
            Self::Retiring => "retiring",
            Self::Revoked => "revoked",
        }
    }
}

/// Whether certificates of a CA are registered at their first connection, where the listener and the
/// registrars allow it at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AutoRegistration {
    Off,
    /// They wait for an operator.
    Pending,
    #[default]
    Active,
}

/// What a deactivated CA still carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnDeactivate {
    /// Registered certificates go on connecting.
    BlockNewRegistrations,
    /// Live connections stay.
    #[default]
    BlockNewConnections,
    /// Live connections go at once.
    Disconnect,
}

/// How it was found out that who registered a CA holds its key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum VerifiedBy {
    RegistrationCode,
    /// Not at all: this actor's word was enough.
    Skipped {
        by: String,
    },
}

/// How many certificates a CA may bring in by itself: a token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RegistrationRate {
    /// Registrations per minute, at length.
    pub per_minute: u32,
    /// At once.
    pub burst: u32,
}

/// What an operator sets for each CA. Everything may be left out.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CaSettings {
    pub auto_registration: AutoRegistration,
    pub on_deactivate: OnDeactivate,
    /// Registered certificates that are neither revoked nor deleted; more are not registered at a connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_device_certs: Option<u64>,
    /// Beside the broker's own rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registration_rate: Option<RegistrationRate>,
    /// `ATTRIBUTE=GLOB`, such as `CN=meter-*`: one must fit for an automatic registration. Empty: all do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subject_patterns: Vec<String>,
    /// `TYPE:GLOB`, such as `dns:*.meters.example`: each alternative name must fit one. Empty: all do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub san_patterns: Vec<String>,
    /// Longest validity of a certificate that registers itself, in seconds from its first to its last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_leaf_lifetime_seconds: Option<u64>,
    /// Where its revocation lists are fetched from, besides those of the configuration.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub crl_sources: Vec<String>,
    /// Name of the registrar in the chain that decides about its certificates; without one, all are asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registrar: Option<String>,
}

/// What a CA is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CaUsage {
    /// Its certificates are those of clients.
    #[default]
    ClientAuth,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CaCertificate {
    /// SHA-256 of the DER.
    pub id: CertificateFingerprint,
    /// Unique; the `ca` label of metrics.
    pub name: String,
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// Devices have the same name only if their CAs are in the same trust domain. A new CA is in one of its own
    /// (its id) unless it is told another.
    #[serde(default = "default_trust_domain")]
    pub trust_domain: String,
    pub state: CaState,
    #[serde(default)]
    pub usage: CaUsage,
    #[serde(default)]
    pub settings: CaSettings,
    /// `None`: it is not verified, or was registered before this was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified_by: Option<VerifiedBy>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// RFC 4514 rendering.
    pub subject: String,
    #[serde(default)]
    pub issuer: String,
    /// Hex, big-endian.
    #[serde(default)]
    pub serial: String,
    /// Hex: the same for every certificate with this key.
    #[serde(default)]
    pub spki_sha256: String,
    /// Hex, as in the certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject_key_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority_key_id: Option<String>,
    /// Dotted object identifier.
    #[serde(default)]
    pub key_algorithm: String,
    #[serde(default)]
    pub key_bits: u32,
    #[serde(default)]
    pub is_self_issued: bool,
    pub not_before: UnixSeconds,
    pub not_after: UnixSeconds,
    /// While `RETIRING`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retiring_until: Option<UnixMillis>,
    /// The CA that took its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_by: Option<CertificateFingerprint>,
    /// While `INACTIVE`: how it was deactivated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deactivated: Option<OnDeactivate>,
    /// RFC 5280 reason name, when revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revocation_reason: Option<String>,
    pub created_at: UnixMillis,
    pub updated_at: UnixMillis,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_activated: Option<UnixMillis>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_deactivated: Option<UnixMillis>,
    /// Rises by one with every write; 1 for a new record, 0 for a CA of the configuration.
    pub revision: u64,
    pub pem: String,
}

/// What is left of a CA that was deleted: it is what keeps a revoked one from being registered again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CaTombstone {
    pub id: CertificateFingerprint,
    pub name: String,
    pub subject: String,
    pub not_after: UnixSeconds,
    /// RFC 5280 reason name, if it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revocation_reason: Option<String>,
    pub deleted_at: UnixMillis,
}

impl CaCertificate {
    /// Whether new connections may end their path in it.
    pub fn carries_connections(&self) -> bool {
        match self.state {
            // When a retirement ends is for who keeps its ledger; the state follows.
            CaState::Active | CaState::Retiring => true,
            CaState::Inactive => self.deactivated == Some(OnDeactivate::BlockNewRegistrations),
            CaState::PendingActivation | CaState::Revoked => false,
        }
    }

    /// Whether certificates may be registered under it.
    pub fn carries_registrations(&self) -> bool {
        match self.state {
            CaState::Active => true,
            CaState::PendingActivation | CaState::Inactive | CaState::Retiring | CaState::Revoked => false,
        }
    }

    pub fn is_expired(&self, now: UnixMillis) -> bool {
        now.seconds() > self.not_after
    }
}

pub(super) fn default_namespace() -> String {
    DEFAULT_NAMESPACE.to_owned()
}

pub(super) fn default_trust_domain() -> String {
    DEFAULT_TRUST_DOMAIN.to_owned()
}
